from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from support.cluster.faults import ONE, TWO_PROCESSES, Fault
from support.cluster.runs import INPUTS, ClusterProject, Played, Run
from support.cluster.slurm import Cluster

# Most of a fault is waiting: for SLURM, and until Snakemake looks at its jobs again.
AT_ONCE = 6
RESULTS = "rlhf/faults"  # in pytest's cache, where fault_table.py finds them


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster, without accounting."""
    yield from running(Cluster(tmp_path_factory.mktemp("cluster")))


@pytest.fixture(scope="session")
def accounting_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster with slurmdbd and MariaDB."""
    yield from running(Cluster(tmp_path_factory.mktemp("accounting"), accounting=True))


def running(cluster: Cluster) -> Iterator[Cluster]:
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="session")
def prepared(cluster: Cluster) -> ClusterProject:
    """All that the training stages need, made without SLURM; copy it, don't change it."""
    project = ClusterProject.clone_for(cluster, "prepared")
    project.run_command(*project.snakemake_command(*INPUTS, profile="local"))
    return project


class Ahead:
    """Does what tests are about to ask for, some of it at once."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._started: dict[Any, Future[Any]] = {}

    def start(self, key: Any, function: Callable[..., Any], *arguments: Any) -> None:
        """Do something in its turn, unless it was started already."""
        if key not in self._started:
            self._started[key] = self._pool.submit(function, *arguments)

    def result(self, key: Any) -> Any:
        """What came of it, once it is done."""
        return self._started[key].result()

    def close(self) -> None:
        """Do nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@pytest.fixture(scope="session")
def ahead(request: pytest.FixtureRequest) -> Iterator[Ahead]:
    """The faults of all tests that were selected, under way."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    parameters = [call.params.get("fault") for call in calls if call]
    faults = [one for one in parameters if isinstance(one, Fault)]
    names = {True: "accounting_cluster", False: "cluster"}
    clusters = {
        accounting: request.getfixturevalue(names[accounting])
        for accounting in {fault.accounting for fault in faults}
    }
    prepared = request.getfixturevalue("prepared")
    lock = threading.Lock()

    def copy(name: str, cluster: Cluster) -> ClusterProject:
        with lock:
            return prepared.copy_to(cluster, name)

    def undisturbed(rule: str, world: int, engine: str) -> dict[str, bytes]:
        topology = ONE if world == 1 else TWO_PROCESSES
        cluster = {"engine": engine} if engine else {}
        run = Run(copy(f"{rule}-{world}{engine}", prepared.cluster), rule, topology, **cluster)
        run.start("--retries=0")
        run.finish()
        return run.bytes()

    def play(fault: Fault) -> Played:
        expected = ahead.result((fault.rule, fault.topology.world, fault.engine))
        started = time.monotonic()
        run = Run(
            copy(fault.id, clusters[fault.accounting]), fault.rule, fault.topology, **fault.cluster
        )
        fault.play(run)
        seconds = time.monotonic() - started
        return Played(run.bytes(), expected, run.resumed_after(), seconds)

    ahead = Ahead()
    for key in [(one.rule, one.topology.world, one.engine) for one in faults]:
        ahead.start(key, undisturbed, *key)  # first: the others wait for these
    for fault in faults:
        ahead.start(fault.id, play, fault)
    yield ahead
    ahead.close()


@pytest.fixture
def played(fault: Fault, ahead: Ahead, record_property: Callable[[str, object], None]) -> Played:
    """What came of the test's fault."""
    record_property("fault", fault.id)
    played: Played = ahead.result(fault.id)
    record_property("seconds", round(played.seconds, 1))
    return played


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Keep the results of the faults, for the table in the documentation."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    results = dict(session.config.cache.get(RESULTS, {}))
    for outcome in ("passed", "failed", "error"):
        for report in reporter.stats.get(outcome, []):
            properties = dict(getattr(report, "user_properties", []))
            if "fault" in properties:
                results[properties.pop("fault")] = {"outcome": outcome, **properties}
    session.config.cache.set(RESULTS, results)

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from faults import ONE, TWO_PROCESSES, Fault
from runs import FINISHED, ClusterProject, Run
from slurm import Cluster

# A fault is mostly waiting: for SLURM, for Snakemake to look at its jobs, for Python to import.
AT_ONCE = 3
RESULTS = "rlhf/faults"  # in pytest's cache; fault_table.py reads it


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
def finished(cluster: Cluster) -> ClusterProject:
    """The tiny pipeline, run to its end by ``snakemake --profile slurm``; copy, don't change it."""
    project = ClusterProject.clone_for(cluster, "finished")
    project.run_command(*project.snakemake_command(FINISHED), seconds=600)
    return project


@dataclass(frozen=True)
class Played:
    """What came of a fault.

    Attributes:
        found: the run's files.
        expected: the files of the same run, undisturbed.
        jobs: number of jobs that it took.
        seconds: how long it took.
    """

    found: dict[str, bytes]
    expected: dict[str, bytes]
    jobs: int
    seconds: float


class Stage:
    """Plays faults ahead of their tests, some at once."""

    def __init__(self, finished: ClusterProject) -> None:
        self._finished, self._lock = finished, threading.Lock()
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._undisturbed: dict[tuple[str, int], Future[dict[str, bytes]]] = {}
        self._played: dict[str, Future[Played]] = {}

    def announce(self, faults: list[Fault]) -> None:
        """Start to play faults; first what they are compared with, for they wait for it."""
        for fault in faults:
            key = (fault.rule, fault.topology.world)
            if key not in self._undisturbed:
                self._undisturbed[key] = self._pool.submit(self._run_undisturbed, *key)
        for fault in faults:
            self._played[fault.id] = self._pool.submit(self._play, fault)

    def outcome(self, fault: Fault) -> Played:
        """What came of a fault that was announced."""
        return self._played[fault.id].result()

    def close(self) -> None:
        """Play nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _copy(self, name: str) -> ClusterProject:
        with self._lock:
            return self._finished.copy_as(name)

    def _run_undisturbed(self, rule: str, world: int) -> dict[str, bytes]:
        topology = ONE if world == 1 else TWO_PROCESSES
        run = Run(self._copy(f"undisturbed-{rule}-{world}"), rule, topology)
        run.go_on()
        return run.bytes()

    def _play(self, fault: Fault) -> Played:
        expected = self._undisturbed[fault.rule, fault.topology.world].result()
        started = time.monotonic()
        run = Run(self._copy(fault.id), fault.rule, fault.topology, **fault.cluster)
        fault.play(run)
        seconds = time.monotonic() - started
        return Played(run.bytes(), expected, len(run.project.jobs()), seconds)


@pytest.fixture(scope="session")
def stage(request: pytest.FixtureRequest, finished: ClusterProject) -> Iterator[Stage]:
    """Plays the faults of all tests that were selected."""
    stage = Stage(finished)
    parameters = [getattr(item, "callspec", None) for item in request.session.items]
    stage.announce([one.params["fault"] for one in parameters if one and "fault" in one.params])
    yield stage
    stage.close()


@pytest.fixture
def outcome(fault: Fault, stage: Stage, record_property) -> Played:
    """What came of the test's fault."""
    record_property("fault", fault.id)
    played = stage.outcome(fault)
    record_property("jobs", played.jobs)
    record_property("seconds", round(played.seconds, 1))
    return played


@pytest.hookimpl(trylast=True)
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

"""Named random streams: which the product uses, that they differ, and that there are no others."""

from __future__ import annotations

import ast
import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhf.core.seeds import derived_seed, generator, row_draws
from rlhf.training.determinism import seed_everything

REPOSITORY = Path(__file__).resolve().parents[3]
SEEDS = REPOSITORY / "workflow/rlhf/core/seeds.py"
NAMED = {"generator", "derived_seed", "row_draws"}
GENERATORS = {  # constructors, whatever module they come from
    "default_rng", "RandomState", "SeedSequence", "MT19937", "PCG64", "PCG64DXSM", "Philox",
    "SFC64", "Random", "SystemRandom",
}  # fmt: skip
SEEDING = {"seed", "manual_seed", "manual_seed_all"}


def calls(source: str) -> list[tuple[str, ast.Call]]:
    """Name of each function that is called, without its module, and the call."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [(ast.unparse(call.func).rpartition(".")[2], call) for call in found]


def product() -> dict[str, str]:
    """Source of each module but the one of the streams."""
    paths = [path for path in (REPOSITORY / "workflow").rglob("*.py") if path != SEEDS]
    assert len(paths) > 100
    return {str(path.relative_to(REPOSITORY)): path.read_text(encoding="utf-8") for path in paths}


def purposes() -> list[str]:
    """The purpose of every stream, once for each place that draws from it."""
    found = []
    for source in product().values():
        for name, call in calls(source):
            if name in NAMED:
                assert isinstance(call.args[1], ast.Constant), ast.unparse(call)
                found.append(call.args[1].value)
    return found


def own_generators(source: str) -> list[str]:
    """Calls that make or seed a generator without a named stream."""
    return [
        f"{call.lineno}: {ast.unparse(call)}"
        for name, call in calls(source)
        if name in GENERATORS
        or (name in SEEDING and not any("derived_seed(" in ast.unparse(a) for a in call.args))
    ]


def test_every_place_that_draws_has_a_purpose_of_its_own():
    found = purposes()
    assert {"rollout", "minibatches", "order of an epoch", "evaluation", "bootstrap"} <= {*found}
    assert sorted(found) == sorted(set(found))


def test_no_two_streams_are_the_same():
    """Each purpose with no counter to three: updates, epochs, ranks; and for several seeds."""
    counters = [
        counter for count in range(4) for counter in itertools.product(range(4), repeat=count)
    ]
    streams = [
        (seed, purpose, *counter)
        for seed in (0, 1, 7)
        for purpose in purposes()
        for counter in counters
    ]
    first = {generator(*stream).bytes(16) for stream in streams}
    assert len(first) == len(streams) > 1000
    assert len({derived_seed(*stream) for stream in streams}) == len(streams)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((7, "rollout"), (7, "rollout", 0)),  # numpy pads with zeros
        ((7, "rollout", 3), (7, "rollout", 3, 0, 0)),
        ((7, "rollout", 1, 2), (7, "rollout", 2, 1)),
        ((7, "rollout", 12), (7, "rollout", 1, 2)),
        ((7, "rollout", 1), (71, "rollout")),
        ((7, "rollout 1"), (7, "rollout", 1)),
        ((7, "a"), (7, "b")),
        ((7, "a"), (8, "a")),
        ((7, "a"), (7 + 2**32, "a")),
        ((7, "a"), (-7, "a")),
    ],
)
def test_streams_are_told_apart_by_each_of_their_parts(one, other):
    ours, theirs = (generator(*stream).random(8) for stream in (one, other))
    assert not np.isin(ours, theirs).any()
    assert derived_seed(*one) != derived_seed(*other)


def test_numbers_alone_would_collide():
    short, padded = (np.random.default_rng(seed).random(4) for seed in ([7, 3], [7, 3, 0, 0]))
    assert (short == padded).all()


def test_a_stream_is_the_same_each_time_and_everywhere():
    assert (generator(7, "a", 3).random(8) == generator(7, "a", 3).random(8)).all()
    assert generator(0, "rollout", 1).integers(1000, size=4).tolist() == [536, 768, 810, 754]
    assert derived_seed(0, "score head") == 6981893194337097516
    assert row_draws(7, "tags", "row-1").random() == random.Random("7/tags/row-1").random()


def test_a_derived_seed_fits_every_generator():
    for purpose in ("a", "b", "c", "d"):
        torch.Generator().manual_seed(derived_seed(7, purpose))
        assert 0 <= derived_seed(7, purpose) < 2**64


def test_the_generators_of_a_process_share_no_stream():
    """numpy's old generator and torch's are both Mersenne Twisters: one seed, one state."""
    seed_everything(3)
    numpy_state, python_state = np.random.get_state()[1], random.getstate()[1][:-1]
    torch_state = np.frombuffer(torch.get_rng_state().numpy().tobytes(), np.uint64)[3:627]
    states = [set(map(int, state)) for state in (numpy_state, python_state, torch_state)]
    for one, other in itertools.combinations(states, 2):
        assert len(one & other) < 3


def test_no_other_module_makes_a_generator():
    found = {
        path: problems for path, source in product().items() if (problems := own_generators(source))
    }
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "np.random.default_rng(7)",
        "numpy.random.default_rng([seed, 3])",
        "np.random.Generator(np.random.PCG64(7))",
        "np.random.seed(seed)",
        "torch.manual_seed(seed)",
        "torch.Generator().manual_seed(0)",
        "torch.cuda.manual_seed_all(seed)",
        "Random(seed)",
        "random.seed()",
    ],
)
def test_each_of_these_would_be_found(line):
    assert own_generators(line)


@pytest.mark.parametrize(
    "line",
    [
        'generator(seed, "rollout", update)',
        'torch.manual_seed(derived_seed(seed, "torch"))',
        'np.random.seed(derived_seed(seed, "numpy") % 2**32)',
    ],
)
def test_these_would_not(line):
    assert own_generators(line) == []

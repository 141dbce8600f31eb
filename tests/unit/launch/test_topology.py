from __future__ import annotations

import pytest

from rlhf.errors import RlhfError
from rlhf.launch.topology import plan

SERVED = "--serve reward=/r --serve reference=/f"
EIGHT = tuple("abcdefgh")


def test_the_classical_node_of_eight(options):
    found = plan(options(f"--gpus 8 --server-gpus 1 {SERVED}"), EIGHT)
    assert (found.ranks, found.world) == (6, 6)
    assert found.rank_gpus == tuple("abcdef")
    assert found.server_gpus == {"reward": ("g",), "reference": ("h",)}


def test_larger_servers_on_two_nodes(options):
    found = plan(options(f"--nodes 2 --gpus 8 --server-gpus 3 {SERVED}"), EIGHT)
    assert (found.ranks, found.world) == (2, 4)
    assert found.rank_gpus == ("a", "b")
    assert found.server_gpus == {"reward": tuple("cde"), "reference": tuple("fgh")}


def test_servers_that_share_the_gpus_of_the_ranks(options):
    found = plan(options(f"--gpus 2 --processes 2 {SERVED}"), ("a", "b"))
    assert found.ranks == 2
    assert found.server_gpus == {"reward": ("a", "b"), "reference": ("a", "b")}
    alone = plan(options(f"--gpus 1 {SERVED}"), ("a",))
    assert (alone.ranks, alone.server_gpus) == (1, {"reward": ("a",), "reference": ("a",)})


def test_a_sampler_has_as_many_gpus_as_the_other_servers(options):
    found = plan(options(f"--gpus 8 --server-gpus 2 {SERVED} --sampler /m"), EIGHT)
    assert found.rank_gpus == ("a", "b")
    assert found.server_gpus["sampler"] == ("g", "h")
    alone = plan(options("--gpus 2 --sampler /m"), ("a", "b"))
    assert (alone.ranks, alone.server_gpus) == (2, {"sampler": ("a", "b")})


def test_the_cpu(options):
    found = plan(options(f"--nodes 2 --processes 3 --server-gpus 1 {SERVED}"), ())
    assert (found.ranks, found.world, found.rank_gpus) == (3, 6, ())
    assert found.server_gpus == {"reward": (), "reference": ()}
    assert plan(options(), ()).ranks == 1


def test_a_single_rank_may_have_several_gpus(options):
    found = plan(options("--gpus 4 --processes 1"), EIGHT[:4])
    assert (found.ranks, found.rank_gpus) == (1, EIGHT[:4])


def test_gpus_without_servers_are_all_for_ranks(options):
    assert plan(options("--gpus 4 --server-gpus 1"), EIGHT[:4]).ranks == 4


@pytest.mark.parametrize(
    ("line", "said", "to_do"),
    [
        (f"--gpus 2 --server-gpus 1 {SERVED}", "leave none of 2 for the ranks", "at least 3"),
        (f"--gpus 8 --processes 8 --server-gpus 1 {SERVED}", "8 ranks on 6 GPUs", "--processes 6"),
        ("--gpus 4 --processes 2", "2 ranks on 4 GPUs", "--processes 4"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(options, line, said, to_do):
    one = options(line)
    with pytest.raises(RlhfError, match=said) as caught:
        plan(one, EIGHT[: one.gpus])
    assert to_do in str(caught.value)

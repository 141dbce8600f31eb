"""Work shared by real processes: order, few items held, and what a failure looks like."""

from __future__ import annotations

import os
import signal
import time

import pytest

from rlhf.errors import DataError, RlhfError
from rlhf.runtime.pool import AHEAD, in_order


class Work:
    """Squares numbers, the even ones slowly; keeps count of what it has done.

    With a folder, 0 takes until as many processes as given are at work.
    """

    def __init__(self, folder=None, processes=1):
        self.folder, self.processes = folder, processes
        self.done = 0

    def __call__(self, number):
        if self.folder:
            (self.folder / str(os.getpid())).touch()
            while number == 0 and len(list(self.folder.iterdir())) < self.processes:
                time.sleep(0.01)
        time.sleep(0.02 * (number % 2 == 0))
        self.done += 1
        return number**2, os.getpid(), self.done, os.environ.get("TOKENIZERS_PARALLELISM")


def fail(number):
    if number == 3:
        raise DataError("Three.", where="row 3", expected="another number")
    return number


def die(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_results_come_in_order(processes, tmp_path):
    with in_order(Work(tmp_path, processes), range(20), processes) as results:
        found = list(results)
    assert [square for square, *_ in found] == [number**2 for number in range(20)]
    workers = {pid for _, pid, *_ in found}
    if processes < 2:
        assert workers == {os.getpid()}
    else:
        assert len(workers) == 2
        assert os.getpid() not in workers
        assert max(done for *_, done, _ in found) > 1  # the work is kept from item to item
        assert {parallel for *_, parallel in found} == {"false"}


def test_items_are_taken_as_results_are():
    taken = []
    with in_order(Work(), (taken.append(n) or n for n in range(100)), 2) as results:
        assert len(taken) == 2 * AHEAD
        next(results)
        assert len(taken) == 2 * AHEAD + 1


def test_an_error_comes_as_it_was_raised():
    with pytest.raises(DataError) as caught, in_order(fail, range(10), 2) as results:
        list(results)
    assert (caught.value.what, caught.value.where) == ("Three.", "row 3")
    assert str(caught.value).splitlines()[-1] == "  expected: another number"


def test_a_killed_process_is_an_error():
    with pytest.raises(RlhfError, match="was killed"), in_order(die, range(10), 2) as results:
        list(results)

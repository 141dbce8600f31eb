"""Every fault that a cluster brings: the run ends with the bytes that it would have had."""

from __future__ import annotations

import pytest
from support.cluster.faults import FAULTS, Fault
from support.cluster.runs import Played


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_final_bytes_are_those_of_the_undisturbed_run(fault: Fault, played: Played) -> None:
    assert bool(played.resumed) == fault.resumes
    assert played.found.keys() == played.expected.keys()
    differ = [name for name in played.found if played.found[name] != played.expected[name]]
    assert not differ

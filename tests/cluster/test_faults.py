"""Every fault that a cluster brings: the run ends with the bytes that it would have had."""

from __future__ import annotations

import pytest
from conftest import Played
from faults import FAULTS, Fault


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_final_bytes_are_those_of_the_undisturbed_run(fault: Fault, outcome: Played) -> None:
    assert outcome.found.keys() == outcome.expected.keys()
    differ = [name for name in outcome.found if outcome.found[name] != outcome.expected[name]]
    assert not differ

"""Which validated weights are kept, and when training ends early."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from rlhf.config.offline import SelectionConfig
from rlhf.errors import ConfigError, IntegrityError
from rlhf.training.checkpoints import Checkpoints
from rlhf.training.selection import Selection


def chosen(values, **config):
    """Selections that say so, step by step, and the first step with ``stopped``."""
    selection = Selection(SelectionConfig(**config), "sft.x")
    measure = config.get("measure", "validation_loss")
    best, stopped = [], None
    for step, value in enumerate(values, start=1):
        if selection.note(step, {measure: value}):
            best.append(step)
        if selection.stopped and stopped is None:
            stopped = step
    assert selection.kept_step == (best[-1] if best else None)
    return best, stopped


def test_losses_fall_and_other_figures_rise():
    values = [3.0, 2.0, 4.0, 1.0]
    assert chosen(values, keep="best") == ([1, 2, 4], None)
    assert chosen(values, keep="best", measure="validation_loss/a") == ([1, 2, 4], None)
    assert chosen(values, keep="best", measure="validation_cross_entropy") == ([1, 2, 4], None)
    assert chosen(values, keep="best", measure="validation_accuracy/loss") == ([1, 3], None)
    assert chosen([1.0, 1.0], keep="best") == ([1], None), "the first of equals"


def test_last_keeps_nothing():
    assert chosen([3.0, 2.0, 1.0]) == ([], None)
    assert chosen([3.0, 2.0, 2.0, 2.0], patience=2) == ([], 4)


def test_patience_counts_what_is_no_gain():
    assert chosen([3.0, 2.9, 2.8, 2.7], keep="best", patience=2) == ([1, 2, 3, 4], None)
    # Less than the least gain is none, but added up it is one: from 3.0 to 2.7.
    assert chosen([3.0, 2.9, 2.8, 2.75], keep="best", patience=3, minimum_gain=0.25) == (
        [1, 2, 3, 4], None,
    )  # fmt: skip
    assert chosen([3.0, 2.9, 2.8, 2.7], keep="best", patience=2, minimum_gain=0.25) == (
        [1, 2, 3, 4], 3,
    )  # fmt: skip


def test_what_was_seen_goes_on_with_the_run():
    config = SelectionConfig(keep="best", patience=2)
    first, second = Selection(config, "x"), Selection(config, "x")
    first.note(1, {"validation_loss": 1.0})
    first.note(2, {"validation_loss": 2.0})
    second.restore(first.state())
    assert (second.best_step, second.waited) == (1, 1)
    assert not second.note(3, {"validation_loss": 1.5})
    assert second.stopped


def test_figures_have_to_be_there():
    selection = Selection(SelectionConfig(keep="best", measure="validation_acuracy"), "reward.x")
    with pytest.raises(ConfigError, match="validation_accuracy, validation_loss") as refused:
        selection.check({"validation_loss": 1.0, "validation_accuracy": 0.5})
    assert refused.value.where == "reward.x: selection.measure"
    with pytest.raises(ConfigError, match=r"no held-out rows(.|\n)*validation_fraction"):
        selection.check({})
    Selection(SelectionConfig(), "x").check({})


@pytest.mark.parametrize(("values", "message"), [
    ({"minimum_gain": 0.1}, "there is no patience"),
    ({"measure": "validation_accuracy"}, "measure chooses nothing"),
    ({"keep": "best", "measure": "loss"}, "pattern"),
    ({"patience": 0}, "greater than or equal to 1"),
])  # fmt: skip
def test_settings_that_say_nothing_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        SelectionConfig(**values)


def test_states_that_others_need_are_kept_as_long_as_these(tmp_path):
    states = Checkpoints(tmp_path, {"seed": 1})

    def kept():
        return [int(path.name[5:]) for path in sorted(states.folder.glob("step-*"))]

    for step, needs, expected in (
        (1, 1, [1]),
        (2, 1, [1, 2]),
        (3, 1, [1, 2, 3]),
        (4, 4, [1, 3, 4]),  # the state before the last needs the first one still
        (5, 4, [4, 5]),
        (6, None, [4, 5, 6]),
        (7, None, [6, 7]),
    ):
        states.save(step, {"value": step}, needs=needs)
        assert kept() == expected, step
    assert states.load() == (7, {"value": 7})


def test_damaged_best_weights_are_no_result(tmp_path):
    states = Checkpoints(tmp_path, {"seed": 1})
    states.save(1, {"value": 1}, needs=1)
    (states.folder / "step-00000001" / "rank-00000.json").write_text("{}")
    with pytest.raises(IntegrityError, match="does not match its digest"):
        states.load_weights(1, engine=None)
    with pytest.raises(IntegrityError, match="best weights can't be read"):
        states.load_weights(2, engine=None)

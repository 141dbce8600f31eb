from __future__ import annotations

import json
import math
import os
import shutil
import stat

import pytest
import torch

from rlhf.errors import RlhfError
from rlhf.runtime.options import RunOptions
from rlhf.training import checkpoints as module
from rlhf.training.checkpoints import SEAL, Checkpoints
from rlhf.training.run import TrainingRun

TENSORS, VALUES = module.TENSORS.format(0), module.VALUES.format(0)  # of the only rank
TYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8,
    torch.int16, torch.int32, torch.int64, torch.bool,
]  # fmt: skip


def same(left, right):
    """Equal in type, order, structure and every bit."""
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        assert torch.equal(left.contiguous().view(-1).view(torch.uint8),
                           right.contiguous().view(-1).view(torch.uint8))  # fmt: skip
    elif isinstance(left, dict):
        assert list(left) == list(right)
        assert [type(key) for key in left] == [type(key) for key in right]
        for key in left:
            same(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            same(one, other)
    elif isinstance(left, float) and math.isnan(left):
        assert math.isnan(right)
    else:
        assert left == right


def roundtrip(folder, state):
    Checkpoints(folder, {}).save(1, state)
    step, found = Checkpoints(folder, {}).load()
    assert step == 1
    return found


def test_nested_states_come_back_exactly(tmp_path):
    """Checklist 40"""
    state = {
        "floats": [0.1, 1 / 3, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan],
        "integers": [0, -1, 2**63, 10**40],
        "others": {"none": None, "true": True, "one": 1, "text": "ä\u2028\x00/'\n"},
        "tuples": ((1, 2), (), [(), [3]], {"deep": ({"x": (1.0,)},)}),
        3: {0: "integer key", "0": "text key", -1: [], "": {}},
        "__tensor__": {"__dict__": [1], "__list__": "a", "__tuple__": 0},
    }
    same(roundtrip(tmp_path, state), state)


@pytest.mark.parametrize("dtype", TYPES)
def test_tensors_of_every_type_come_back_exactly(tmp_path, dtype):
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)) * 50
    state = {
        "matrix": values.to(dtype),
        "transposed": values.t().to(dtype),
        "scalar": values[0, 0].to(dtype).clone(),
        "empty": torch.empty(0, 5, dtype=dtype),
        "deep": [{1: (values[0].to(dtype).clone(),)}],
    }
    same(roundtrip(tmp_path, state), state)


def test_odd_bits_survive(tmp_path):
    state = {"t": torch.tensor([math.nan, -0.0, math.inf, 1e-45, 0.1])}
    same(roundtrip(tmp_path, state), state)


def test_keys_that_look_alike_keep_their_own_tensors(tmp_path):
    state = {
        "a": {1: torch.tensor([1]), "1": torch.tensor([2])},
        "a/b": torch.tensor([3]),
        "a'": {"b": torch.tensor([4])},
        "x": {"y": {"z": torch.tensor([5])}, "y/z": torch.tensor([6])},
    }
    same(roundtrip(tmp_path, state), state)


def test_parameters_are_saved_as_they_are_now(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(3))
    found = roundtrip(tmp_path, {"p": parameter})["p"]
    with torch.no_grad():
        parameter.zero_()
    assert found.tolist() == [1, 1, 1]
    assert not found.requires_grad


def test_what_cannot_be_saved_is_named(tmp_path):
    checkpoints = Checkpoints(tmp_path, {})
    with pytest.raises(TypeError, match=r"/a/0: a set"):
        checkpoints.save(1, {"a": [{1, 2}]})
    assert checkpoints.load() is None


def folders(checkpoints):
    return sorted(p.name for p in checkpoints.folder.iterdir() if p.is_dir())


def test_two_states_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, {}, keep=2)
    assert checkpoints.load() is None
    for step in (5, 9, 10, 123):
        checkpoints.save(step, {"step": step})
    assert folders(checkpoints) == ["step-00000010", "step-00000123"]
    assert checkpoints.load() == (123, {"step": 123})
    one = Checkpoints(tmp_path, {"keep": "never fewer than two"}, keep=1)
    for step in (1, 2, 3):
        one.save(step, {})
    assert len(folders(one)) == 2


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(1, {"a": torch.zeros(2)})
    checkpoints.save(1, {"a": torch.ones(2)})
    assert checkpoints.load()[1]["a"].tolist() == [1, 1]
    assert folders(checkpoints) == ["step-00000001"]


def test_another_identity_has_states_of_its_own(tmp_path):
    Checkpoints(tmp_path, {"code": "a"}).save(1, {"x": 1})
    assert Checkpoints(tmp_path, {"code": "b"}).load() is None
    again = Checkpoints(tmp_path, {"code": "a"})
    assert again.load() == (1, {"x": 1})
    assert json.loads((again.folder / "identity.json").read_text()) == {"code": "a"}


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped tensor": lambda folder: flip(folder / TENSORS),
    "flipped value": lambda folder: flip(folder / VALUES),
    "flipped seal": lambda folder: flip(folder / SEAL),
    "truncated tensors": lambda folder: os.truncate(folder / TENSORS, 40),
    "truncated values": lambda folder: os.truncate(folder / VALUES, 5),
    "empty tensors": lambda folder: os.truncate(folder / TENSORS, 0),
    "empty seal": lambda folder: os.truncate(folder / SEAL, 0),
    "no seal": lambda folder: (folder / SEAL).unlink(),
    "no tensors": lambda folder: (folder / TENSORS).unlink(),
    "no values": lambda folder: (folder / VALUES).unlink(),
    "empty folder": lambda folder: [p.unlink() for p in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_gives_way_to_the_one_before(tmp_path, damage, caplog):
    checkpoints = Checkpoints(tmp_path, {})
    for step in (1, 2):
        checkpoints.save(step, {"t": torch.full((50,), float(step)), "step": step})
    DAMAGES[damage](checkpoints.folder / "step-00000002")
    checkpoints = Checkpoints(tmp_path, {})
    step, state = checkpoints.load()
    assert (step, state["step"]) == (1, 1)
    assert state["t"].tolist() == [1.0] * 50
    assert "damaged" in caplog.text
    assert "step-00000002" in caplog.text


def test_no_sound_state_is_no_state(tmp_path):
    checkpoints = Checkpoints(tmp_path, {})
    for step in (1, 2):
        checkpoints.save(step, {"step": step})
        (checkpoints.folder / f"step-{step:08d}" / SEAL).unlink()
    assert checkpoints.load() is None


def test_a_damaged_state_takes_no_sound_ones_place(tmp_path):
    checkpoints = Checkpoints(tmp_path, {})
    for step in (10, 20):
        checkpoints.save(step, {"step": step})
    flip(checkpoints.folder / "step-00000020" / VALUES)
    checkpoints = Checkpoints(tmp_path, {})
    assert checkpoints.load()[0] == 10
    checkpoints.save(15, {"step": 15})
    assert folders(checkpoints) == ["step-00000010", "step-00000015"]
    flip(checkpoints.folder / "step-00000015" / VALUES)
    assert checkpoints.load() == (10, {"step": 10})


def test_a_half_written_state_is_cleared_away(tmp_path):
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(1, {"step": 1})
    whole = checkpoints.folder / "step-00000001"
    for left in (".step-00000002.abc.tmp", ".step-00000001.abc.old"):
        shutil.copytree(whole, checkpoints.folder / left)
    assert checkpoints.load()[0] == 1
    again = Checkpoints(tmp_path, {})
    assert again.load() == (1, {"step": 1})
    assert folders(again) == ["step-00000001"]


def test_states_are_private(tmp_path):
    root = tmp_path / "state" / "sft"
    run = TrainingRun(options(root), 2, lambda: {"t": torch.zeros(1)}, dict)
    run.record({"loss": 1.0}, 1)
    run.sample({"text": "a conversation"})
    run.finish_step(1, 1)
    TrainingRun(options(root), 2, dict, dict)  # goes on
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")]}
    assert len(modes) > 6
    assert modes == {path: 0o700 if path.is_dir() else 0o600 for path in modes}


def options(state):
    return RunOptions("sft.x", state, {}, save_steps=1)


def test_a_full_disk_is_explained_and_loses_nothing(small_disk):
    value = {"t": torch.arange(100_000, dtype=torch.float32)}  # 0.4 MB

    def restore(state):
        value["t"] = state["t"]

    run = TrainingRun(options(small_disk / "state"), 10, lambda: value, restore)
    run.record({"loss": 1.0}, 1)
    run.finish_step(1, 1)
    value["t"] = torch.zeros(600_000)  # 2.4 MB
    run.record({"loss": 2.0}, 2)
    with pytest.raises(RlhfError, match=r"after step 2 could not be saved") as error:
        run.finish_step(2, 1)
    assert "o space left" in error.value.what
    assert "make room" in error.value.hint
    assert folders(run._checkpoints) == ["step-00000001"]
    again = TrainingRun(options(small_disk / "state"), 10, lambda: value, restore)
    assert again.start == 1
    assert torch.equal(value["t"], torch.arange(100_000, dtype=torch.float32))
    assert again.journals["metrics"].records() == [{"loss": 1.0}]
    again.finish_step(2, 1)
    assert folders(again._checkpoints) == ["step-00000001", "step-00000002"]


def fill_up(descriptor):
    while True:
        os.write(descriptor, b"x" * 4096)


def test_a_disk_that_fills_up_with_small_files_is_explained_too(small_disk):
    run = TrainingRun(options(small_disk / "state"), 10, lambda: {"x": list(range(2000))}, dict)
    run.finish_step(1, 1)
    filler = os.open(small_disk / "filler", os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError, match="space"):
        fill_up(filler)
    os.close(filler)
    with pytest.raises(RlhfError, match="could not be saved"):
        run.finish_step(2, 1)
    with pytest.raises(RlhfError, match="The metrics of step 3 could not be saved: No space left"):
        run.record({"loss": "x" * 4096}, 3)
    (small_disk / "filler").unlink()
    assert TrainingRun(options(small_disk / "state"), 10, dict, dict).start == 1

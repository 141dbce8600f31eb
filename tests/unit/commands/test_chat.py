import json
import shutil

import pytest

from rlhf.cli import main
from rlhf.commands.chat import Chat

SHORT = ["--max-new-tokens", "8"]


def answers(monkeypatch, *lines):
    pending = iter(lines)

    def give(_prompt):
        try:
            return next(pending)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", give)


def test_answers_once_and_the_same_each_time(model, capsys):
    outs = []
    for _ in range(2):
        assert main(["chat", str(model), "--prompt", "How many legs?", *SHORT]) == 0
        outs.append(capsys.readouterr().out)
    assert outs[0] == outs[1]
    assert "<|im_" not in outs[0]


def test_seed_and_greedy_matter(model, capsys):
    outs = set()
    for extra in (["--seed", "0"], ["--seed", "1"], ["--greedy"]):
        main(["chat", str(model), "--prompt", "How many legs?", *SHORT, *extra])
        outs.add(capsys.readouterr().out)
    assert len(outs) == 3


def test_what_is_drawn_and_where_an_answer_ends(model, capsys):
    def answer(*extra):
        assert main(["chat", str(model), "--prompt", "How many legs?", *SHORT, *extra]) == 0
        return capsys.readouterr().out[:-1]

    plain, greedy = answer(), answer("--greedy")
    for extra in (["--top-k", "1"], ["--top-p", "1e-6"], ["--min-p", "1"]):
        assert answer(*extra) == greedy != plain
    middle = len(plain) // 2
    stopped = answer("--stop", plain[middle : middle + 2])
    assert plain.startswith(stopped)
    assert len(stopped) <= middle
    assert plain.startswith(answer("--stop", plain[:1], "--min-new-tokens", "1"))
    with pytest.raises(SystemExit):
        answer("--stop", "")


def test_takes_an_artifacts_folder(model, capsys):
    assert main(["chat", str(model.parent), "--prompt", "Legs?", *SHORT, "--greedy"]) == 0


def test_conversation_remembers_and_forgets(model):
    chat = Chat(model, 8, 0.0, 0)
    first = chat.say("How many legs?")
    assert [message.role for message in chat._history] == ["user", "assistant"]
    chat.say("And eyes?")
    assert len(chat._history) == 4
    chat.reset()
    assert chat.say("How many legs?") == first


def test_interactive(model, monkeypatch, capsys):
    answers(monkeypatch, "How many legs?", "", "/reset", "How many legs?", "/quit", "never asked")
    assert main(["chat", str(model), "--greedy", *SHORT]) == 0
    lines = capsys.readouterr().out.splitlines()
    welcome, *rest = lines
    assert "/reset" in welcome
    cut = rest.index("(forgotten)")
    assert rest[:cut] == rest[cut + 1 :]


def test_end_of_input_ends_the_conversation(model, monkeypatch, capsys):
    answers(monkeypatch)
    assert main(["chat", str(model)]) == 0


def test_too_long(model, monkeypatch, capsys):
    answers(monkeypatch, "How many legs?")
    assert main(["chat", str(model), "--max-new-tokens", "1000000"]) == 0
    assert "does not fit" in capsys.readouterr().out


@pytest.mark.parametrize("extra", [["--max-new-tokens", "0"], ["--temperature", "-1"]])
def test_numbers_out_of_range(model, extra, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["chat", str(model), "--prompt", "x", *extra])
    assert stop.value.code == 2
    assert extra[0] in capsys.readouterr().err


@pytest.mark.parametrize("config", ["{", "[]", '{"model_type": "llama"}'])
def test_a_damaged_model(tmp_path, config, capsys):
    (tmp_path / "config.json").write_text(config)
    assert main(["chat", str(tmp_path), "--prompt", "x"]) == 2
    assert "can't be loaded" in capsys.readouterr().err


def test_weights_that_are_none(model, tmp_path, capsys):
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"garbage" * 10)
    assert main(["chat", str(folder), "--prompt", "x"]) == 2
    assert "can't be loaded" in capsys.readouterr().err


def test_a_prompt_that_is_not_utf8(model, capsys):
    assert main(["chat", str(model), "--prompt", "\udcff"]) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_no_model(tmp_path, capsys):
    assert main(["chat", str(tmp_path)]) == 2
    assert "no config.json" in capsys.readouterr().err


def test_reward_model(tmp_path, capsys):
    config = {"architectures": ["LlamaForSequenceClassification"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["chat", str(tmp_path)]) == 2
    assert "reward model" in capsys.readouterr().err


def test_a_gpu_that_can_not_be_used_is_no_reason_to_compute_on_the_cpu(model, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert main(["chat", str(model), "--prompt", "How many legs?", *SHORT]) == 2
    assert "The GPU that this process was given can't be used" in capsys.readouterr().err


def test_an_ilql_model_answers_by_its_advantages(model, tmp_path, capsys):
    """Which token is worth more is known by its heads; without them there is nothing to weigh."""
    from rlhf.models.ilql import ValueHeads, decoding_heads, save_heads
    from rlhf.models.load import load_token_scorer

    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    policy = load_token_scorer(folder)
    heads = ValueHeads(policy.width, policy.vocabulary, True, 0).requires_grad_(False)
    for head in heads.target:
        head.outer.weight *= 100
    save_heads(folder, dict(decoding_heads(heads.state_dict().items())))
    outs = []
    for place, extra in ((folder, []), (folder, ["--beta", "1"]), (folder, ["--beta", "0"]),
                         (model, [])):  # fmt: skip
        assert main(["chat", str(place), "--prompt", "Legs?", "--greedy", *SHORT, *extra]) == 0
        outs.append(capsys.readouterr().out)
    assert outs[0] == outs[1] != outs[2] == outs[3]
    assert main(["chat", str(model), "--prompt", "Legs?", *SHORT, "--beta", "1"]) == 2
    assert "no advantages" in capsys.readouterr().err

from rlhf.cli import main


def compare(left, right, capsys):
    assert main(["compare", str(left), str(right)]) == 0
    return capsys.readouterr().out


def test_says_what_differs(results, capsys):
    base = results.make("models/tiny", "fetch_model")
    other = results.make("models/large", "fetch_model", content="more weights")
    left = results.make(
        "ppo/a",
        "train_ppo",
        {"kl": {"coefficient": 0.05, "target": 6.0}, "seed": 0},
        {"sft": base},
        metrics={"reward": 0.5, "kl": 1.0},
    )
    right = results.make(
        "ppo/b",
        "train_ppo",
        {"kl": {"coefficient": 0.1, "target": 6.0}, "seed": 1},
        {"sft": other},
        content="trained otherwise",
        code="code:" + "b" * 64,
        image="image:train-2",
        metrics={"reward": 0.7, "kl": 1.0},
    )
    out = compare(left, right.parent, capsys)
    assert "  kl.coefficient 0.05 → 0.1\n" in out
    assert "  seed 0 → 1\n" in out
    assert f"  code:{'a' * 12} → code:{'b' * 12}\n" in out
    assert "  image:none → image:train-2\n" in out
    assert "parents:\n  sft " in out
    assert "  reward 0.5 → 0.7\n" in out
    assert "files: 1 differ: model/model.bin" in out
    assert "target" not in out
    assert "kl 1.0" not in out


def test_equal_artifacts(results, capsys):
    left = results.make("ppo/a", "train_ppo", {"seed": 0})
    right = results.make("ppo/b", "train_ppo", {"seed": 0})
    assert "came out the same" in compare(left, right, capsys)


def test_same_bytes_from_another_configuration(results, capsys):
    left = results.make("ppo/a", "train_ppo", {"seed": 0})
    right = results.make("ppo/b", "train_ppo", {})
    out = compare(left, right, capsys)
    assert "  seed 0 → (absent)\n" in out
    assert out.endswith("files: the same bytes\n")

from __future__ import annotations

import html
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from support.synthetic_results import HOSTILE, Results, full_run

from rlhf.errors import IntegrityError
from rlhf.provenance.manifest import verify
from rlhf.reporting.page import render_page
from rlhf.stages import report
from rlhf.stages.stage import parse

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags close in order, and keeps what tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture
def full(results: Results) -> str:
    return render_page("assistant", full_run(results))


def test_all_sections_and_headline(full: str) -> None:
    page = Page(full)
    assert page.headings == [
        "Evaluation", "Samples", "Reward models", "Curves", "Lineage", "Time", "Counts",
        "Configuration",
    ]  # fmt: skip
    for text in ("69.0 %", "0.012 → 1.27", "[−0.078, 0.092] → [1.18, 1.35]", "80.7 %", "7.93"):
        assert text in page.text
    assert "43,835" in page.text
    for text in ("longer reply better", "shorter reply better", "equal length", "Kendall’s τ 0.38"):
        assert text in page.text
    assert "5 h 49 min" in page.text
    assert "3 more samples" in page.text
    targets = {value for _, name, value in page.attributes if name == "id"}
    links = {value for tag, name, value in page.attributes if (tag, name) == ("a", "href")}
    assert links <= {f"#{target}" for target in targets}


def test_nothing_is_loaded(full: str) -> None:
    page = Page(full)
    assert not re.search(r"https?://|//[a-z]+\.", full)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not any(name in {"src", "xlink:href"} for _, name, _ in page.attributes)
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert "url(" not in full
    assert "@import" not in full


def test_reads_on_telephones_and_in_the_dark(full: str) -> None:
    assert 'name="viewport" content="width=device-width' in full
    assert "prefers-color-scheme: dark" in full
    assert len(full) < 400_000


def test_paths_of_the_machine_stay_on_it(full: str, tmp_path: Path) -> None:
    assert str(tmp_path) not in full
    assert "results/sft/chat/manifest.json" in full


def test_hostile_text_is_text(full: str) -> None:
    assert "<script" not in full
    assert html.escape(HOSTILE, quote=False).split("alert")[0] in full
    assert HOSTILE in Page(full).text


def test_the_turns_of_a_prompt_are_told_apart(full: str) -> None:
    turn = r'<div class="turn( answer)?">\s*<p class="role">(\w+)</p>\s*<p class="text">([^<]*)</p>'
    found = re.findall(turn, full)
    assert len(found) == 6 * 3
    assert [(bool(answer), role) for answer, role, _ in found[:3]] == [
        (False, "User"),
        (True, "Assistant"),
        (False, "User"),
    ]
    assert found[1][2] == "Do you want the short answer?"


def test_hostile_names(results: Results) -> None:
    manifest = results.add("sft", "x", config={HOSTILE: HOSTILE}, counts={HOSTILE: 1})
    content = json.loads(manifest.read_text()) | {"name": HOSTILE}
    manifest.write_text(json.dumps(content))
    page = render_page(HOSTILE, {"sft": [manifest]})
    assert "<script" not in page
    Page(page)


def test_charts_are_xml(full: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", full, flags=re.S)
    assert len(drawings) == 3 + 4 + 9 + 3  # SFT, reward model, PPO; intervals, lineage, time
    for drawing in drawings:
        ElementTree.fromstring(drawing)


def test_configuration_is_canonical_yaml(full: str) -> None:
    text = html.unescape(re.search(r"<pre>(.*?)</pre>", full, flags=re.S)[1])
    tree = yaml.safe_load(text)
    assert tree["ppo"]["final"] == {"kl": {"coefficient": 0.05, "target": 6.0}, "steps": 120}
    assert yaml.safe_dump(tree, sort_keys=True, allow_unicode=True) == text


@pytest.mark.parametrize("roles", [["sft"], ["reward"], ["ppo"], ["sft", "reward"], ["evaluation"]])
def test_missing_pieces_leave_sections_out(results: Results, roles: list[str]) -> None:
    inputs = full_run(results, steps=5)
    page = Page(render_page("part", {role: inputs[role] for role in roles}))
    assert ("Evaluation" in page.headings) == ("evaluation" in roles)
    assert ("Samples" in page.headings) == ("evaluation" in roles)
    assert ("Curves" in page.headings) == (roles != ["evaluation"])
    assert "Lineage" in page.headings


def test_bare_manifests_and_no_inputs(results: Results) -> None:
    bare = {role: [results.add(role, "x")] for role in ("sft", "reward", "ppo", "evaluation")}
    assert "Samples" not in Page(render_page("bare", bare)).headings
    assert Page(render_page("empty", {})).headings == []


def test_evaluation_without_ppo(results: Results) -> None:
    figures = {"reward": {"mean": 0.1, "low": 0.0, "high": 0.2}, "samples": 4}
    content = {"models": {"sft": figures, "other": {}}, "comparisons": {}}
    manifest = results.add("evaluation", "sft", files={"evaluation.json": content})
    page = Page(render_page("sft", {"evaluation": [manifest]}))
    assert "0.100" in page.text
    assert "Comparisons" not in page.text


def test_several_runs_are_told_apart(results: Results) -> None:
    inputs = full_run(results, steps=5)
    other = results.add(
        "reward", "harmless", metrics=[{"step": 1, "validation_accuracy": 0.61}], seconds=1
    )
    page = Page(render_page("two", inputs | {"reward": [*inputs["reward"], other]}))
    assert "harmless · of validation pairs" in page.text
    assert "61.0 %" in page.text


def test_lost_parents_are_reported(results: Results) -> None:
    model = results.add("models", "tiny")
    sft = results.add("sft", "chat", {"model": model})
    model.unlink()
    assert "Some parents were not found" in Page(render_page("lost", {"sft": [sft]})).text


@pytest.mark.parametrize("file", ["metrics.jsonl", "evaluation.json"])
def test_damaged_files_say_so(results: Results, file: str) -> None:
    manifest = results.add("sft", "chat")
    (manifest.parent / file).write_text('{"step": 1}\n{"st')
    with pytest.raises(IntegrityError, match="not JSON") as caught:
        render_page("damaged", {"sft": [manifest]})
    assert file in str(caught.value)


def run_stage(folder: Path, inputs: dict[str, list[Path]]) -> Path:
    argv = ["--name", "final", "--config", '{"evaluations": ["final"], "title": "RLHF report"}']
    for role, paths in inputs.items():
        argv += ["--input", role, *map(str, paths)]
    argv += ["--output", "page", f"{folder}/report.html", "--output", "tables", f"{folder}/tables"]
    argv += ["--output", "manifest", f"{folder}/manifest.json"]
    stage, _ = parse(argv)
    report.run(stage)
    return stage.outputs["manifest"]


def test_stage_writes_page_and_a_manifest_that_does_not_digest_it(results: Results) -> None:
    inputs = full_run(results, steps=5)
    manifest = run_stage(results.root / "report" / "final", inputs)
    first = manifest.read_bytes()
    content = json.loads(first)
    assert set(content["files"]) == {
        f"tables/{table}.{kind}"
        for table in ("comparison", "curves")
        for kind in ("csv", "parquet")
    }
    assert set(content["parents"]) == {"evaluation", "ppo", "reward", "sft"}
    assert verify(manifest) == []
    Page((manifest.parent / "report.html").read_text())

    run = inputs["sft"][0].parent / "run.json"
    run.write_text(json.dumps(json.loads(run.read_text()) | {"seconds": 99_999}))
    assert run_stage(results.root / "report" / "final", inputs).read_bytes() == first
    assert "1 d 3 h" in (manifest.parent / "report.html").read_text()

import difflib
from pathlib import Path

import jsonschema
import pytest
import yaml

from rlhf.pages import config_page as reference

REPOSITORY = Path(__file__).resolve().parents[3]
FOLDER = REPOSITORY / "config"


@pytest.mark.parametrize(
    ("name", "render"),
    [(reference.SCHEMA, reference.render_schema), (reference.README, reference.render_readme)],
)
def test_files_are_in_step_with_the_models(name, render):
    written = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    diff = list(
        difflib.unified_diff(written, render().splitlines(), name, "models", lineterm="", n=1)
    )
    if diff:
        pytest.fail("config/ is out of step: run `rlhf config write`\n" + "\n".join(diff))


def test_write_writes_both(tmp_path):
    reference.write(tmp_path)
    assert (tmp_path / "schema.json").read_text() == reference.render_schema()
    assert (tmp_path / "README.md").read_text() == reference.render_readme()


def files():
    found = [FOLDER / "config.yaml", *FOLDER.glob("recipes/*.yaml")]
    return [*found, *(REPOSITORY / "tests" / "config").glob("*.yaml")]


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_schema_accepts_our_files(path):
    jsonschema.validate(yaml.safe_load(path.read_text()), reference.schema())


def test_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(reference.schema())


@pytest.mark.parametrize(
    ("section", "key"),
    [(None, "sfft"), ("sft", "a/b"), ("ppo.final", "clipp"), ("ppo.final.kl", "coeficient")],
)
def test_schema_refuses_what_the_models_refuse(valid, section, key):
    inner = valid
    for part in section.split(".") if section else []:
        inner = inner.setdefault(part, {})
    inner[key] = {"model": "tiny", "data": {"demo": {}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(valid, reference.schema())


def sections(node):
    if isinstance(node, dict):
        if "properties" in node:
            yield node
        for inner in node.values():
            yield from sections(inner)


def test_every_section_is_closed_and_every_key_is_described():
    found = list(sections(reference.schema()))
    assert len(found) > 15
    for node in found:
        assert node["additionalProperties"] is False
        assert all(key.get("description") for key in node["properties"].values())


def test_units_and_sources_are_in_descriptions():
    target = reference.schema()["$defs"]["KlConfig"]["properties"]["target"]
    assert target["description"].endswith("(nats; Ziegler et al. 2019)")
    assert not {"unit", "source", "title"} & target.keys()


def test_a_key_that_is_called_source_stays():
    properties = reference.schema()["$defs"]["ModelConfig"]["properties"]
    assert "source" in properties
    assert "title" in reference.schema()["$defs"]["ReportConfig"]["properties"]


def test_readme_shows_the_default_that_holds_there():
    text = reference.render_readme()
    prompt = text.split("`tokenization.prompt`\n")[1]
    assert "| `max_length` | whole number ≥ 8 | `256` | tokens |" in prompt
    assert "`sft.<name>.data.<dataset>`" in text


def test_links_lead_somewhere():
    import re

    text = reference.render_readme()
    anchors = set(re.findall(r'<a id="([^"]+)">', text))
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


def test_editor_line_names_the_schema():
    first = (FOLDER / "config.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=schema.json"

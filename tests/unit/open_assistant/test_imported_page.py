import pytest
import yaml

from rlhf.core.documents import read_document
from rlhf.open_assistant.dispositions import Dispositions
from rlhf.open_assistant.page import render

COMMIT = "1234567e" + "1" * 32


@pytest.mark.parametrize("text", [COMMIT, "no", "1.10", "010", "2024-07-26", "12:30:00", "1e-5"])
def test_text_is_read_again_as_text(tmp_path, text):
    values = {"models": {"base": {"source": {"hub": "org/name", "revision": text}}}}
    page = render(values, Dispositions(), ["Somewhere"])
    path = tmp_path / "made.yaml"
    path.write_text(page)
    assert read_document(path).values == values
    assert yaml.safe_load(page) == values

"""Which files of a folder or glob are read, and why others are not."""

from __future__ import annotations

import json
import os

import datasets
import pytest

from rlhf.config.load import load_config
from rlhf.data.files import survey
from rlhf.data.formats.source import Source, load
from rlhf.errors import DataError
from rlhf.pipeline.slices import config_slice


def put(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"question": name, "answer": "a"}) + "\n")


def names(found, folder):
    return [one.relative_to(folder).as_posix() for one in found.read]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    return folder


class TestLinks:
    def test_linked_files_and_folders_are_read(self, tmp_path, folder):
        put(folder, "part-0.jsonl")
        put(tmp_path / "elsewhere", "part-1.jsonl", "deep/part-2.jsonl")
        (folder / "more").symlink_to("../elsewhere")
        (folder / "part-3.jsonl").symlink_to("../other.jsonl")
        put(tmp_path, "other.jsonl")
        wanted = ["more/deep/part-2.jsonl", "more/part-1.jsonl", "part-0.jsonl", "part-3.jsonl"]
        assert names(survey(folder), folder) == wanted
        assert names(survey(folder / "**" / "*.jsonl"), folder) == wanted
        assert names(survey(folder, ["more/*", "part*"]), folder) == wanted
        assert len(load("qa", folder).conversations) == 4

    def test_circles_end_and_are_named(self, folder):
        put(folder, "a/rows.jsonl")
        (folder / "a" / "up").symlink_to("..")
        (folder / "self").symlink_to(".")
        found = survey(folder)
        assert names(found, folder) == ["a/rows.jsonl"]
        circle = "a link to a folder that it is in"
        assert found.left == {"a/up": circle, "self": circle}

    def test_a_file_that_is_reached_twice_is_read_once(self, folder):
        put(folder, "z/part-1.jsonl")
        (folder / "latest").symlink_to("z")
        (folder / "a.jsonl").symlink_to("z/part-1.jsonl")
        found = survey(folder)
        assert names(found, folder) == ["z/part-1.jsonl"]
        again = "the same file as z/part-1.jsonl"
        assert found.left == {"a.jsonl": again, "latest/part-1.jsonl": again}
        assert names(survey(folder / "a*"), folder) == ["a.jsonl"]
        assert names(survey(folder / "latest" / "*"), folder) == ["latest/part-1.jsonl"]

    def test_a_broken_link_is_named(self, folder):
        put(folder, "part-0.jsonl")
        (folder / "part-1.jsonl").symlink_to("gone.jsonl")
        for path in (folder, folder / "*.jsonl"):
            assert survey(path).left == {"part-1.jsonl": "a broken link"}

    def test_an_edit_behind_a_link_makes_the_dataset_stale(self, tmp_path, folder):
        put(tmp_path / "elsewhere", "rows.jsonl")
        (folder / "more").symlink_to("../elsewhere")

        def content():
            entry = {"path": str(folder), "format": "qa"}
            config = load_config({"models": {}, "datasets": {"mine": entry}})
            return config_slice(config, "fetch_data", "mine")["content"]

        before = content()
        (folder / "README.md").write_text("not read")
        assert content() == before
        put(tmp_path / "elsewhere", "rows-2.jsonl")
        assert content() != before


class TestWhatIsNotRead:
    def test_each_is_named_with_the_reason(self, folder):
        put(folder, "rows.jsonl", "notes.txt", ".hidden.jsonl", ".cache/old.jsonl", "picture.png")
        put(folder, "README.md", "LICENSE.txt", "LICENSE", "dataset_infos.json", ".gitattributes")
        found = survey(folder)
        assert names(found, folder) == ["rows.jsonl"]
        about = "beside the rows: about the dataset, or a cache"
        assert found.left == {
            ".cache": "hidden",
            ".gitattributes": "hidden",
            ".hidden.jsonl": "hidden",
            "LICENSE": about,
            "LICENSE.txt": about,
            "README.md": about,
            "dataset_infos.json": about,
            "notes.txt": "a text among files of rows",
            "picture.png": "its name has no known ending",
        }

    def test_texts_are_read_where_nothing_else_is(self, folder):
        put(folder, "a.txt", "b.txt.gz", "README.txt")
        assert names(survey(folder), folder) == ["a.txt", "b.txt.gz"]

    def test_texts_and_other_endings_where_they_are_chosen(self, folder):
        put(folder, "rows.jsonl", "notes.txt", "part-00000")
        assert names(survey(folder, ["*.txt"]), folder) == ["notes.txt"]
        assert names(survey(folder, ["part-*"]), folder) == ["part-00000"]
        assert len(load("qa", folder, files=["part-*"]).conversations) == 1

    def test_a_dataset_in_a_hidden_folder(self, tmp_path):
        put(tmp_path / ".cache", "rows.jsonl")
        assert names(survey(tmp_path / ".cache"), tmp_path) == [".cache/rows.jsonl"]
        assert len(survey(tmp_path / ".cache" / "*.jsonl").read) == 1

    def test_a_name_that_only_resembles_is_read(self, folder):
        put(folder, "requirements.jsonl", "licences.csv", "notice_of_loss.jsonl")
        assert len(survey(folder).read) == 3

    def test_a_folder_that_is_named_like_a_file(self, folder):
        put(folder, "rows.jsonl", "more.jsonl/part-0.jsonl")
        assert names(survey(folder), folder) == ["more.jsonl/part-0.jsonl", "rows.jsonl"]
        found = survey(folder / "*.jsonl")
        assert names(found, folder) == ["rows.jsonl"]
        assert found.left == {"more.jsonl": "a folder"}

    def test_a_wildcard_does_not_mean_a_readme_and_its_name_does(self, folder):
        put(folder, "rows.jsonl", "README.md", "x.csv")
        assert names(survey(folder, ["r*", "R*"]), folder) == ["rows.jsonl"]
        assert survey(folder, ["r*"]).left["x.csv"] == "`files` does not choose it"
        assert names(survey(folder, ["README.md"]), folder) == ["README.md"]
        assert names(survey(folder / "*"), folder) == ["rows.jsonl", "x.csv"]

    def test_a_folder_that_may_not_be_read(self, folder, monkeypatch):
        put(folder, "rows.jsonl", "shut/rows.jsonl")
        folder.chmod(0o755)
        (folder / "shut").chmod(0)
        monkeypatch.chdir(folder)  # the way to it may be closed to others
        user = os.geteuid()
        os.seteuid(user or 65534)  # root may read all
        try:
            assert survey(".").left == {"shut": "a folder that may not be read"}
        finally:
            os.seteuid(user)
            (folder / "shut").chmod(0o700)

    def test_hidden_files_where_the_glob_says_so(self, folder):
        put(folder, ".rows.jsonl", "rows.jsonl", ".more/x.jsonl")
        assert names(survey(folder / "*.jsonl"), folder) == ["rows.jsonl"]
        assert names(survey(folder / ".*.jsonl"), folder) == [".rows.jsonl"]
        assert names(survey(folder / ".more" / "*.jsonl"), folder) == [".more/x.jsonl"]


HUB = [
    (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet",
      "data/test-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"], 2),
    (["train.jsonl", "test.jsonl"], 1),
    (["train/0000.parquet", "test/0000.parquet"], 1),
    (["default/partial-train/0000.parquet", "default/partial-test/0000.parquet"], 1),
    (["data/train_sft-0-of-1.parquet", "data/train_gen-0-of-1.parquet",
      "data/test_sft-0-of-1.parquet", "data/test_gen-0-of-1.parquet"], 2),
    (["train.csv.gz", "dev.csv.gz"], 1),
    (["en/my_training.jsonl", "en/my_eval.jsonl", "de/my_training.jsonl"], 2),
    (["train/chat.jsonl", "train/test_cases.jsonl", "val/chat.jsonl"], 2),
    (["train.jsonl", "valid.jsonl", "more.jsonl"], 1),
]  # fmt: skip


class TestSplits:
    @pytest.mark.parametrize(("files", "read"), HUB)
    def test_files_for_training_only(self, folder, files, read):
        put(folder, *files)
        found = survey(folder)
        assert sorted(names(found, folder)) == sorted(
            one for one in files if one.startswith("train/") or "train" in one.split("/")[-1]
            or "partial-train" in one
        )  # fmt: skip
        assert len(found.read) == read
        assert set(found.left) == set(files) - set(names(found, folder))
        for why in found.left.values():
            assert "beside files for training" in why
            assert '`files: ["*"]` reads all' in why

    @pytest.mark.parametrize(("files", "read"), HUB)
    def test_the_advice_reads_them_all(self, folder, files, read):
        put(folder, *files, "README.md", "dataset_infos.json", ".gitattributes")
        assert sorted(names(survey(folder, ["*"]), folder)) == sorted(files)

    @pytest.mark.parametrize(
        "files",
        [["test.jsonl", "dev.jsonl"], ["train.jsonl", "more.jsonl"], ["latest.jsonl", "a.jsonl"],
         ["contest.jsonl", "trained.jsonl"]],
    )  # fmt: skip
    def test_all_are_read_where_nothing_tells_them_apart(self, folder, files):
        put(folder, *files)
        assert len(survey(folder).read) == 2

    def test_a_glob_means_what_it_says(self, folder):
        put(folder, "train.jsonl", "test.jsonl")
        assert len(survey(folder / "*.jsonl").read) == 2

    def test_saved_splits(self, folder):
        rows = [{"question": "q", "answer": "a"}]
        splits = dict.fromkeys(["train", "test"], datasets.Dataset.from_list(rows))
        datasets.DatasetDict(splits).save_to_disk(folder)
        (folder / "train" / "cache-0123456789abcdef.arrow").write_bytes(b"a step of map()")
        found = survey(folder)
        assert [one.parent.name for one in found.read] == ["train"]
        assert '`files: ["*"]` reads all' in found.left["test/"]
        both = survey(folder, ["*"])
        assert [one.parent.name for one in both.read] == ["test", "train"]
        assert len(load("qa", folder, files=["*"]).conversations) == 2

    def test_a_clone_with_all_that_stands_beside_the_rows(self, folder):
        put(folder, "train.jsonl", "test.jsonl", "README.md", "dataset_infos.json", "LICENSE",
            ".cache/huggingface/x.json", ".gitattributes")  # fmt: skip
        source = Source("qa", folder)
        assert [row.messages[0].content for row in source if hasattr(row, "messages")] == [
            "train.jsonl"
        ]
        assert set(source.not_read) == {
            "test.jsonl", "README.md", "dataset_infos.json", "LICENSE", ".cache", ".gitattributes"
        }  # fmt: skip


def test_nothing_but_what_stands_beside_the_rows(folder):
    put(folder, "README.md", "LICENSE.txt")
    with pytest.raises(DataError, match="holds no data"):
        survey(folder)
    with pytest.raises(DataError, match="holds no data"):
        survey(folder, ["*"])

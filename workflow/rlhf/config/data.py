"""Datasets: where their rows are from, how they are laid out, and which are held out."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator, model_validator

from rlhf.config.base import Strict, key, refuse_old
from rlhf.config.paths import expanded
from rlhf.sources.addresses import read_addresses


class StageSplit(Strict):
    """Parts of the training rows: each view has its own, and no tree is in two."""

    conversation: float = key(ge=0, about="part that demonstrations come from")
    preference: float = key(ge=0, about="part that preferences come from")
    feedback: float = key(0.0, ge=0, about="part that single replies for KTO come from")
    prompt: float = key(ge=0, about="part that prompts come from")

    @model_validator(mode="before")
    @classmethod
    def _parts_of_old(cls, values: Any) -> Any:
        names = {"sft": "conversation", "reward": "preference", "ppo": "prompt"}
        return refuse_old(values, names)

    @model_validator(mode="after")
    def _something_is_there(self) -> StageSplit:
        if not sum(dict(self).values()):
            parts = ", ".join(type(self).model_fields)
            raise ValueError(f"one of {parts} has to be more than 0")
        return self


class DatasetSource(Strict):
    """Where a dataset is downloaded from: `hub` with `revision`, or `url`."""

    hub: str | None = key(None, about="dataset id on the Hugging Face hub, such as org/name")
    revision: str | None = key(None, about="commit, branch or tag on the hub")
    url: str | list[str] | None = key(
        None,
        about="address of a file elsewhere, or a list of them, `http`, `https` or `file`; "
        "`#sha256=…` after one is checked",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> DatasetSource:
        if (self.hub is None) == (self.url is None):
            raise ValueError("give exactly one of hub, url")
        if (self.hub is None) != (self.revision is None):
            raise ValueError("`hub` and `revision` go together")
        if self.url is not None:
            read_addresses(self.url)
        return self


class DatasetConfig(Strict):
    """One dataset: an entry of the registry, by its own name or under `registry`, or your own."""

    registry: str | None = key(
        None,
        about="name in `datasets.yaml`; other keys given here override what it says. "
        "A dataset with neither `path` nor `source` is looked up by its own name",
    )
    path: str | None = key(
        None,
        about="file, folder or glob, relative to the repository's root: JSON lines, JSON, CSV, "
        "Parquet, Arrow or text, plain, `.gz`, `.xz`, `.bz2` or `.zst`; or a folder that "
        "`datasets` saved to disk",
    )
    source: DatasetSource | None = key(
        None, about="where it is downloaded from, if there is no `path`"
    )
    files: list[str] | None = key(
        None,
        about="globs of the files to read in a folder or a repository on the hub; by default "
        "all, or only those for training if others are for evaluation",
    )
    format: str | None = key(
        None, about="how rows are laid out, see docs/data.md; required unless the registry says it"
    )
    options: dict[str, Any] = key(
        {},
        about="options of the format, see docs/data.md, and `invalid` (`error`, or `drop` to count "
        "faulty rows and continue), `field` (key of the list of rows in a JSON file) and `exclude` "
        "(texts; rows that contain one of them are left out) and `feedback` (`best` or `halves`: "
        "ranked replies also give single ones, good or bad)",
    )
    validation_fraction: float = key(
        0.1,
        ge=0,
        lt=1,
        about="share of the groups (trees, prompts) that is held out, chosen by hash",
    )
    split_salt: str = key(
        "", about="changes which groups are held out, and which stage the others go to"
    )
    stage_split: StageSplit | None = key(
        None,
        about="divides the training groups among the stages by hash, such as 2, 4 and 4; "
        "absent: every stage draws from all",
        source="DeepSpeed-Chat's `data_split`",
    )

    _path = field_validator("path")(expanded)

    @model_validator(mode="after")
    def _addresses_are_of_files(self) -> DatasetConfig:
        if self.files is not None and self.source is not None and self.source.url is not None:
            raise ValueError("`files` chooses in a folder or a repository: `source.url` names all")
        return self


class DatasetSlice(DatasetConfig):
    """What ``fetch_data`` gets: a dataset's section, and what stands outside of it."""

    format: str = key(about="how rows are laid out")
    content: str | None = key(None, about="digest of a local source")
    lock: str | None = key(None, about="digest of the dataset's entry in the lock")

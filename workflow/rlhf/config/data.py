"""Datasets, their views, and what a run takes from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ValidationInfo, field_validator, model_validator

from rlhf.config.base import Strict, expanded, is_written_out, key
from rlhf.sources.addresses import read_addresses


class StageSplit(Strict):
    """Parts of the training rows: each stage draws from its own, and no tree is in two."""

    sft: float = key(ge=0, about="part that demonstrations come from")
    reward: float = key(ge=0, about="part that preferences come from")
    ppo: float = key(ge=0, about="part that prompts come from")

    @model_validator(mode="after")
    def _something_is_there(self) -> StageSplit:
        if not self.sft + self.reward + self.ppo:
            raise ValueError("one of sft, reward and ppo has to be more than 0")
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
        about="name in `datasets.yaml`; what else is given here goes before what stands there. "
        "A dataset with neither `path` nor `source` is looked up by its own name",
    )
    path: str | None = key(
        None,
        about="file, folder or glob, relative to the repository's root: JSON lines, JSON, CSV, "
        "Parquet, Arrow or text, plain, `.gz`, `.xz`, `.bz2` or `.zst`; or what `datasets` saved "
        "to disk",
    )
    source: DatasetSource | None = key(None, about="where it is downloaded from, without `path`")
    files: list[str] | None = key(
        None,
        about="globs of the files that are read in a folder or a hub's repository; by default "
        "all, or those for training where others are for evaluation",
    )
    format: str | None = key(
        None, about="how rows are laid out, see docs/data.md; required unless the registry says it"
    )
    options: dict[str, Any] = key(
        {},
        about="options of the format, see docs/data.md, and `invalid` (`error`, or `drop` to count "
        "faulty rows and go on), `field` (key of the list of rows in a JSON file) and `exclude` "
        "(texts; rows with one of them are left out)",
    )
    validation_fraction: float = key(
        0.1, ge=0, lt=1, about="share of the groups (trees, prompts) held out, chosen by hash"
    )
    split_salt: str = key(
        "", about="changes which groups are held out, and in which stage's part the others are"
    )
    stage_split: StageSplit | None = key(
        None,
        about="parts that the stages share the training groups in, chosen by hash, such as 2, 4 "
        "and 4; absent: every stage draws from all",
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

    content: str | None = key(None, about="digest of a local source")
    lock: str | None = key(None, about="digest of the dataset's entry in the lock")


class ReplyTagsConfig(Strict):
    """Open-Assistant's tags before replies: language, ratings, length, context."""

    dropout: float = key(
        0.5, ge=0, le=1, about="probability that a property is left out", source="Open-Assistant"
    )
    length: bool = key(
        False, about="write the reply's length too, in steps of five words", source="Open-Assistant"
    )


class ViewConfig(Strict):
    """How rows become tokens in one view."""

    max_length: int = key(512, ge=8, about="longest sequence", unit="tokens")
    overlong: Literal["drop", "truncate", "error"] = key(
        "truncate",
        about="what happens to a longer one: it is dropped, the oldest turns of its history are "
        "cut, or it is an error; counted in the manifest",
    )
    min_prefix: int | None = key(
        None,
        ge=1,
        about="cut the beginning of the last question too, down to this; absent: a row whose last "
        "question does not fit is dropped, as half a question has another answer",
        unit="tokens",
    )
    system_prefix: str | None = key(
        None, about="a system message before every dialogue; give the same to all views"
    )

    @model_validator(mode="after")
    def _prefix_needs_truncation(self) -> ViewConfig:
        if self.min_prefix is not None and self.overlong != "truncate":
            raise ValueError(
                f"min_prefix says how questions are cut, but overlong is {self.overlong!r}; "
                "set overlong to truncate, or leave min_prefix out"
            )
        return self


class ReplyViewConfig(ViewConfig):
    """How rows with replies become tokens."""

    reply_tags: ReplyTagsConfig | None = key(
        None, about="write what is known of a reply before it; absent: no tags"
    )
    seed: int = key(0, ge=0, about="seed of what is drawn for each row: tags, offsets")


class SftViewConfig(ReplyViewConfig):
    """How demonstrations become tokens."""

    random_offset: float = key(
        0.0,
        ge=0,
        le=1,
        about="probability that a dialogue which is cut begins at a random turn, and not as late "
        "as it must; Open-Assistant: 0.8",
    )

    @model_validator(mode="after")
    def _offset_needs_truncation(self) -> SftViewConfig:
        if self.random_offset and self.overlong != "truncate":
            raise ValueError(
                f"random_offset says how dialogues are cut, but overlong is {self.overlong!r}; "
                "set overlong to truncate, or leave random_offset out"
            )
        return self


class PreferenceViewConfig(ReplyViewConfig):
    """How ranked replies become tokens."""

    max_replies: int = key(
        5, ge=2, about="replies of a row that are kept, best first", source="Open-Assistant"
    )


class TokenizeSlice(SftViewConfig, PreferenceViewConfig):
    """What ``tokenize`` gets: one view, and which it is.

    A key that the view does not have keeps its default.
    """

    view: Literal["sft", "preference", "prompt"] = key(about="the view")


class TokenizationConfig(Strict):
    """The three views."""

    sft: SftViewConfig = key(SftViewConfig(), about="demonstrations")
    preference: PreferenceViewConfig = key(PreferenceViewConfig(), about="ranked replies")
    prompt: ViewConfig = key(
        ViewConfig(max_length=256, overlong="drop"), about="prompts for PPO and evaluation"
    )


class Share(Strict):
    """What a run takes from one dataset."""

    fraction: float = key(
        1.0, gt=0, le=1, about="share of the training rows, drawn anew in every epoch"
    )
    size: int | None = key(
        None,
        ge=1,
        about="this many training rows instead of a fraction, drawn anew in every epoch",
        unit="rows",
        source="Open-Assistant",
    )
    weight: float | None = key(
        None,
        gt=0,
        about="the epoch's rows are shared out by weight; a set too small for its part is repeated",
    )
    max_validation: int | None = key(
        None,
        ge=1,
        about="held-out rows used at most, chosen by hash",
        unit="rows",
        source="Open-Assistant's `max_val_set`",
    )

    @model_validator(mode="after")
    def _one_way(self, info: ValidationInfo) -> Share:
        given = "fraction" in self.model_fields_set and not is_written_out(info)
        if self.size is not None and given:
            raise ValueError("give `fraction` or `size`, not both")
        return self


def _all_weigh(shares: dict[str, Share]) -> dict[str, Share]:
    weighed = [name for name, share in shares.items() if share.weight is not None]
    if weighed and len(weighed) < len(shares):
        (without, *_) = (name for name in shares if name not in weighed)
        raise ValueError(f"{weighed[0]} has a weight and {without} has none: weigh all or none")
    return shares


Shares = Annotated[dict[str, Share], AfterValidator(_all_weigh)]


class DuplicatesConfig(Strict):
    """Training rows that say what another one says, or what is held out."""

    remove: Literal["none", "exact", "near"] = key(
        "none",
        about="`exact`: rows of the same text, but for case and white space; `near`: those too "
        "whose estimated similarity reaches the threshold",
    )
    threshold: float = key(
        0.8, gt=0, le=1, about="least Jaccard similarity of the word sequences of two rows"
    )
    words: int = key(5, ge=1, about="length of the word sequences", unit="words")


class DuplicatesSlice(DuplicatesConfig):
    """What ``find_duplicates`` gets: a run's part about duplicates, and where the run stands."""

    section: str = key(about="section of the run")

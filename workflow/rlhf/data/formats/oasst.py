"""Open-Assistant's exports: message trees, or their messages one by one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf.data.formats.columns import holds_something, unread_keys
from rlhf.data.formats.faults import Faults
from rlhf.data.formats.labels import as_flag
from rlhf.data.formats.singles import PLACE, Place, Singles, count_left_out
from rlhf.data.rows import RATINGS, Conversation, Message, Preference, Prompt, Properties, Role, Row
from rlhf.data.split import group_of

ROLES: dict[str, Role] = {"prompter": "user", "assistant": "assistant"}
READY = "ready_for_export"
WAITING = "prompt_lottery_waiting"  # a reviewed prompt that nobody has answered yet
REVIEWS = {"approved": (True,), "not_rejected": (True, None), "any": (True, None, False)}
_RANK = re.compile(r"\s*(\d+)(?:\.0*)?\s*", re.ASCII)
FLAGS = ("deleted", "review_result", "synthetic")
OF_MESSAGE = frozenset(
    ["message_id", "parent_id", "text", "role", "lang", "rank", "labels", "replies", *FLAGS]
)


@dataclass(slots=True)
class _Node:
    """A message that passed all checks.

    ``place`` is where it stands, if it is a row; ``used`` whether it is in a row of ours.
    """

    id: str
    text: str
    rank: int | None
    properties: Properties | None
    place: Place | None
    replies: list[_Node] = field(default_factory=list)
    used: bool = False


class OpenAssistant:
    """Trees of a prompt and its ranked replies: one tree per row, or one message per row.

    Deleted messages and those that reviewers rejected are left out with everything below them, as
    are trees that were never finished; trees whose prompt still waits for replies give a prompt.
    Single messages, with or without replies in them, are assembled when all have been read, so
    they are held in memory. Each message is either used or counted: those below one that is left
    out are counted as ``below_left_out``.

    Args:
        faults: where faults go.
        top_k: demonstrations and prompts follow only replies of rank < top_k; null: all. A lone
            reply without a rank counts as rank 0. Preferences use all ranks. Messages that are
            then in no row are counted as ``top_k``.
        lang: languages of the root prompt that are kept, such as ``["en", "de"]``; null: all.
        min_quality: messages whose label ``quality`` is lower are left out with everything below
            them; those without the label are kept.
        review: which messages are kept: ``approved`` by reviewers, ``not_rejected`` (default), or
            ``any``.
        synthetic: whether messages that a model wrote are kept.
        states: states of trees that are kept.
    """

    def __init__(
        self,
        faults: Faults,
        top_k: int | None = None,
        lang: Sequence[str] | None = None,
        min_quality: float | None = None,
        review: str = "not_rejected",
        synthetic: bool = True,
        states: Sequence[str] = (READY, WAITING),
    ) -> None:
        if top_k is not None and top_k < 1:
            raise faults.wrong_option("top_k", top_k, "a whole number of 1 or more, or null")
        if min_quality is not None and not 0 <= min_quality <= 1:
            raise faults.wrong_option("min_quality", min_quality, "a number from 0 to 1, or null")
        if review not in REVIEWS:
            raise faults.wrong_option("review", review, f"one of: {', '.join(REVIEWS)}")
        self._faults, self._top_k, self._lang = faults, top_k, lang
        self._min_quality, self._review = min_quality, REVIEWS[review]
        self._synthetic, self._states = synthetic, states
        self._seen: set[str] = set()
        self._singles = Singles(faults)
        self.reads = {"prompt", "tree_state", "message_tree_id", *OF_MESSAGE}

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """All rows of one tree, depth first; of a single message none, before ``finish``."""
        if "message_id" in record and "prompt" not in record:
            self._singles.add(record)
            return []
        raw = record.get("prompt")
        if not isinstance(raw, dict):
            self._faults.report(
                "not_a_tree",
                "The object has no `prompt`.",
                expected="a message tree: {message_tree_id, tree_state, prompt: {…}}",
                hint="is this file in another format?",
            )
            return []
        state = record.get("tree_state", READY)
        if state not in self._states:
            self._leave_out("tree_state", raw)
            return []
        if self._lang is not None and raw.get("lang") not in self._lang:
            self._leave_out("lang", raw)
            return []
        if state == READY and not _has_reply(raw):
            self._faults.report(
                "no_assistant",
                "No assistant replies in this tree.",
                message=raw.get("message_id"),
                expected="at least one reply of the role assistant",
            )
            count_left_out(self._faults.dropped, raw, "no_assistant")
            return []
        unread: set[str] = set()
        root = self._node(raw, None, unread)
        for key in unread:
            self._faults.count_unread(f"messages[].{key}")
        if root is None:
            return []
        found: list[Row] = []
        self._walk(root, (), True, group_of(root.text), found)
        self._count_unused(root)
        return found

    def _leave_out(self, reason: str, raw: dict[str, Any]) -> None:
        """Count a message that is left out, and those below it."""
        self._faults.filtered[reason] += 1
        count_left_out(self._faults.filtered, raw, reason)

    def _node(self, raw: Any, above: str | None, unread: set[str]) -> _Node | None:
        """Check a message and all below it; None when it is left out.

        Args:
            raw: the message as it stands in the file.
            above: role of the message that it answers, in our terms; None at the root.
            unread: keys that hold something which is not read are added.
        """
        faults = self._faults
        if not isinstance(raw, dict):
            faults.report("not_a_message", "A reply is no object.", expected="a message: {…}")
            return None
        if PLACE in raw:
            raw[PLACE].show(faults)
        if not self._flags_are_right(raw):
            count_left_out(faults.dropped, raw, faults.reasons[-1])
            return None
        if (reason := self._left_out(raw)) is not None:
            self._leave_out(reason, raw)
            return None
        node = self._checked(raw, above)
        if node is None:
            count_left_out(faults.dropped, raw, faults.reasons[-1])
            return None
        if PLACE not in raw:  # the columns of a row are looked at as in every format
            unread |= unread_keys(raw, OF_MESSAGE)
        if holds_something(raw.get("labels")) and not isinstance(raw["labels"], dict):
            unread.add("labels")
        role = "assistant" if above == "user" else "user"
        below = [self._node(reply, role, unread) for reply in raw.get("replies") or []]
        node.replies = [one for one in below if one is not None]
        if role == "user":
            self._check_ranks(node)
        return node

    def _checked(self, raw: dict[str, Any], above: str | None) -> _Node | None:
        """A message without those below it, or None after reporting a fault."""
        faults = self._faults
        message_id = raw.get("message_id")
        if not isinstance(message_id, str) or not message_id:
            faults.report("id_missing", "A message has no id.", expected="`message_id` is a string")
            return None
        lang = raw.get("lang")
        if not all(faults.is_unicode(one) for one in (message_id, lang) if isinstance(one, str)):
            return None
        if message_id in self._seen:
            faults.report(
                "duplicate_id",
                "A message id occurs twice.",
                message=message_id,
                expected="an id of its own for each message",
                hint="was an export appended to another one? Take one of the two out, or set "
                "`options.invalid: drop` to keep the first and count the other",
            )
            return None
        role = faults.role(raw, ROLES, message_id)
        text = faults.text(raw, "text", message_id) if role else None
        if role is None or text is None:
            return None
        if role == (above or "assistant"):
            faults.report(
                "role_repeated" if above else "role_order",
                f"Two messages of the role {raw['role']!r} follow each other."
                if above
                else "The tree begins with the assistant.",
                message=message_id,
                expected="prompter and assistant in turn",
            )
            return None
        rank, replies = as_rank(raw.get("rank")), raw.get("replies") or []
        if rank is None and holds_something(raw.get("rank")):
            faults.report(
                "rank_invalid",
                f"The rank {raw['rank']!r} is not a whole number.",
                message=message_id,
                expected="`rank` is 0 for the best reply, then 1, 2, …",
            )
            return None
        if not isinstance(replies, list):
            faults.report(
                "replies_invalid",
                "`replies` is no list.",
                message=message_id,
                expected="a list of messages",
            )
            return None
        self._seen.add(message_id)
        return _Node(message_id, text, rank, properties_of(raw), raw.get(PLACE))

    def _flags_are_right(self, raw: dict[str, Any]) -> bool:
        """Whether the marks of a message are true, false or nothing; a fault is reported if not."""
        for name in FLAGS:
            value = raw.get(name)
            if value is None or isinstance(value, bool):
                continue
            if holds_something(value) and as_flag(value) is None:
                self._faults.report(
                    "flag_invalid",
                    f"`{name}` of a message is {value!r}.",
                    message=raw.get("message_id"),
                    expected="true, false or null",
                )
                return False
        return True

    def _left_out(self, raw: dict[str, Any]) -> str | None:
        """Why the options or the source's own marks leave a message out, or None."""
        deleted, review, synthetic = (as_flag(raw.get(name)) for name in FLAGS)
        if deleted:
            return "deleted"
        if review not in self._review:
            return "rejected" if review is False else "not_reviewed"
        if synthetic and not self._synthetic:
            return "synthetic"
        if self._min_quality is not None:
            quality = _labels(raw).get("quality")
            if isinstance(quality, int | float) and quality < self._min_quality:
                return "quality"
        return None

    def finish(self) -> Iterator[Row]:
        """Rows of the trees that single messages make."""
        for root in self._singles.trees():
            state = root.get("tree_state")
            wrapped = {"prompt": root} | ({"tree_state": state} if holds_something(state) else {})
            try:
                yield from self.rows(wrapped)
            except RecursionError:
                self._faults.report(
                    "nested", "The tree is too deep.", expected="fewer than 300 turns"
                )
                count_left_out(self._faults.dropped, root, "nested")

    def _check_ranks(self, question: _Node) -> None:
        """Two or more replies need ranks, each its own: otherwise nobody knows which is better."""
        if len(question.replies) < 2:
            return
        times = Counter(reply.rank for reply in question.replies)
        for reply in question.replies:
            if reply.place is not None:
                reply.place.show(self._faults)
            if reply.rank is None:
                self._faults.report(
                    "rank_missing",
                    f"A reply has no rank, and it is one of {len(question.replies)}.",
                    message=reply.id,
                    expected="`rank` in each of several replies to one message",
                )
            elif times[reply.rank] > 1:
                self._faults.report(
                    "rank_tied",
                    f"{times[reply.rank]} replies to one message share the rank {reply.rank}.",
                    message=reply.id,
                    expected="a rank of its own for each reply",
                )

    def _walk(
        self, question: _Node, above: tuple[Message, ...], kept: bool, group: str, found: list[Row]
    ) -> bool:
        """Collect the rows at a prompter's message and below.

        Args:
            question: the prompter's message.
            above: the dialogue so far.
            kept: whether the dialogue so far followed only replies within ``top_k``.
            group: digest of the root prompt.
            found: rows are appended here.

        Returns:
            Whether a demonstration goes on through this message.
        """
        history = (*above, Message("user", question.text))
        if kept:
            found.append(Prompt(question.id, group, history))
        ranked = self._ranked(question)
        question.used = kept or len(ranked) >= 2
        if len(ranked) >= 2:
            texts = tuple(one.text for one in ranked)
            known = tuple(one.properties for one in ranked)
            found.append(
                Preference(question.id, group, history, texts, known if any(known) else ())
            )
            for one in ranked:
                one.used = True
        goes_on = False
        for reply in question.replies:
            follow = kept and self._within(reply, len(question.replies))
            reply.used = reply.used or follow
            thread = (*history, Message("assistant", reply.text, reply.properties))
            deeper = [self._walk(one, thread, follow, group, found) for one in reply.replies]
            # A thread that ends on the prompter is a demonstration up to its last reply, once.
            if follow and not any(deeper):
                found.append(Conversation(reply.id, group, thread))
            goes_on = goes_on or follow
        return goes_on

    def _count_unused(self, node: _Node) -> bool:
        """Count the messages that ``top_k`` keeps out of all rows; whether this one is in any."""
        below = [self._count_unused(one) for one in node.replies]
        node.used = node.used or any(below)
        if not node.used:
            self._faults.filtered["top_k"] += 1
        if node.place is not None and node.used:
            node.place.held.use()
        elif node.place is not None:
            node.place.held.leave_out("top_k")
        return node.used

    def _within(self, reply: _Node, siblings: int) -> bool:
        if self._top_k is None:
            return True
        rank = 0 if reply.rank is None and siblings == 1 else reply.rank
        return rank is not None and rank < self._top_k

    def _ranked(self, question: _Node) -> list[_Node]:
        """The replies, best first, without unranked, tied and repeated ones."""
        times = Counter(reply.rank for reply in question.replies)
        ranked = {
            one.rank: one
            for one in question.replies
            if one.rank is not None and times[one.rank] == 1
        }
        kept: dict[str, _Node] = {}
        for rank in sorted(ranked):
            text = ranked[rank].text.strip()
            if text in kept:
                self._faults.dropped["duplicate_reply"] += 1
            kept.setdefault(text, ranked[rank])
        return list(kept.values())


def properties_of(raw: dict[str, Any]) -> Properties | None:
    """Language and reviewers' labels of a message; labels outside 0–1 count as not given."""
    labels = _labels(raw)
    values: dict[str, Any] = {}
    for name in RATINGS:
        value = labels.get(name)
        if isinstance(value, int | float) and 0 <= value <= 1:
            values[name] = float(value)
    lang = raw.get("lang")
    lang = lang if isinstance(lang, str) and lang else None
    return Properties(lang=lang, **values) if lang or values else None


def as_rank(value: Any) -> int | None:
    """A rank as a whole number, which pandas writes as 0.0, in CSV too; None: it is none."""
    if isinstance(value, str):
        match = _RANK.fullmatch(value)
        return int(match[1]) if match else None
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return int(value) if whole and not isinstance(value, bool) else None


def _labels(raw: dict[str, Any]) -> dict[str, Any]:
    """Name of a label → its mean value.

    Labels are ``{name: {value, count}}`` in exports, and lists of names and values on the hub.
    """
    labels = raw.get("labels")
    labels = labels if isinstance(labels, dict) else {}
    if isinstance(labels.get("name"), list) and isinstance(labels.get("value"), list):
        labels = dict(zip(labels["name"], labels["value"], strict=False))
    return {
        name: label.get("value") if isinstance(label, dict) else label
        for name, label in labels.items()
    }


def _has_reply(raw: dict[str, Any]) -> bool:
    replies = raw.get("replies")
    return isinstance(replies, list) and any(
        isinstance(one, dict) and one.get("role") == "assistant" for one in replies
    )

"""Open-Assistant's exports: message trees, or their messages one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from rlhf.data.formats.faults import MEND, Faults
from rlhf.data.rows import RATINGS, Conversation, Message, Preference, Prompt, Properties, Role, Row
from rlhf.data.split import group_of

ROLES: dict[str, Role] = {"prompter": "user", "assistant": "assistant"}
READY = "ready_for_export"
WAITING = "prompt_lottery_waiting"  # a reviewed prompt that nobody has answered yet
REVIEWS = {"approved": (True,), "not_rejected": (True, None), "any": (True, None, False)}
_Place: TypeAlias = tuple[str | Path, int]  # a file and a line of it


@dataclass(slots=True)
class _Node:
    """A message that passed all checks."""

    id: str
    text: str
    rank: int | None
    properties: Properties | None
    replies: list[_Node] = field(default_factory=list)


class OpenAssistant:
    """Trees of a prompt and its ranked replies: a tree a row, or a message a row.

    Deleted messages and those that reviewers rejected are left out with all below them, and so
    are trees that were never finished; trees whose prompt still waits for replies give a prompt.
    Single messages are put together when all are read, so they are held in memory.

    Args:
        faults: where faults go.
        top_k: demonstrations and prompts follow only replies of rank < top_k; None: all. A lone
            reply without a rank counts as rank 0. Preferences use all ranks.
        lang: languages of the root prompt that are kept, such as ``["en", "de"]``; None: all.
        min_quality: messages whose label ``quality`` is lower are left out with all below them;
            those without the label are kept.
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
        self._messages: list[tuple[_Place, dict[str, Any]]] = []

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """All rows of one tree, depth first; of a single message none, before ``finish``."""
        if "message_id" in record and "prompt" not in record:
            self._messages.append(((self._faults.path, self._faults.line), record))
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
            self._faults.filtered["tree_state"] += 1
            return []
        if self._lang is not None and raw.get("lang") not in self._lang:
            self._faults.filtered["lang"] += 1
            return []
        if state == READY and not _has_reply(raw):
            self._faults.report(
                "no_assistant",
                "No assistant replies in this tree.",
                message=raw.get("message_id"),
                expected="at least one reply of the role assistant",
            )
            return []
        root = self._node(raw, above=None)
        if root is None:
            return []
        found: list[Row] = []
        self._walk(root, (), True, group_of(root.text), found)
        return found

    def _node(self, raw: Any, above: str | None) -> _Node | None:
        """Check a message and all below it; None when it is left out.

        Args:
            raw: the message as it stands in the file.
            above: role of the message that it answers, in our terms; None at the root.
        """
        faults = self._faults
        if not isinstance(raw, dict):
            faults.report("not_a_message", "A reply is no object.", expected="a message: {…}")
            return None
        if (reason := self._left_out(raw)) is not None:
            faults.filtered[reason] += 1
            return None
        message_id = raw.get("message_id")
        if not isinstance(message_id, str) or not message_id:
            faults.report("id_missing", "A message has no id.", expected="`message_id` is a string")
            return None
        if message_id in self._seen:
            faults.report(
                "duplicate_id",
                "A message id occurs twice.",
                message=message_id,
                expected="an id of its own for each message",
                hint=f"was an export appended to another one? If not, {MEND}",
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
        rank, replies = raw.get("rank"), raw.get("replies") or []
        if rank is not None and type(rank) is not int:
            faults.report(
                "rank_invalid",
                f"The rank {rank!r} is not a whole number.",
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
        below = [self._node(reply, role) for reply in replies]
        node = _Node(
            message_id, text, rank, properties_of(raw), [one for one in below if one is not None]
        )
        if role == "user":
            self._check_ranks(node)
        return node

    def _left_out(self, raw: dict[str, Any]) -> str | None:
        """Why the options or the source's own marks leave a message out, or None."""
        if raw.get("deleted"):
            return "deleted"
        if raw.get("review_result") not in self._review:
            return "rejected" if raw.get("review_result") is False else "not_reviewed"
        if raw.get("synthetic") and not self._synthetic:
            return "synthetic"
        quality = _label(raw, "quality") if self._min_quality is not None else None
        if quality is not None and quality < (self._min_quality or 0):
            return "quality"
        return None

    def finish(self) -> Iterator[Row]:
        """Rows of the trees that single messages make."""
        below: dict[Any, list[tuple[_Place, dict[str, Any]]]] = {}
        for place, message in self._messages:
            below.setdefault(message.get("parent_id"), []).append((place, message))
        known = {message.get("message_id") for _, message in self._messages}
        for parent in [one for one in below if one is not None and one not in known]:
            for (self._faults.path, self._faults.line), message in below.pop(parent):
                self._faults.report(
                    "parent_missing",
                    f"A message answers {parent!r}, which is not there.",
                    message=message.get("message_id"),
                    expected="`parent_id` is the `message_id` of another row, or null in a prompt",
                )
        for (self._faults.path, self._faults.line), root in below.get(None, []):
            state = {"tree_state": root["tree_state"]} if root.get("tree_state") else {}
            yield from self.rows(state | {"prompt": _with_replies(root, below)})

    def _check_ranks(self, question: _Node) -> None:
        """Two or more replies need ranks, each its own: otherwise nobody knows which is better."""
        if len(question.replies) < 2:
            return
        times = Counter(reply.rank for reply in question.replies)
        for reply in question.replies:
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
        if len(ranked) >= 2:
            texts = tuple(one.text for one in ranked)
            known = tuple(one.properties for one in ranked)
            found.append(
                Preference(question.id, group, history, texts, known if any(known) else ())
            )
        goes_on = False
        for reply in question.replies:
            follow = kept and self._within(reply, len(question.replies))
            thread = (*history, Message("assistant", reply.text, reply.properties))
            deeper = [self._walk(one, thread, follow, group, found) for one in reply.replies]
            # A thread that ends on the prompter is a demonstration up to its last reply, once.
            if follow and not any(deeper):
                found.append(Conversation(reply.id, group, thread))
            goes_on = goes_on or follow
        return goes_on

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
    """Language and reviewers' labels of a message; labels outside 0–1 count as not given.

    Labels are ``{name: {value, count}}`` in exports, and lists of names and values on the hub.
    """
    labels = raw.get("labels")
    labels = labels if isinstance(labels, dict) else {}
    if isinstance(labels.get("name"), list) and isinstance(labels.get("value"), list):
        labels = dict(zip(labels["name"], labels["value"], strict=False))
    values: dict[str, Any] = {}
    for name in RATINGS:
        label = labels.get(name)
        value = label.get("value") if isinstance(label, dict) else label
        if isinstance(value, int | float) and 0 <= value <= 1:
            values[name] = float(value)
    lang = raw.get("lang")
    lang = lang if isinstance(lang, str) and lang else None
    return Properties(lang=lang, **values) if lang or values else None


def _with_replies(root: dict[str, Any], below: dict[Any, Any]) -> dict[str, Any]:
    """A copy of a message with all that answers it."""
    top = dict(root)
    pending = [top]
    while pending:
        one = pending.pop()
        # Replies are taken out, so messages that answer each other in a circle end, too.
        answers = below.pop(one.get("message_id"), []) if one.get("message_id") else []
        one["replies"] = [dict(message) for _, message in answers]
        pending += one["replies"]
    return top


def _label(raw: dict[str, Any], name: str) -> float | None:
    """Mean value of a label: of ``{name: {value}}``, or of the hub's lists of names and values."""
    labels = raw.get("labels")
    if not isinstance(labels, dict):
        return None
    if isinstance(labels.get("name"), list) and isinstance(labels.get("value"), list):
        labels = dict(zip(labels["name"], labels["value"], strict=False))
    value = labels.get(name)
    value = value.get("value") if isinstance(value, dict) else value
    return float(value) if isinstance(value, int | float) else None


def _has_reply(raw: dict[str, Any]) -> bool:
    replies = raw.get("replies")
    return isinstance(replies, list) and any(
        isinstance(one, dict) and one.get("role") == "assistant" for one in replies
    )

"""One reply a row, with a label that says whether people accepted it: KTO's rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf.data.formats.accounts import Held
from rlhf.data.formats.columns import columns_of
from rlhf.data.formats.compared import PROMPT, Compared
from rlhf.data.formats.faults import Faults
from rlhf.data.formats.labels import as_label, judged
from rlhf.data.formats.turns import HUMAN_ASSISTANT, group_of_turns, prompts_only, ranked
from rlhf.data.rows import Conversation, Feedback, Message, Preference, Prompt, Row


@dataclass
class _Reply:
    """The row that a reply first came from, and all labels that it has."""

    row_id: str
    held: Held
    labels: set[bool] = field(default_factory=set)


class Labelled(Compared):
    """``{prompt, completion, label}``: a reply, and whether it was accepted, as KTO uses it.

    Every reply is feedback. One that was accepted is a demonstration too; one that was not is
    none, and is counted as ``rejected_reply``. Replies are texts, messages or lists of messages,
    as in ``preference``.

    Args:
        faults: where faults go.
        prompt: column or template of a text, a transcript, a list of alternating texts or of
            messages; if it is absent or empty, the dialogue in ``completion`` contains it; null:
            always.
        completion: column of the reply, or of the dialogue that ends with it.
        label: column that says true or false, 1 or 0, or desirable, chosen or good and their
            opposites.
        pairs: pair each accepted reply with each rejected reply to the same prompt; replies that
            are both are left out and counted as ``label_differs``. The whole dataset is held in
            memory.
        speakers: names of user and assistant in a transcript.
        inline: turns of a transcript begin in the middle of a line; false: in paragraphs of their
            own.
        system: column of a system message; null: ``system`` or ``system_prompt``, if there is one;
            an empty name: none.
    """

    def __init__(
        self,
        faults: Faults,
        prompt: str | None = PROMPT,
        completion: str = "completion",
        label: str = "label",
        pairs: bool = False,
        speakers: Sequence[str] = HUMAN_ASSISTANT,
        inline: bool = False,
        system: str | None = None,
    ) -> None:
        taken = columns_of(prompt, completion, label)
        super().__init__(faults, prompt, speakers, inline, system=system, taken=taken)
        self._completion, self._label, self._pairs = completion, label, pairs
        self._known: dict[tuple[Message, ...], dict[str, _Reply]] = {}

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """Feedback, the prompt and perhaps a conversation; with ``pairs`` in the end."""
        answer = self._answer(record, self._completion, "completion")
        histories = self._histories(record, [answer]) if answer is not None else None
        accepted = self._accepted(record) if histories is not None else None
        if answer is None or histories is None or accepted is None:
            return []
        row_id = self._faults.row_id
        if self._pairs:
            replies, text = self._known.setdefault(histories[0], {}), answer.text.strip()
            if text in replies:
                self._faults.filtered["duplicate_reply"] += 1
            else:
                replies[text] = _Reply(row_id, self._faults.hold())
            replies[text].labels.add(accepted)
            return []
        rows = ranked(self._faults, row_id, histories[0], [answer.text])
        rows += judged(rows, accepted)
        return rows if accepted else prompts_only(self._faults, rows, "rejected_reply")

    def finish(self) -> Iterable[Row]:
        """With ``pairs``: accepted replies to imitate, the pairs, feedback, and the prompts."""
        for history, replies in self._known.items():
            sides: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
            for text, reply in replies.items():
                if len(reply.labels) == 2:
                    self._faults.filtered["label_differs"] += 1
                    reply.held.leave_out("label_differs")
                else:
                    sides[True in reply.labels].append((reply.row_id, text))
            if not sides[True] and sides[False]:
                self._faults.filtered["rejected_reply"] += len(sides[False])
            first = next(iter(replies.values())).row_id
            group = group_of_turns(history)
            for accepted, side in sides.items():
                for row_id, text in side:
                    yield Feedback(row_id, group, history, text, accepted)
            for row_id, text in sides[True]:
                yield Conversation(row_id, group, (*history, Message("assistant", text)))
                for number, (_, worse) in enumerate(sides[False], start=1):
                    yield Preference(f"{row_id}.{number}", group, history, (text, worse))
            yield Prompt(first, group, history)
            for reply in replies.values():
                reply.held.use()  # the prompt at least

    def _accepted(self, record: dict[str, Any]) -> bool | None:
        label = self._columns.value(record, self._label, "label")
        accepted = as_label(label)
        if accepted is None and label is not None:
            self._faults.report_value(
                "label_invalid",
                self._label,
                label,
                "true, 1 or desirable for a reply that was accepted; false, 0 or undesirable",
            )
        return accepted

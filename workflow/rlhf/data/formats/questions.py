"""Questions and answers in columns: instructions, summaries, plain pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.data.formats.columns import Columns, columns_of, holds_something, there
from rlhf.data.formats.faults import MEND, Faults
from rlhf.data.formats.labels import Labels
from rlhf.data.formats.system import SystemColumn
from rlhf.data.formats.turns import check_prompts, dialogue, pick, prompts_only
from rlhf.data.rows import Message, Row

SUMMARIZE = (
    "Summarize the following text:\n\n{}",
    "Write a short summary of this:\n\n{}",
    "What are the main points of this text?\n\n{}",
    "{}\n\nSummarize the text above.",
    "{}\n\nTL;DR:",
)
NO_INPUT = ("no input", "noinput", "n/a")  # without marks around them


class Questions:
    """Each row is a question and its answer.

    A column is named by its path (``answers.text.0``) or by a template (``{title}, step by step``;
    ``{context?}`` may be empty). If a label says that the answer is bad, the row only gives a
    prompt and is counted as ``rejected_reply``.

    Args:
        faults: where faults go.
        question: column or template.
        answer: column or template; null: rows are prompts only.
        system: column or template of a system message; none if it is empty; null: ``system`` or
            ``system_prompt``, if there is one; an empty name: none.
        no_answer: the answer to use if there is none; such rows are counted as ``no_answer``.
        each: columns with lists of equal length; the row stands for one row per element.
        prompts: templates with ``{}`` for the question; one is drawn, by the question's digest.
        max_words: the question is truncated after this many words, separated by spaces, and the
            row is counted as ``cut``.
        remove: a regular expression; its matches are removed from all texts.
        join: how a list of strings becomes one text; null: a list is an error.
        label: column that says whether the answer is good; null: ``label``, ``kto_tag``, ``tag``,
            ``is_good`` or ``desirable``, if it is true or false; an empty name: none.
    """

    # Options that name the columns, for messages: of the question, or of each that makes it up.
    _names: tuple[str | Mapping[str, str], str] = ("question", "answer")

    def __init__(
        self,
        faults: Faults,
        question: str = "question",
        answer: str | None = "answer",
        system: str | None = None,
        no_answer: str | None = None,
        each: Sequence[str] | None = None,
        prompts: Sequence[str] | None = None,
        max_words: int | None = None,
        remove: str | None = None,
        join: str | None = None,
        label: str | None = None,
    ) -> None:
        check_prompts(faults, prompts)
        if max_words is not None and (type(max_words) is not int or max_words < 1):
            raise faults.wrong_option("max_words", max_words, "a whole number of 1 or more")
        if each is not None and not isinstance(each, list | tuple):
            raise faults.wrong_option("each", each, "a list of columns, such as [answers]")
        self._faults, self._question, self._answer = faults, question, answer
        if no_answer is not None and (answer is None or "{" in answer):
            raise faults.wrong_option(
                "no_answer", no_answer, "null, where `answer` is a template, or null"
            )
        self._no_answer, self._each = no_answer, tuple(each or ())
        self._prompts, self._max_words = prompts, max_words
        self._columns = Columns(faults, remove, join)
        taken = columns_of(question, answer, *self._each)
        self._system = SystemColumn(faults, self._columns, system, taken)
        self._labels = Labels(faults, label, taken | self._system.reads)
        self.reads = taken | self._system.reads | self._labels.reads

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """A conversation and its prompt, or several of them."""
        row_id = self._faults.row_id
        if not self._each:
            return self._rows(row_id, record)
        records = enumerate(self._records(record), start=1)
        return [row for i, one in records for row in self._rows(f"{row_id}.{i}", one)]

    def _rows(self, row_id: str, record: dict[str, Any]) -> list[Row]:
        messages = self._messages(record)
        good = None if messages is None else self._labels.says(record)
        if messages is None or good is None:
            return []
        rows = dialogue(row_id, messages)
        rows += self._labels.feedback(rows)
        return rows if good else prompts_only(self._faults, rows, "rejected_reply")

    def _messages(self, record: dict[str, Any]) -> list[Message] | None:
        question = self._columns.text(record, self._question, self._names[0])
        if question is None:
            return None
        answer = ""
        if self._answer is not None:
            found = self._columns.text(record, self._answer, self._names[1], self._no_answer)
            if found is None:
                return None
            answer = found
        history = self._history(record)
        if history is None:
            return None
        if self._max_words is not None and len(words := question.split(" ")) > self._max_words:
            question = " ".join(words[: self._max_words])
            self._faults.noticed["cut"] += 1
        if self._prompts:
            question = pick(self._prompts, question).replace("{}", question)
        messages = [*history, Message("user", question)]
        if self._answer is not None:
            messages.append(Message("assistant", answer))
        whole = self._system.before(record, messages)
        if whole is not None and self._answer is not None and answer is self._no_answer:
            self._faults.noticed["no_answer"] += 1
        return whole

    def _history(self, record: dict[str, Any]) -> list[Message] | None:
        """What was said before the question, or None after reporting a fault."""
        return []

    def _records(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows that one stands for; none after reporting or counting why."""
        lists = []
        for column in self._each:
            found = self._columns.value(record, column, "each")
            if not isinstance(found, list):
                if found is not None:
                    self._faults.report_value("column_type", column, found, "a list")
                return []
            lists.append(found)
        if len({len(one) for one in lists}) > 1:
            counts = ", ".join(f"{c} {len(one)}" for c, one in zip(self._each, lists, strict=True))
            self._faults.report(
                "uneven_lists",
                f"The lists of a row differ in length: {counts}.",
                expected="one element for each of the others",
                key=self._each[0],
            )
            return []
        if not lists[0]:
            self._faults.filtered["empty_list"] += 1
        values = zip(*lists, strict=True)
        return [record | dict(zip(self._each, one, strict=True)) for one in values]


class Alpaca(Questions):
    """``{instruction, input, output}``, and the columns that LLaMA-Factory adds.

    An input that is ``<noinput>``, ``No input`` or ``N/A`` is left out, and the row is counted as
    ``no_input``. If a label says that the answer is bad, the row only gives prompts and is counted
    as ``rejected_reply``.

    Args:
        faults: where faults go.
        instruction: column of the task.
        input: column of the task's input.
        output: column of the answer.
        system: column of a system message; null: ``system`` or ``system_prompt``, if there is one;
            an empty name: none.
        history: column of what was said before: a list of [question, answer]; may be absent; an
            empty name: none.
        label: column that says whether the answer is good; null: ``label``, ``kto_tag``, ``tag``,
            ``is_good`` or ``desirable``, if it is true or false; an empty name: none.
    """

    def __init__(
        self,
        faults: Faults,
        instruction: str = "instruction",
        input: str = "input",
        output: str = "output",
        system: str | None = None,
        history: str = "history",
        label: str | None = None,
    ) -> None:
        question = f"{{{instruction}}}\n{{{input}?}}"
        super().__init__(faults, question, output, system, label=label)
        self._names = ({instruction: "instruction", input: "input"}, "output")
        self._input, self._before = input, history
        self.reads |= columns_of(history)

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """A conversation and its prompts."""
        given = there(record, self._input)
        if isinstance(given, str) and given.strip("<>[](). \n").casefold() in NO_INPUT:
            self._faults.noticed["no_input"] += 1
            record = record | {self._input: ""}
        return super().rows(record)

    def _history(self, record: dict[str, Any]) -> list[Message] | None:
        value = there(record, self._before)
        if not holds_something(value):
            return []
        messages: list[Message] = []
        for pair in value if isinstance(value, list) else [value]:
            listed = pair if isinstance(pair, list) else []
            texts = [one for one in listed if isinstance(one, str) and one.strip()]
            if len(listed) != 2 or len(texts) != 2:
                self._faults.report_value(
                    "history_invalid",
                    self._before,
                    pair,
                    "a list of [question, answer], each a text",
                    hint="name the right column in `options.history`; with an empty name none is "
                    f"read; or {MEND}",
                )
                return None
            if not all(self._faults.is_unicode(one, key=self._before) for one in texts):
                return None
            messages += [Message("user", texts[0]), Message("assistant", texts[1])]
        return messages


class Summaries(Questions):
    """A text and its summary; the request is drawn from a few wordings.

    Args:
        faults: where faults go.
        text: column or template of the text; a list of sentences is joined.
        summary: column or template of the summary; likewise.
        prompts: templates with ``{}`` for the text.
        max_words: the text is truncated after this many words, separated by spaces, and the row is
            counted as ``cut``.
        system: column or template of a system message; null: ``system`` or ``system_prompt``, if
            there is one; an empty name: none.
        label: column that says whether the summary is good; null: ``label``, ``kto_tag``, ``tag``,
            ``is_good`` or ``desirable``, if it is true or false; an empty name: none.
    """

    _names = ("text", "summary")

    def __init__(
        self,
        faults: Faults,
        text: str = "text",
        summary: str = "summary",
        prompts: Sequence[str] = SUMMARIZE,
        max_words: int | None = 512,
        system: str | None = None,
        label: str | None = None,
    ) -> None:
        super().__init__(
            faults,
            text,
            summary,
            system,
            prompts=prompts,
            max_words=max_words,
            join=" ",
            label=label,
        )

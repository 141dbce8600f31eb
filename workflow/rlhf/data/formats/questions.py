"""Questions and answers in columns: instructions, summaries, plain pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rlhf.data.formats.columns import Columns, shown
from rlhf.data.formats.faults import Faults
from rlhf.data.formats.turns import check_prompts, dialogue, pick
from rlhf.data.rows import Message, Row

SUMMARIZE = (
    "Summarize the following text:\n\n{}",
    "Write a short summary of this:\n\n{}",
    "What are the main points of this text?\n\n{}",
    "{}\n\nSummarize the text above.",
    "{}\n\nTL;DR:",
)
NO_INPUT = ("", "no input", "noinput", "n/a", "none", "<noinput>")


class Questions:
    """Each row is a question and its answer.

    A column is named by its path (``answers.text.0``) or by a template (``{title}, step by
    step``; ``{context?}`` may be empty).

    Args:
        faults: where faults go.
        question: column or template.
        answer: column or template.
        system: column or template of a system message; none where it is empty.
        no_answer: the answer where there is none.
        each: columns with lists of one length; the row stands for as many, one for each element.
        prompts: templates with ``{}`` for the question; one is drawn by its digest.
        max_words: the question is cut after so many words.
        remove: a regular expression; what it matches is taken out of all texts.
        join: how a list of strings becomes one text; None: a list is a fault.
    """

    def __init__(
        self,
        faults: Faults,
        question: str = "question",
        answer: str = "answer",
        system: str | None = None,
        no_answer: str | None = None,
        each: Sequence[str] | None = None,
        prompts: Sequence[str] | None = None,
        max_words: int | None = None,
        remove: str | None = None,
        join: str | None = None,
    ) -> None:
        check_prompts(faults, prompts)
        if max_words is not None and (type(max_words) is not int or max_words < 1):
            raise faults.wrong_option("max_words", max_words, "a whole number of 1 or more")
        if each is not None and not isinstance(each, list | tuple):
            raise faults.wrong_option("each", each, "a list of columns, such as [answers]")
        self._faults, self._question, self._answer = faults, question, answer
        self._system, self._no_answer, self._each = system, no_answer, tuple(each or ())
        self._prompts, self._max_words = prompts, max_words
        self._columns = Columns(faults, remove, join)

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """A conversation and its prompt, or several of them."""
        row_id = self._faults.row_id
        if not self._each:
            return self._rows(row_id, record)
        records = enumerate(self._records(record), start=1)
        return [row for i, one in records for row in self._rows(f"{row_id}.{i}", one)]

    def _rows(self, row_id: str, record: dict[str, Any]) -> list[Row]:
        question = self._columns.text(record, self._question, "question")
        if question is None:
            return []
        answer = self._columns.text(record, self._answer, "answer", self._no_answer)
        if answer is None:
            return []
        if self._max_words is not None and len(words := question.split(" ")) > self._max_words:
            question = " ".join(words[: self._max_words])
        if self._prompts:
            question = pick(self._prompts, question).replace("{}", question)
        messages = [Message("user", question), Message("assistant", answer)]
        system = self._columns.text(record, self._system, "system", "") if self._system else None
        if system:
            messages.insert(0, Message("system", system))
        return dialogue(row_id, messages)

    def _records(self, record: dict[str, Any]) -> Iterator[dict[str, Any]]:
        lists = []
        for column in self._each:
            found = self._columns.value(record, column, "each")
            if not isinstance(found, list):
                if found is not None:
                    self._faults.report(
                        "column_type",
                        f"Column `{column}` holds {shown(found)}.",
                        expected="a list",
                        key=column,
                    )
                return
            lists.append(found)
        if len({len(one) for one in lists}) > 1:
            counts = ", ".join(f"{c} {len(one)}" for c, one in zip(self._each, lists, strict=True))
            self._faults.report(
                "uneven_lists",
                f"The lists of a row differ in length: {counts}.",
                expected="one element for each of the others",
                key=self._each[0],
            )
            return
        if not lists[0]:
            self._faults.filtered["empty_list"] += 1
        for values in zip(*lists, strict=True):
            yield record | dict(zip(self._each, values, strict=True))


class Alpaca(Questions):
    """``{instruction, input, output}``; an input that says nothing is left out.

    Args:
        faults: where faults go.
        instruction: column of the task.
        input: column of what it is about.
        output: column of the answer.
        system: column of a system message.
    """

    def __init__(
        self,
        faults: Faults,
        instruction: str = "instruction",
        input: str = "input",
        output: str = "output",
        system: str | None = None,
    ) -> None:
        question = f"{{{instruction}}}\n{{{input}?}}"
        super().__init__(faults, question, output, system)
        self._input, self._task = input, instruction

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """A conversation and its prompt."""
        given, task = record.get(self._input), record.get(self._task)
        if isinstance(given, str) and isinstance(task, str):
            said = given.strip().casefold()
            if said.strip("<>. ") in NO_INPUT or said in task.casefold():
                record = record | {self._input: ""}
        return super().rows(record)


class Summaries(Questions):
    """A text and its summary; the request is drawn from a few.

    Args:
        faults: where faults go.
        text: column or template of the text; a list of sentences is joined.
        summary: column or template of the summary; likewise.
        prompts: templates with ``{}`` for the text.
        max_words: the text is cut after so many words.
    """

    def __init__(
        self,
        faults: Faults,
        text: str = "text",
        summary: str = "summary",
        prompts: Sequence[str] = SUMMARIZE,
        max_words: int | None = 512,
    ) -> None:
        super().__init__(faults, text, summary, prompts=prompts, max_words=max_words, join=" ")

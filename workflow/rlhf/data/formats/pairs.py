"""A better and a worse reply to a prompt, or two dialogues that end with them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from rlhf.data.formats.columns import columns_of, there
from rlhf.data.formats.compared import PROMPT, Answer, Compared
from rlhf.data.formats.faults import Faults
from rlhf.data.formats.turns import HUMAN_ASSISTANT, ranked
from rlhf.data.rows import Row

_HEADS = re.compile(r"^[ \t]*([^\s:][^\n:]{0,30}):\s", re.MULTILINE)


class Pairs(Compared):
    """``{prompt, chosen, rejected}``: DeepSpeed-Chat's local/jsonfile, rm-static, binarized sets.

    Replies are texts, messages, or lists of messages (``{role, content}`` or ``{from, value}``)
    that end with the reply: then the messages before it are the history, which follows the prompt
    or begins with it. Pairs whose histories diverge earlier cannot be compared: they give only a
    demonstration, and are counted as ``history_differs``.

    Args:
        faults: where faults go.
        prompt: column or template of a text, a transcript (``Human: … Assistant:``), a list of
            alternating texts or of messages; if it is absent or empty, the dialogues contain it;
            null: they always do.
        chosen: column or template of the better reply.
        rejected: column or template of the worse reply; null: rows are demonstrations only.
        speakers: names of user and assistant in a transcript.
        inline: turns of a transcript begin in the middle of a line; false: in paragraphs of their
            own.
        system: column of a system message; null: ``system`` or ``system_prompt``, if there is one;
            an empty name: none.
        scores: columns of the scores of the two replies, such as ``[score_chosen,
            score_rejected]``; rows keep them.
        margin: column of the difference of their scores, where there is no more than that, as in
            TRL's sets; rows keep it as the score of ``chosen``, and 0 as that of ``rejected``.
    """

    def __init__(
        self,
        faults: Faults,
        prompt: str | None = PROMPT,
        chosen: str = "chosen",
        rejected: str | None = "rejected",
        speakers: Sequence[str] = HUMAN_ASSISTANT,
        inline: bool = False,
        system: str | None = None,
        scores: Sequence[str] | None = None,
        margin: str | None = None,
    ) -> None:
        given = [margin] if margin is not None else list(scores or ())
        taken = columns_of(prompt, chosen, rejected, *given)
        super().__init__(faults, prompt, speakers, inline, system=system, taken=taken)
        self._chosen, self._rejected = chosen, rejected
        if scores is not None and (len(given) != 2 or margin is not None):
            raise faults.wrong_option(
                "scores", scores, "two columns, such as [score_chosen, score_rejected], or `margin`"
            )
        self._scores, self.scored = given, bool(given) and rejected is not None

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """A conversation, the pair and the prompt."""
        chosen = self._answer(record, self._chosen, "chosen")
        if chosen is None:
            return []
        answers = [chosen]
        if self._rejected is not None:
            rejected = self._answer(record, self._rejected, "rejected")
            if rejected is None or not self._fit(record, chosen, rejected):
                return []
            answers.append(rejected)
        histories = self._histories(record, answers)
        if histories is None:
            return []
        if histories[-1] != histories[0]:
            self._faults.filtered["history_differs"] += 1
            answers = answers[:1]
        replies = [one.text for one in answers]
        scores: list[float] = []
        if self.scored and len(answers) == 2:
            found = [self._score_in(record, column) for column in self._scores]
            if any(one is None for one in found):
                return []
            scores = [*(one for one in found if one is not None), 0.0][:2]
        self._notice_repeated(record, replies)
        return ranked(self._faults, self._faults.row_id, histories[0], replies, scores)

    def _fit(self, record: dict[str, Any], chosen: Answer, rejected: Answer) -> bool:
        """Whether the columns hold what can be compared; a fault is reported if not."""
        if chosen.listed != rejected.listed and (chosen.before or rejected.before):
            kind = {True: "messages", False: "a text"}
            self._faults.report(
                "kinds_differ",
                f"Column `{self._chosen}` holds {kind[chosen.listed]}, `{self._rejected}` "
                f"{kind[rejected.listed]}.",
                expected="two texts, or two lists of messages",
                key=self._rejected,
            )
            return False
        if chosen.listed or rejected.listed:
            return True
        user, assistant = (f"{name}:" for name in self._speakers)
        texts = (chosen.text, rejected.text)
        dialogues = all(one.startswith(user) and assistant in one for one in texts)
        if dialogues or (self._prompt == PROMPT and PROMPT not in record):
            return not self._are_dialogues(texts, dialogues)
        return True

    def _are_dialogues(self, texts: tuple[str, str], known: bool) -> bool:
        """Report texts that are whole dialogues, or that hold their prompt."""
        heads = [_HEADS.findall(one)[:2] for one in texts]
        options = {"chosen": self._chosen, "rejected": self._rejected}
        named = [f"`options.{key}: {one}`" for key, one in options.items() if key != one]
        if known or (heads[0] == heads[1] and len(set(heads[0])) == 2):
            if not known:
                named.append(f"`options.speakers: [{', '.join(heads[0])}]`")
            self._faults.report(
                "whole_dialogue",
                f"Columns `{self._chosen}` and `{self._rejected}` hold whole dialogues as text.",
                expected="replies to a prompt in a column of its own, or lists of messages",
                key=self._chosen,
                hint="read them with `format: hh`" + "".join(f" and {one}" for one in named),
            )
            return True
        alike = itertools.takewhile(lambda two: two[0] == two[1], zip(*texts, strict=False))
        start = "".join(one for one, _ in alike)
        if len(start.split()) > 1:
            self._faults.report(
                "prompt_missing",
                f"The row has no column `{PROMPT}`, and both texts begin with {start[:60]!r}.",
                expected=f"a column `{PROMPT}`, and replies without it in the others",
                key=self._chosen,
                hint="where the prompt ends is not known: write it to a column of its own; or "
                "`options.prompt` names the one that it is in already",
            )
            return True
        return False

    def _notice_repeated(self, record: dict[str, Any], replies: Sequence[str]) -> None:
        """Count rows whose replies seem to begin with the prompt once more."""
        prompt: Any = there(record, self._prompt)
        long = isinstance(prompt, str) and len(prompt.split()) > 2
        if long and all(one.startswith(prompt.strip()) for one in replies):
            self._faults.noticed["prompt_repeated"] += 1

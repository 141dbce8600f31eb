"""``rlhf chat FOLDER``: talk to a model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.commands.arguments import number, whole
from rlhf.core.files import read_json
from rlhf.core.user_paths import path_argument
from rlhf.errors import RlhfError

if TYPE_CHECKING:
    from rlhf.data.rows import Message

WELCOME = "/reset forgets the conversation, /quit ends it."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, and how it is sampled."""
    parser.add_argument("folder", type=path_argument, metavar="CHECKPOINT_FOLDER")
    parser.add_argument("--prompt", help="answer this once and exit")
    parser.add_argument("--max-new-tokens", type=whole(1), default=256, metavar="N")
    parser.add_argument("--temperature", type=number(0), default=0.7, metavar="T")
    parser.add_argument(
        "--beta",
        type=number(0),
        metavar="B",
        help="weight of advantages beside the log probabilities of an ILQL model; 1 by default, 0 "
        "samples from its policy alone",
    )
    parser.add_argument("--top-k", type=whole(0), default=0, metavar="K", help="0: all tokens")
    parser.add_argument("--top-p", type=number(0, 1), default=1.0, metavar="P")
    parser.add_argument("--min-p", type=number(0, 1), default=0.0, metavar="P")
    parser.add_argument("--min-new-tokens", type=whole(0), default=0, metavar="N")
    parser.add_argument(
        "--stop",
        action="append",
        type=_not_empty,
        default=[],
        metavar="TEXT",
        help="a text that ends an answer",
    )
    parser.add_argument("--greedy", action="store_true", help="always the most probable token")
    parser.add_argument("--seed", type=whole(0), default=0, help="same seed, same answers")


def _not_empty(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("an empty text would end every answer")
    return text


def run(args: argparse.Namespace) -> int:
    """Answer once, or until the user has enough."""
    folder = find_model(args.folder)
    chat = Chat(
        folder,
        args.max_new_tokens,
        0.0 if args.greedy else args.temperature,
        args.seed,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        min_new_tokens=args.min_new_tokens,
        stop=args.stop,
        beta=args.beta,
    )
    if args.prompt is not None:
        print(chat.say(args.prompt))
        return 0
    print(WELCOME)
    for line in _lines():
        if line == "/quit":
            break
        if line == "/reset":
            chat.reset()
            print("(forgotten)")
        elif line:
            try:
                print(chat.say(line))
            except RlhfError as error:
                print(error)
    return 0


def _lines() -> Iterator[str]:
    while True:
        try:
            yield input("> ").strip()
        except EOFError:
            print()
            return
        except UnicodeDecodeError:
            print("That was not UTF-8.")


def find_model(folder: Path) -> Path:
    """The folder itself, or ``model/`` in an artifact's folder.

    Raises:
        RlhfError: there is no language model.
    """
    for candidate in (folder, folder / "model"):
        try:
            config = read_json(candidate / "config.json")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ValueError as error:
            raise _damaged(candidate, f"config.json is not JSON: {error}") from None
        kinds = config.get("architectures") if isinstance(config, dict) else None
        if not isinstance(kinds, list):
            raise _damaged(candidate, "config.json names no `architectures`")
        if any(str(kind).endswith("ForSequenceClassification") for kind in kinds):
            raise RlhfError(
                "This is a reward model: it scores, it does not answer.",
                where=candidate,
                hint="chat with results/sft/<name>/model or results/ppo/<name>/model",
            )
        return candidate
    raise RlhfError(
        "There is no model here (no config.json).",
        where=folder,
        expected="a folder in Hugging Face's layout, such as results/ppo/<name>/model",
    )


def _damaged(folder: Path, what: str) -> RlhfError:
    return RlhfError(
        f"The model can't be loaded: {what}.",
        where=folder,
        expected="a folder in Hugging Face's layout, such as results/ppo/<name>/model",
        hint="`rlhf verify` says whether an artifact's files are whole",
    )


class Chat:
    """A conversation with one model.

    Args:
        folder: the model.
        max_new_tokens: longest answer.
        temperature: 0 takes the most probable token.
        seed: same seed and same conversation, same answers.
        stop: texts that end an answer.
        beta: weight of the advantages of an ILQL model, whose default is 1.
        restrictions: which tokens can be drawn, as ``Decoding`` has it.

    Raises:
        RlhfError: the model can't be loaded or sampled from; or ``beta`` is given, and it has no
            advantages.
    """

    def __init__(
        self,
        folder: Path,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        stop: Sequence[str] = (),
        beta: float | None = None,
        **restrictions: Any,
    ) -> None:
        from rlhf.data.templates.chat import check_tokenizer
        from rlhf.models import devices, inference
        from rlhf.models.advantage import AdvantagePolicy, has_heads, load_heads
        from rlhf.models.context import context_of
        from rlhf.models.decoding import Decoding, StopTexts
        from rlhf.models.load import load_tokenizer
        from rlhf.models.sampling_check import check_sampling

        try:
            self._tokenizer: Any = load_tokenizer(folder)
            check_tokenizer(self._tokenizer, model=folder.name)
            devices.check_device()
            self._policy = inference.token_scorer(folder)
        except (RlhfError, MemoryError):
            raise
        except Exception as error:  # transformers and its readers raise all kinds
            what = (str(error).splitlines() or [""])[0]
            raise _damaged(folder, f"{type(error).__name__}: {what}") from error
        check_sampling(self._policy, folder)
        if has_heads(folder):
            heads = load_heads(folder, self._policy)
            self._policy = AdvantagePolicy(self._policy, heads, 1.0 if beta is None else beta, 0)
        elif beta is not None:
            raise RlhfError(
                "This model has no advantages that could be weighed (no heads.safetensors).",
                where=folder,
                expected="the model of an ILQL run",
                hint="leave --beta out",
            )
        self._context = context_of(folder).tokens
        self._max_new_tokens, self._temperature = max_new_tokens, temperature
        texts = StopTexts(self._tokenizer, stop) if stop else None
        self._decoding = Decoding(**restrictions, stop=texts)
        self._seed = seed
        self._history: list[Message] = []

    def reset(self) -> None:
        """Forget the conversation."""
        self._history = []

    def say(self, text: str) -> str:
        """The model's answer to ``text``, which joins the conversation with it.

        Raises:
            RlhfError: the text is not UTF-8, or the conversation too long for the model.
        """
        import torch

        from rlhf.core.seeds import generator
        from rlhf.data.rows import Message
        from rlhf.data.templates.chat import encode_prompt
        from rlhf.models.generate import generate, uniforms

        if not _is_text(text):
            raise RlhfError(
                "The text is not UTF-8.", hint="write it in a terminal that speaks UTF-8"
            )
        history = [*self._history, Message("user", text)]
        ids = encode_prompt(self._tokenizer, history)
        if self._context and len(ids) + self._max_new_tokens > self._context:
            raise RlhfError(
                f"The conversation has {len(ids)} tokens; with {self._max_new_tokens} new ones it "
                f"does not fit into the model's {self._context}.",
                hint="/reset, or a smaller --max-new-tokens",
            )
        draws = uniforms(generator(self._seed, "chat", len(history)), 1, self._max_new_tokens)
        (response,) = generate(
            self._policy,
            [torch.tensor(ids)],
            draws,
            self._tokenizer.eos_token_id,
            self._temperature,
            decoding=self._decoding,
        )
        answer = self._tokenizer.decode(response.ids, skip_special_tokens=True).strip()
        self._history = [*history, Message("assistant", answer)]
        return answer


def _is_text(text: str) -> bool:
    """Whether no byte of the command line is hidden in a text, as Python hides foreign ones."""
    return not any("\ud800" <= char <= "\udfff" for char in text)

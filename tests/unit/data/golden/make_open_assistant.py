"""Makes ``open-assistant.json``: what Open-Assistant's own code writes for the cases below.

Run with Open-Assistant's ``model`` folder at commit f1e6ed9526f5817531f3ab85441a40b3671ddccb on
the path, in a folder of its own with only ``custom_datasets/{formatting,dialogue_collator,
ranking_collator}.py`` and empty ``__init__.py`` files (the others import half of the hub), and
pydantic 1.10 before ours:

    PYTHONPATH=<pydantic 1.10>:<that folder>:workflow:tests python <this file>

Its random state is seeded for each row, right before the row is formatted, so that shuffles and
dropout can be compared too.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from model_training.custom_datasets import formatting
from model_training.custom_datasets.dialogue_collator import DialogueDataCollator
from model_training.custom_datasets.ranking_collator import RankingDataCollator
from support.tiny_tokenizers import for_oasst

TOKENIZERS = ("pythia", "opt", "llama", "qwen")
TEXTS = (
    "What is a tree?",
    "A tree is a graph without cycles.",
    " How do I bake bread?  ",
    "You need flour, water, yeast and salt.\n\n1. Mix.\n2. Wait.\n",
    "Ist das ein Baum? Ja, das ist ein Baum – 🌳!",
    "def f(x):\n    return x * 2024\n",
    "\n\nHuman: not me",
    "多字节 e\u0301",
)
PROPERTIES = (
    None,
    {"lang": "en"},
    {"lang": "de", "quality": 0.75, "humor": 0.0, "creativity": 1.0},
    {"quality": 0.25, "context": "Some context,\nof two lines."},
    {"lang": " ", "humor": 0.05, "context": "ends with a line\n"},
    {"lang": "en", "creativity": 0.449, "quality": 1.0, "context": ""},
)
SEED = 7


def cases() -> list[dict[str, Any]]:
    """Rows of both kinds with settings; what is drawn here is written to the file."""
    draw = random.Random(0)
    made: list[dict[str, Any]] = []

    def reply() -> list[Any]:
        return ["assistant", draw.choice(TEXTS), draw.choice(PROPERTIES)]

    for number in range(24):
        kind = ("sft", "rm")[number % 3 == 2]
        turns = [[["user", draw.choice(TEXTS), None], reply()] for _ in range(draw.randint(1, 3))]
        messages = [message for turn in turns for message in turn]
        tags = {"dropout": draw.choice([0.0, 0.5]), "length": draw.random() < 0.5}
        case: dict[str, Any] = {"id": f"row-{number}", "kind": kind}
        case["reply_tags"] = tags if number % 4 else None
        if kind == "rm":
            texts = draw.sample(TEXTS, 3)
            case["history"] = messages[:-1]
            case["replies"] = [["assistant", text, draw.choice(PROPERTIES)] for text in texts]
        else:
            case["messages"] = messages
            case["system"] = "Be kind.\nAlways." if number % 5 == 0 else None
            case["system_prefix"] = "You are Joi." if number % 7 == 0 else None
        made.append(case)
    return made


def utterance(message: list[Any]) -> formatting.Utterance:
    role, text, properties = message
    role = {"user": "prompter", "assistant": "assistant"}[role]
    return formatting.Utterance(text=text, role=role, **(properties or {}))


def seed(case: dict[str, Any]) -> None:
    random.seed(f"{SEED}/tags/{case['id']}")


def entry(case: dict[str, Any]) -> Any:
    """The row as Open-Assistant's; it seeds before it formats."""
    rm = case["kind"] == "rm"
    base = formatting.DatasetEntryRm if rm else formatting.DatasetEntrySft

    class Seeded(base):  # type: ignore[misc, valid-type]
        def get_formatted(self, *args: Any, **options: Any) -> Any:
            seed(case)
            return super().get_formatted(*args, **options)

    if rm:
        return Seeded(
            messages=[utterance(one) for one in case["history"]],
            replies=[utterance(one) for one in case["replies"]],
        )
    return Seeded(
        conversation=[utterance(one) for one in case["messages"]], system_message=case["system"]
    )


def run(case: dict[str, Any]) -> dict[str, Any]:
    """What Open-Assistant makes of a case."""
    tags = case["reply_tags"] or {"dropout": 0.0, "length": False}
    settings = {
        "use_system_tag": case["reply_tags"] is not None,
        "system_property_dropout": tags["dropout"],
        "system_add_length": tags["length"],
    }
    found: dict[str, Any] = {"text": entry(case).get_formatted("</s>", **settings), "ids": {}}
    for name in TOKENIZERS:
        tokenizer = for_oasst(name)
        if case["kind"] == "rm":
            collator = RankingDataCollator(tokenizer, **settings)
            ids = [one["input_ids"] for one in collator.process_one(entry(case))]
            found["ids"][name] = [" ".join(map(str, one)) for one in ids]
            continue
        prefix = case["system_prefix"]
        collator = DialogueDataCollator(
            tokenizer,
            max_length=4096,
            random_offset_probability=0.0,
            use_system_prefix=prefix is not None,
            system_prefix=prefix,
            **settings,
        )
        batch = collator([entry(case)])
        ids, mask = batch["input_ids"][0].tolist(), batch["label_masks"][0].tolist()
        # The mask is that of what is predicted next; here it marks the tokens that are trained.
        trained = [False, *mask[:-1]]
        found["ids"][name] = " ".join(
            f"{one}*" if learned else str(one) for one, learned in zip(ids, trained, strict=True)
        )
    return found


def main() -> None:
    """Write the file."""
    rows = [case | run(case) for case in cases()]
    prompts = []
    for count in (1, 3):
        pairs = list(TEXTS[:count])
        texts = formatting.format_pairs(pairs, "</s>", add_initial_reply_token=True)
        prompts.append({"pairs": pairs, "text": "".join(texts)})
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    content = f'{{"seed": {SEED}, "prompts": {json.dumps(prompts, ensure_ascii=False)}, "rows": [\n'
    Path(__file__).with_name("open-assistant.json").write_text(
        content + lines + "\n]}\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()

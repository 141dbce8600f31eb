"""Tokenize a million conversations: speed and memory, against `tokenizers` alone and on the fly.

    python benchmarks/tokenize_million.py
    python benchmarks/tokenize_million.py --rows 20000 --rounds 5

The conversations are invented, and so is the tokenizer's vocabulary: no network. They come through
the pipeline, `fetch_model`, `fetch_data` and `tokenize`, as anybody's would. By turns, the rule
`tokenize` runs as Snakemake starts it, and `tokenizers` alone encodes the same texts on as many
threads, 100,000 at most; its texts are read while its clock stands, and its ids are dropped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from alternate import processor, spread, table

REPOSITORY = Path(__file__).resolve().parent.parent
VOCABULARY = 32_000  # tokens
WORDS = 60_000  # different ones
SENTENCES = 40_000  # different ones; messages are made of them
FEW = 1024  # conversations of the set that shows what a start costs
CHUNK = 1024  # conversations that `tokenizers` encodes in one call
BATCH = 16  # conversations of a training batch
RAW = 100_000  # conversations that `tokenizers` alone is timed with, at most
EPOCH = 4096  # conversations of an epoch that is timed
MAX_LENGTH = 512
PAD_MULTIPLE = 16  # of a batch's length, as Open-Assistant's collator pads


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="conversations")
    parser.add_argument("--rounds", type=int, default=1, help="rounds that count")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--folder", type=Path, help="make all of it here, and keep it for the next time"
    )
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(WORKERS[options.worker](options.folder)))
        return
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        bench = Bench((options.folder or Path(scratch)).resolve(), options.threads)
        bench.prepare(options.rows)
        speed = measure_speed(bench, options.rows, options.rounds)
        uses = measure_uses(bench)
        again = bench.tokenize("many", force=False)
    print(f"{processor()}; {sys.argv[0]} {' '.join(sys.argv[1:])}\n\n{speed}\n\n{uses}\n")
    print(f"The same command again, nothing to do: {again.seconds:.1f} s.")


def measure_speed(bench: Bench, rows: int, rounds: int) -> str:
    """Run the stage and `tokenizers` by turns; a table of both, by wall time and by CPU time."""
    raw: list[dict[str, float]] = []
    runs: list[Measured] = []
    starts: list[Measured] = []
    for number in range(rounds):
        raw.append(bench.worker("raw"))
        runs.append(bench.tokenize("many"))
        starts.append(bench.tokenize("few"))
        done = f"round {number + 1}: {raw[-1]}, {runs[-1]}, {starts[-1]}"
        print(done, file=sys.stderr, flush=True)
    pairs = list(zip(runs, starts, strict=True))
    lines = {
        f"`tokenizers`, `{name}`": [(one[f"{name} seconds"], one[f"{name} cpu"]) for one in raw]
        for name in ("encode_batch", "encode_batch_fast")
    }
    faster = [tuple(map(max, zip(*two, strict=True))) for two in zip(*lines.values(), strict=True)]
    lines["the rule `tokenize`"] = [(rows / one.seconds, rows / one.cpu) for one in runs]
    lines["the same without its start"] = [
        ((rows - FEW) / (run.seconds - start.seconds), (rows - FEW) / (run.cpu - start.cpu))
        for run, start in pairs
    ]
    shown = []
    for name, speeds in lines.items():
        figures = []
        for which in range(2):
            values = [one[which] for one in speeds]
            beside = [one / best[which] for one, best in zip(values, faster, strict=True)]
            figures += [spread(values, 0), spread(beside, 2)]
        shown.append([name, *figures])
    header = ["", "conversations/s", "× raw", "conversations per CPU second", "× raw"]
    most = max(one.peak for one in runs) / 2**20
    start = median(one.seconds for one in starts)
    return (
        f"{table(header, shown)}\n\nRaw is the faster of the two. The start, with {FEW} "
        f"conversations, takes {start:.1f} s.\nNo process had more than {most:.0f} MiB."
    )


def measure_uses(bench: Bench) -> str:
    """What training does with the set; a table of it."""
    opened, mapped, fly = (bench.worker(name) for name in ("open", "mapped", "on-the-fly"))
    lines = [
        ["opening the set and its lengths", f"{opened['seconds'] * 1000:.0f} ms"],
        [f"{EPOCH} conversations in batches, tokenized before", f"{mapped['seconds']:.2f} CPU s"],
        ["the same, tokenized in the collator", f"{fly['seconds']:.2f} CPU s"],
        ["ratio", f"{fly['seconds'] / mapped['seconds']:.1f}"],
    ]
    return table(["", "one process"], lines)


@dataclass(frozen=True)
class Measured:
    """What a rule took.

    Attributes:
        seconds: wall time.
        cpu: seconds of all its processes.
        peak: bytes of resident memory, at most, of that process which had most.
    """

    seconds: float
    cpu: float
    peak: int


class Bench:
    """A folder in which the pipeline runs.

    Args:
        folder: is made.
        threads: `runtime.threads`.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._threads = folder, threads
        self._environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "workflow")}

    def prepare(self, rows: int) -> None:
        """Make the texts, and let the pipeline make its model and its datasets of them."""
        sets = {
            name: {"path": path, "format": "messages", "validation_fraction": 0.01}
            for name, path in invent(self._folder, {"many": rows, "few": FEW}).items()
        }
        tiny = {"hidden_size": 8, "layers": 1, "heads": 1, "vocab_size": VOCABULARY}
        source = {"random": tiny | {"tokenizer_text": "text.txt"}}
        config = {
            "models": {"bench": {"source": source, "template": "chatml"}},
            "datasets": sets,
            "tokenization": {"conversation": {"max_length": MAX_LENGTH}},
            "sft": {"run": {"model": "bench", "data": {name: {} for name in sets}}},
            "runtime": {"threads": self._threads},
        }
        (self._folder / "config.json").write_text(json.dumps(config))
        for target in ("models/bench", "datasets/few", "datasets/many"):
            taken = self._snakemake(f"results/{target}/manifest.json")
            print(f"{target}: {taken}", file=sys.stderr, flush=True)

    def tokenize(self, name: str, force: bool = True) -> Measured:
        """Run the rule; without `force`, the whole command, which has nothing to do.

        The CPU seconds are those of the whole command, Snakemake's own too.
        """
        target = f"results/tokenized/conversation/bench/{name}/manifest.json"
        taken = self._snakemake(target, *(["--forcerun", "tokenize"] if force else []))
        if not force:
            return taken
        log = self._folder / f"logs/tokenize/conversation.bench.{name}.benchmark.jsonl"
        seconds = json.loads(log.read_text().splitlines()[-1])["s"]
        return Measured(seconds, taken.cpu, taken.peak)

    def worker(self, name: str) -> dict[str, float]:
        """Let a process of its own measure something."""
        command = [sys.executable, __file__, "--worker", name, "--folder", str(self._folder)]
        threads = {
            "RAYON_NUM_THREADS": str(self._threads if name == "raw" else 1),
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, env=self._environment | threads
        )
        return json.loads(done.stdout)

    def _snakemake(self, target: str, *options: str) -> Measured:
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
        command += ["--profile", str(REPOSITORY / "local"), "--configfile", "config.json"]
        command += [*options, "--", target]
        began, before = time.perf_counter(), os.times()
        with open(self._folder / "snakemake.log", "w") as log:
            process = subprocess.Popen(
                command, cwd=self._folder, stdout=log, stderr=log, env=self._environment
            )
            peak = watch(process)
        if process.returncode:
            raise SystemExit((self._folder / "snakemake.log").read_text())
        after = os.times()
        cpu = after.children_user + after.children_system
        cpu -= before.children_user + before.children_system
        return Measured(time.perf_counter() - began, cpu, peak)


def watch(process: subprocess.Popen[Any]) -> int:
    """Wait for a process; the peak of that process, of all that it started, which had most."""
    from rlhf.runtime.processes import descendants

    peak = 0
    while process.poll() is None:
        for pid in [process.pid, *descendants(process.pid)]:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:  # it has ended
                continue
            found = [line.split() for line in status.splitlines() if line.startswith("VmHWM")]
            peak = max([peak, *(int(kib) * 1024 for _, kib, _ in found)])
        time.sleep(0.2)
    return peak


def invent(folder: Path, sizes: dict[str, int]) -> dict[str, str]:
    """Write conversations, the same each time, and the text that the tokenizer is trained on.

    Args:
        folder: gets ``text.txt`` and a JSON lines file for each set, unless it has them.
        sizes: name → conversations.

    Returns:
        Name → file in the folder.
    """
    files = {name: f"{name}-{rows}.jsonl" for name, rows in sizes.items()}
    if all((folder / file).exists() for file in files.values()):
        return files
    draw = random.Random(0)
    sentences = list(itertools.islice(invent_sentences(draw), SENTENCES))
    (folder / "text.txt").write_text("\n".join(sentences))
    for name, rows in sizes.items():
        with open(folder / files[name], "w") as stream:
            for _ in range(rows):
                messages = []
                for turn in range(draw.choice((2, 2, 2, 4, 4, 6))):
                    most = 7 if turn % 2 else 3
                    parts = [draw.choice(sentences) for _ in range(draw.randint(1, most))]
                    # by their numbers all texts differ
                    text = ("\n\n" if turn % 2 else " ").join([*parts, f"({draw.getrandbits(24)})"])
                    messages.append({"role": ("user", "assistant")[turn % 2], "content": text})
                stream.write(json.dumps({"messages": messages}) + "\n")
    return files


def invent_sentences(draw: random.Random) -> Iterator[str]:
    """Sentences of words that follow Zipf's law, as words of languages do."""
    onsets = [
        "",
        *"bcdfghjklmnprstvwy",
        "br",
        "ch",
        "cl",
        "gr",
        "pl",
        "qu",
        "sh",
        "st",
        "str",
        "th",
    ]
    nuclei = [*"aeiou", "ai", "ea", "ee", "io", "ou"]
    codas = ["", "", *"bdlmnprstx", "ck", "ll", "nd", "ng", "nt", "rd", "ss", "st"]
    syllables = [*map("".join, itertools.product(onsets, nuclei, codas))]
    words: dict[str, None] = {}
    while len(words) < WORDS:
        # the frequent ones are short
        least, most = (1, 2) if len(words) < WORDS // 100 else (2, 4)
        words["".join(draw.choices(syllables, k=draw.randint(least, most)))] = None
    known = list(words)
    weights = list(itertools.accumulate(1 / (rank + 3) for rank in range(WORDS)))
    while True:
        chosen = draw.choices(known, cum_weights=weights, k=draw.randint(4, 18))
        if len(chosen) > 9:
            chosen[len(chosen) // 2] += ","
        yield " ".join(chosen).capitalize() + draw.choice("...?!:")


def conversations(folder: Path) -> Iterator[list[str]]:
    """The texts of each row of the large set, in order."""
    import pyarrow.parquet as pq

    path = folder / "results/datasets/many/rows/conversation.parquet"
    for batch in pq.ParquetFile(path).iter_batches(columns=["messages"]):
        for messages in batch.column("messages").to_pylist():
            yield [message["content"] for message in messages]


def encode_alone(folder: Path) -> dict[str, float]:
    """Conversations per second, and per CPU second, of `tokenizers` alone, by both its functions.

    They have every other chunk each, so that both meet the machine in the same state.
    """
    from tokenizers import Tokenizer

    path = folder / "results/models/bench/model/tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    functions = (tokenizer.encode_batch, tokenizer.encode_batch_fast)
    for function in functions:  # its threads start
        function(["warm", "up"])
    seconds, cpu, rows = [0.0, 0.0], [0.0, 0.0], [0, 0]
    remaining = itertools.islice(conversations(folder), RAW)
    for number in itertools.count():
        chunk = list(itertools.islice(remaining, CHUNK))
        if not chunk:
            break
        texts = [text for one in chunk for text in one]
        which = number % 2
        began, before = time.perf_counter(), time.process_time()
        functions[which](texts, add_special_tokens=False)
        seconds[which] += time.perf_counter() - began
        cpu[which] += time.process_time() - before
        rows[which] += len(chunk)
    return {
        f"{functions[which].__name__} {name}": rows[which] / taken[which]
        for which in range(2)
        for name, taken in (("seconds", seconds), ("cpu", cpu))
    }


def open_set(folder: Path) -> dict[str, float]:
    """Seconds until a set is open and all lengths are known."""
    import datasets  # noqa: F401 - loading libraries is no part of it

    from rlhf.data.mixture import Mixture

    began = time.perf_counter()
    Mixture(
        {"many": folder / "results/tokenized/conversation/bench/many/data"}, {}, "train"
    ).lengths()
    return {"seconds": time.perf_counter() - began}


def read_mapped(folder: Path) -> dict[str, float]:
    """CPU seconds for an epoch of padded batches from the tokenized set, in random order."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from rlhf.data.mixture import Mixture

    rows = Mixture({"many": folder / "results/tokenized/conversation/bench/many/data"}, {}, "train")
    order = rows.order(seed=0, epoch=0)[:EPOCH]
    began = time.process_time()
    for some in batches(order):
        batch = [rows[int(i)] for i in some]
        for column, padding in (("input_ids", 0), ("labels", -100)):
            ids = [torch.tensor(row[column]) for row in batch]
            pad_sequence(ids, batch_first=True, padding_value=padding)
    return {"seconds": time.process_time() - began}


def tokenize_on_the_fly(folder: Path) -> dict[str, float]:
    """CPU seconds for an epoch of padded batches from texts, as Open-Assistant's collator does it.

    Its dialogues are strings in memory. Each is tokenized whole, cut, and searched for the tokens
    that begin a turn; that decides what is trained.
    """
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "results/models/bench/model")
    begin, end = "<|im_start|>", "<|im_end|>"
    mark = tokenizer.convert_tokens_to_ids(begin)
    dialogues = list(itertools.islice(conversations(folder), EPOCH))
    random.Random(0).shuffle(dialogues)
    began = time.process_time()
    for some in batches(dialogues):
        encoded, masks = [], []
        for turns in some:
            text = "".join(f"{begin}{turn}{end}" for turn in turns)
            one = tokenizer(text, max_length=MAX_LENGTH, truncation=True, add_special_tokens=False)
            turn, which = -1, []
            for token in one["input_ids"]:
                turn += token == mark
                which.append(turn)
            mask = torch.tensor([turn % 2 == 1 for turn in which])
            mask[-1] = False
            encoded.append({"input_ids": one["input_ids"]})
            masks.append(mask)
        batch = tokenizer.pad(
            encoded, padding=True, pad_to_multiple_of=PAD_MULTIPLE, return_tensors="pt"
        )
        width = batch["input_ids"].shape[1]
        torch.stack([torch.nn.functional.pad(one, (0, width - len(one))) for one in masks])
        torch.roll(batch["input_ids"], -1, -1)
    return {"seconds": time.process_time() - began}


def batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The items, ``BATCH`` at a time."""
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


WORKERS: dict[str, Callable[[Path], dict[str, float]]] = {
    "raw": encode_alone,
    "open": open_set,
    "mapped": read_mapped,
    "on-the-fly": tokenize_on_the_fly,
}


if __name__ == "__main__":
    main()

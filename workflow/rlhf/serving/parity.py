"""The proof that a store answers what its model says: served against computed right here."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf.core.files import read_json
from rlhf.core.seeds import generator
from rlhf.errors import IntegrityError, ServingError
from rlhf.models import devices
from rlhf.models.context import context_of
from rlhf.models.folders import from_folder
from rlhf.models.inference import device_map
from rlhf.models.precision import exact_float32
from rlhf.models.roots import POOLING
from rlhf.runtime.tls import make_certificates
from rlhf.serving.client import TritonScorer
from rlhf.serving.server import TritonServer
from rlhf.serving.store import IDENTITY, Kind
from rlhf.serving.wire import Padding

SEED = 20220519
LENGTHS = (1, 2, 7, 33, 128)
MANY = 8  # rows of the large batches
# Tokens of responses to one prompt: longer ones do not share a forward pass.
LONGEST_ALIKE = 900
# Settings under which models keep the width of an attention window.
WINDOWS = ("sliding_window", "attention_window_size", "attention_chunk_size", "window_size")
WINDOW_MOST = 8192  # tokens; a row beyond a wider window would take too long
# Differences are published rounded up to a power of ten, and no finer than this: float noise
# may vary from machine to machine, the report may not.
FINEST = 1e-6


@dataclass(frozen=True)
class _Case:
    """Rows to score in one way, and what that way is called."""

    name: str
    rows: list[np.ndarray]
    padding: Padding | None  # None: through the public call, which sorts, pads and cuts
    temperature: float = 1.0
    at_once: bool = False  # each row a request of its own, all at the same time
    prompt: int | None = None  # tokens of every row's prompt; None: a third of the row

    def starts(self) -> list[int]:
        """First token of each row's response."""
        return [self.prompt or max(1, len(row) // 3) for row in self.rows]


def check_parity(
    kind: Kind,
    model_dir: str | Path,
    repository: str | Path,
    log_path: str | Path,
    threads: int,
    tolerance: float,
    *,
    dtype: str = "float32",
    longest: int = 160,
) -> dict[str, Any]:
    """Serve a store and compare its answers with the model's own, computed in this process.

    Rows of many lengths, without padding and padded on either side, alone and in ragged
    batches, sent one after another and at the same time; and one that is longer than an attention
    window, if the model has one.

    Args:
        kind: ``reward`` or ``reference``.
        model_dir: the Hugging Face folder that the store was made from.
        repository: the store.
        log_path: file for the server's log.
        threads: CPU threads on both sides.
        tolerance: largest absolute difference that passes.
        dtype: torch type that the store runs in.
        longest: tokens of the longest row, if the model takes as many.

    Returns:
        A report without times: ``tolerance``, ``passed``, and each case with the power of ten
        that its largest difference is below.

    Raises:
        IntegrityError: a case is beyond the tolerance.
        ServingError: the store can't be served.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    exact_float32()
    try:
        # One of the two is in memory at a time: the model is gone when the server starts.
        cases = _own_answers(kind, model_dir, dtype, longest)
        devices.free_memory()
        identity = read_json(Path(repository) / IDENTITY)
        with (
            tempfile.TemporaryDirectory(prefix="rlhf-parity-") as scratch,
            TritonServer(
                repository,
                log_path,
                certificates=make_certificates(Path(scratch, "tls")),
                threads=threads,
                spread=torch.cuda.device_count() > 1,
            ) as server,
            TritonScorer(
                server.endpoint, kind, identity, server.certificates, patience=1.0
            ) as scorer,
        ):
            results = [
                {
                    "case": case.name,
                    "rows": len(case.rows),
                    **_compare(case, kind, scorer, expected, tolerance),
                }
                for case, expected in cases
            ]
    finally:
        torch.set_num_threads(before)
    failed = [result for result in results if not result["passed"]]
    if failed:
        worst = "\n    ".join(f"{one['case']}: {one['difference']}" for one in failed)
        raise IntegrityError(
            f"The {kind} store does not answer as its model does:\n    {worst}",
            where=repository,
            expected=f"differences of at most {tolerance:g} from {model_dir}",
            hint="delete the store and run snakemake: it builds the store again; "
            + (
                "do not raise store.tolerance: float32 agrees far better than this"
                if dtype == "float32"
                else f"or raise store.tolerance: this is {dtype}, which agrees less than float32"
            ),
        )
    return {"kind": kind, "tolerance": tolerance, "passed": True, "cases": results}


def _compare(
    case: _Case,
    kind: Kind,
    scorer: TritonScorer,
    expected: list[np.ndarray],
    tolerance: float,
) -> dict[str, Any]:
    try:
        found = _served(case, kind, scorer, case.starts())
    except ServingError as error:
        return {"difference": error.what, "passed": False}
    differences = [float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True)]
    if not np.isfinite(differences).all():  # max() may pass over a NaN
        return {"difference": "not a number: the model's own answers are not finite",
                "passed": False}  # fmt: skip
    largest = max(differences)
    below = 10.0 ** math.ceil(math.log10(max(largest, FINEST)) - 1e-9)
    return {"difference": f"at most {below:g}", "passed": largest <= tolerance}


def _served(case: _Case, kind: Kind, scorer: TritonScorer, starts: list[int]) -> list[np.ndarray]:
    given = starts if kind == "reference" else None
    if case.padding is not None:
        extra = 0 if case.padding == "none" else 3
        return scorer.ask(case.rows, given, case.temperature, case.padding, extra)
    if case.at_once:
        with ThreadPoolExecutor(len(case.rows)) as pool:
            singles = [
                pool.submit(scorer.ask, [row], given and [given[i]], case.temperature)
                for i, row in enumerate(case.rows)
            ]
            return [single.result()[0] for single in singles]
    if kind == "reward":
        return [np.array([reward]) for reward in scorer.rewards(case.rows)]
    return scorer.logprobs(case.rows, starts, case.temperature)


def _cases(kind: Kind, vocabulary: int, longest: int, beyond: int) -> Iterator[_Case]:
    """Cases of rows of up to ``longest`` tokens, and of one row that leaves the window behind."""
    random = generator(SEED, "parity")

    def rows(*lengths: int) -> list[np.ndarray]:
        return [random.integers(0, vocabulary, length, dtype=np.int64) for length in lengths]

    # A log-probability needs a token before it.
    shortest = 1 if kind == "reward" else 2
    known = sorted({length for length in (*LENGTHS, longest) if shortest <= length <= longest})
    many = rows(*(known[i % len(known)] for i in range(MANY)))
    single, three = many[: len(known)], many[len(known) - 3 : len(known)]
    paddings: tuple[Padding, ...] = ("none", "left", "right")
    for row in single:
        for padding in paddings:
            yield _Case(f"length {len(row)}, padding {padding}", [row], padding)
    for padding in paddings[1:]:
        yield _Case(f"3 rows of unlike length, padding {padding}", three, padding)
        yield _Case(f"{MANY} rows of unlike length, padding {padding}", many, padding)
    yield _Case(f"{MANY} rows of unlike length, sorted and cut", many, None)
    size = min(longest, LONGEST_ALIKE)
    prompt, *replies = rows(size // 3, *(1 + size // 8 * i for i in range(4)))
    alike = [np.concatenate([prompt, reply]) for reply in replies]
    yield _Case("4 responses to one prompt", alike, None, prompt=len(prompt))
    yield _Case(f"{MANY} rows of unlike length, as many requests at once", many, None, at_once=True)
    if beyond > longest:
        yield _Case(f"length {beyond}, longer than the window", rows(beyond), "none")
    if kind == "reference":
        yield _Case(f"{MANY} rows of unlike length, temperature 0.7", many, None, temperature=0.7)


def _own_answers(
    kind: Kind, model_dir: str | Path, dtype: str, longest: int
) -> list[tuple[_Case, list[np.ndarray]]]:
    """All cases, with what the model itself answers to the rows of each."""
    eager, vocabulary, window = _eager(kind, model_dir, dtype)
    limit = context_of(model_dir).tokens or max(longest, WINDOW_MOST)
    beyond = min(window + window // 8 + 2, limit) if window <= WINDOW_MOST else 0
    return [
        (case, [eager(row, start, case.temperature)
                for row, start in zip(case.rows, case.starts(), strict=True)])
        for case in _cases(kind, vocabulary, min(longest, limit), beyond)
    ]  # fmt: skip


def _eager(
    kind: Kind, model_dir: str | Path, dtype: str
) -> tuple[Callable[[np.ndarray, int, float], np.ndarray], int, int]:
    """The model as a function of one row, with its vocabulary and its widest window (or 0).

    One row at a time and by transformers' own forward pass, or the mean of its hidden states where
    the model's scores are of that: nothing here is shared with the
    served code, nor does anything here pad.
    """
    loader = AutoModelForSequenceClassification if kind == "reward" else AutoModelForCausalLM
    width, device = getattr(torch, dtype), devices.own_device()
    places = device_map(loader, model_dir, width)
    model = from_folder(loader, model_dir, width, device_map=places).eval()
    if kind == "reward":
        # Without a pad id transformers takes the last position, whatever token stands there.
        model.config.get_text_config().pad_token_id = None

    @torch.inference_mode()
    def reward(row: np.ndarray, _start: int, _temperature: float) -> np.ndarray:
        ids = torch.from_numpy(row).unsqueeze(0).to(device)
        if getattr(model.config, POOLING, "last") == "mean":  # transformers' own way is the last
            states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            return model.score.float()(states.float().mean(1))[0].cpu().numpy()
        return model(input_ids=ids, use_cache=False).logits[0].float().cpu().numpy()

    @torch.inference_mode()
    def logprobs(row: np.ndarray, start: int, temperature: float) -> np.ndarray:
        ids = torch.from_numpy(row).unsqueeze(0).to(device)
        logits = model(input_ids=ids, use_cache=False).logits[0, start - 1 : -1].float()
        chosen = (logits / temperature).log_softmax(-1).gather(1, ids[0, start:, None])
        return chosen.squeeze(1).cpu().numpy()

    known: dict[tuple[bytes, int, float], np.ndarray] = {}

    def once(row: np.ndarray, start: int, temperature: float) -> np.ndarray:
        """Cases share rows: each is computed once."""
        key = (row.tobytes(), start, temperature)
        if key not in known:
            known[key] = (reward if kind == "reward" else logprobs)(row, start, temperature)
        return known[key]

    vocabulary = model.get_input_embeddings().num_embeddings
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) for name in WINDOWS]
    return once, vocabulary, max((one for one in windows if isinstance(one, int)), default=0)

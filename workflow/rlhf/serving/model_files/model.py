"""The served model: runs inside Triton's Python backend, needs torch and transformers only;
on GPUs also accelerate.

Tensors cross the border by DLPack alone: numpy arrays get corrupted without an error when the
server was built for another major version of numpy than the environment has.

A row's result depends on its own request and on nothing else: requests that Triton hands over
together are computed one after another, never mixed in one forward pass. Results are then the
same from run to run, whatever the timing; clients get their speed from rows of one request.

Each row's answer has a checksum over the row as it arrived and over the answer: Triton may give
it to another request, and the client then knows.
"""

import ctypes
import json
import os
import zlib
from pathlib import Path

import spread  # beside this file
import torch
import transformers
import triton_python_backend_utils as pb_utils
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ALIKE = 0.75  # rows that share a forward pass are at least this share of its longest
# Rows that begin alike share what they have in common, if it is this part of each or more, and if
# there are not too many tokens: attention under a mask of its own grows with their square.
IN_COMMON = 1 / 3
BRANCHED_TOKENS = 1024
# Decoders that take a mask as it is given, under sdpa; without windows, which it would replace.
BRANCHING = ("llama", "mistral", "qwen2")
LARGE = 300.0  # logits that are tried too: a soft cap hardly shows in small ones
HEAD_ELEMENTS = 1 << 25  # float32 logits alive at once: 128 MiB


class InvalidRequest(ValueError):
    """The caller's mistake, in one sentence."""


class TritonPythonModel:
    """A reward model (output ``rewards`` [rows, 1]) or a reference (``logprobs`` [rows, width]).

    The other output is ``checksum``, int64 [rows, 1].
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the weights beside this file; an exception here makes the load fail."""
        parameters = json.loads(args["model_config"])["parameters"]
        settings = {key: value["string_value"] for key, value in parameters.items()}
        threads = os.environ.get("RLHF_SERVER_THREADS") or os.environ.get("OMP_NUM_THREADS") or "1"
        torch.set_num_threads(int(threads))
        # float32 is float32: no TensorFloat-32, which NVIDIA's images switch on by a variable.
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        self.kind = settings["kind"]
        self.max_batch_tokens = int(settings["max_batch_tokens"])
        self.device = _device(settings["device"], args)
        loader = {
            "reward": transformers.AutoModelForSequenceClassification,
            "reference": transformers.AutoModelForCausalLM,
        }[self.kind]
        folder, dtype = Path(__file__).parent / "hf", getattr(torch, settings["dtype"])
        model, report = loader.from_pretrained(
            folder,
            dtype=dtype,
            device_map=_device_map(loader, folder, dtype, self.device, args),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        if report["missing_keys"]:  # transformers would serve random values in their place
            raise ValueError(f"weights missing from the store: {sorted(report['missing_keys'])}")
        if self.device.type == "cuda" and model.dtype == torch.float32:
            transformers.AttentionInterface.register("sdpa", _attend)
        model = model.eval()
        self.model, self.backbone = model, model.base_model
        # A score in bfloat16 has three digits: too few to rank by.
        reward = self.kind == "reward"
        self.head = model.score.float() if reward else model.get_output_embeddings()
        self.pooling = settings.get("pooling", "last")  # what a score is read from
        self.vocabulary = model.get_input_embeddings().num_embeddings
        self.longest = int(settings["longest"])  # 0: any number
        self.branching = (  # a GPU is kept busy by many rows, even if some of it is done twice
            self.device.type == "cpu"
            and model.config.model_type in BRANCHING
            and model.config._attn_implementation == "sdpa"
            and not _has_windows(model.config)
        )
        self.own_head = None
        if self.kind == "reference":
            self._settle_head()

    def execute(self, requests: list) -> list:
        """Answer every request, with an error where something is wrong."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: "pb_utils.InferenceRequest") -> "pb_utils.InferenceResponse":
        try:
            with torch.inference_mode():
                tensors = self._answer(request, self._rows(request))
                return pb_utils.InferenceResponse(
                    [pb_utils.Tensor.from_dlpack(name, tensors[name]) for name in tensors]
                )
        except InvalidRequest as problem:
            code, message = pb_utils.TritonError.INVALID_ARG, str(problem)
        except Exception as problem:  # an unanswered request would hang its caller
            code, message = pb_utils.TritonError.INTERNAL, f"{type(problem).__name__}: {problem}"
        return pb_utils.InferenceResponse([], error=pb_utils.TritonError(message, code))

    def _rows(self, request: "pb_utils.InferenceRequest") -> list[torch.Tensor]:
        """The request's token ids without padding, int64 [length] each."""
        ids = _input(request, "input_ids")
        mask = _optional_input(request, "attention_mask")
        if mask is not None and mask.shape != ids.shape:
            raise InvalidRequest(
                f"attention_mask has shape {list(mask.shape)}, input_ids {list(ids.shape)}"
            )
        keep = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask != 0
        rows = [row[kept].clone() for row, kept in zip(ids, keep, strict=True)]
        for number, row in enumerate(rows):
            if not len(row):
                raise InvalidRequest(f"row {number} is empty")
            if self.longest and len(row) > self.longest:
                raise InvalidRequest(
                    f"row {number} has {len(row)} tokens, the model takes at most {self.longest}"
                )
            low, high = int(row.min()), int(row.max())
            if low < 0 or high >= self.vocabulary:
                raise InvalidRequest(
                    f"row {number} has token id {low if low < 0 else high}, "
                    f"outside the vocabulary of {self.vocabulary}"
                )
        return rows

    def _answer(self, request, rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Output name → contiguous tensor on the CPU."""
        if self.kind == "reward":
            rewards = torch.empty(len(rows), 1)
            for common, group in self._groups(rows, [len(row) - 1 for row in rows]):
                states = self._pooled([rows[i] for i in group], common)
                rewards[group] = self.head(states).cpu()
            pairs = zip(rows, rewards, strict=True)
            sums = torch.tensor([_checksum(*pair) for pair in pairs]).unsqueeze(1)
            return {"rewards": rewards, "checksum": sums}
        starts = self._starts(request, rows)
        temperatures = _input(request, "temperature").clone().view(-1)
        if not bool((torch.isfinite(temperatures) & (temperatures > 0)).all()):
            raise InvalidRequest("temperature has to be a number above 0")
        width = max(len(row) - start for row, start in zip(rows, starts.tolist(), strict=True))
        # Rows of unlike lengths leave gaps at their ends: not a number, so nobody can use them.
        logprobs = torch.full((len(rows), width), float("nan"))
        sums = torch.empty(len(rows), 1, dtype=torch.int64)
        for common, group in self._groups(rows, (starts - 1).tolist()):
            hidden = self._hidden([rows[i] for i in group], common)
            for states, i in zip(hidden, group, strict=True):
                used = states[starts[i] - 1 - common : -1]
                found = self._logprobs(used, rows[i][starts[i] :], float(temperatures[i]))
                logprobs[i, : len(found)] = found
                sums[i] = _checksum(rows[i], starts[i], temperatures[i], found)
        return {"logprobs": logprobs, "checksum": sums}

    def _starts(self, request, rows: list[torch.Tensor]) -> torch.Tensor:
        """For each row, its first token that counts, int64 [rows]."""
        starts = _input(request, "start").clone().view(-1)
        for number, (start, row) in enumerate(zip(starts.tolist(), rows, strict=True)):
            if not 1 <= start < len(row):
                raise InvalidRequest(
                    f"row {number} starts at {start}; it has {len(row)} tokens, "
                    f"so start may be 1 to {len(row) - 1}"
                )
        return starts

    def _groups(self, rows: list[torch.Tensor], limits: list[int]) -> list[tuple[int, list[int]]]:
        """Rows of each forward pass, and how many of their first tokens are computed once.

        Rows that begin alike go together; others with rows of like length, at most
        ``max_batch_tokens`` padded tokens.
        """
        shared = self._in_common(rows, limits) if self.branching else []
        known = {i for _, group in shared for i in group}
        groups: list[list[int]] = []
        for i in sorted(set(range(len(rows))) - known, key=lambda i: (len(rows[i]), i)):
            fits = groups and (len(groups[-1]) + 1) * len(rows[i]) <= self.max_batch_tokens
            if fits and len(rows[groups[-1][0]]) >= ALIKE * len(rows[i]):
                groups[-1].append(i)
            else:
                groups.append([i])
        return shared + [(0, group) for group in groups]

    def _in_common(
        self, rows: list[torch.Tensor], limits: list[int]
    ) -> list[tuple[int, list[int]]]:
        """Groups of rows that begin alike, and with how many tokens: at most ``limits[i]``."""
        ids = [row.tolist() for row in rows]
        groups: list[tuple[int, list[int]]] = []
        for i in sorted(range(len(rows)), key=lambda i: (ids[i], i)):
            if groups:
                common, group = groups[-1]
                pairs = enumerate(zip(ids[group[0]], ids[i], strict=False))
                differ = next((place for place, (a, b) in pairs if a != b), len(ids[i]))
                now = min(common, limits[i], differ)
                lengths = [len(ids[j]) for j in (*group, i)]
                saves = now * len(group) > common * (len(group) - 1)
                fits = sum(lengths) - now * len(group) <= BRANCHED_TOKENS
                if saves and fits and now >= max(1, IN_COMMON * max(lengths)):
                    groups[-1] = now, [*group, i]
                    continue
            groups.append((limits[i], [i]))
        return [(common, group) for common, group in groups if len(group) > 1]

    def _pooled(self, rows: list[torch.Tensor], common: int) -> torch.Tensor:
        """What the score of each row is read from, float32 [rows, hidden]."""
        before, *own = self._pieces(rows, common)
        if self.pooling == "last":
            return torch.stack([states[-1] for states in own]).float()
        whole = [torch.cat([before, states]).float().mean(0) for states in own]
        return torch.stack(whole)

    def _hidden(self, rows: list[torch.Tensor], common: int) -> list[torch.Tensor]:
        """Last hidden states of each row's tokens from ``common`` on, [length − common, hidden]."""
        return self._pieces(rows, common)[1:]

    def _pieces(self, rows: list[torch.Tensor], common: int) -> list[torch.Tensor]:
        """Last hidden states of the common tokens, [common, hidden], then of each row's own.

        With nothing in common, rows are padded on the right, without a mask: in a causal model no
        token sees what stands to its right. Else one line holds the common tokens and then each
        row's own, which see the common ones and, of their own, those before.
        """
        if not common:
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)
            hidden = self.backbone(input_ids=ids, use_cache=False).last_hidden_state
            ends = zip(hidden, rows, strict=True)
            return [hidden[0, :0], *(states[: len(row)] for states, row in ends)]
        parts = [rows[0][:common], *(row[common:] for row in rows)]
        sizes = [len(part) for part in parts]
        own = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        places = [torch.arange(size) + common for size in sizes[1:]]
        seen = ((own[None, :] == own[:, None]) | (own[None, :] == 0)).tril()
        hidden = self.backbone(
            input_ids=torch.cat(parts)[None].to(self.device),
            position_ids=torch.cat([torch.arange(common), *places])[None].to(self.device),
            attention_mask=seen[None, None].to(self.device),
            use_cache=False,
        ).last_hidden_state[0]
        return list(hidden.split(sizes))

    def _logprobs(
        self, hidden: torch.Tensor, tokens: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        """Log-probabilities of ``tokens`` [n] given the states before them, float32 [n]."""
        pieces = []
        size = max(1, HEAD_ELEMENTS // self.vocabulary)
        tokens = tokens.to(self.device)
        for states, chosen in zip(hidden.split(size), tokens.split(size), strict=True):
            logits = self._logits(states).float().div_(temperature)
            own = logits.gather(1, chosen.unsqueeze(1)).squeeze(1)
            pieces.append(own - logits.logsumexp(1))
        return torch.cat(pieces).cpu()

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits [n, vocabulary] of hidden states [n, width]; a GPU does not round them."""
        if self.own_head is not None:
            return self._own(self.own_head, states)
        if not states.is_cuda or states.dtype == torch.float32:
            return self.head(states)
        logits = torch.mm(states, self.head.weight.t(), out_dtype=torch.float32)
        return logits if self.head.bias is None else logits.add_(self.head.bias)

    def _own(self, body: torch.nn.Module, states: torch.Tensor) -> torch.Tensor:
        """The model's own logits: its forward pass, in which ``states`` stand for the body's."""
        body.forward = lambda *args, **kwargs: _Given(states[None])
        try:
            ids = torch.zeros(1, len(states), dtype=torch.long, device=self.device)
            return self.model(input_ids=ids, use_cache=False).logits[0]
        finally:
            del body.forward

    def _settle_head(self) -> None:
        """Find out whether logits are the head's output, or more (soft caps, scales, layers)."""
        ids = torch.tensor([[5, 3, 11, 2, 7]], device=self.device) % self.vocabulary
        with torch.inference_mode():
            expected = self.model(input_ids=ids, use_cache=False).logits[0]
            states = self.backbone(input_ids=ids, use_cache=False).last_hidden_state[0]
            inner = [
                one
                for one in self.backbone.children()
                if isinstance(one, transformers.PreTrainedModel)
            ]
            for body in (self.backbone, *inner):  # OPT's asks its body's decoder
                if _same(self._own(body, states), expected):
                    break
            else:
                raise ValueError(
                    f"{type(self.model).__name__} makes its logits of more than its last hidden "
                    "states; this is not supported"
                )
            if self.head.in_features == states.shape[-1]:
                largest = float(self.head(states).abs().max())
                scale = LARGE / largest if 0 < largest < LARGE else 1.0
                tried = (states, states * scale)
                if all(_same(self._own(body, one), self.head(one)) for one in tried):
                    return
            self.own_head = body


class _Given:
    """What the body would have returned: these hidden states, and nothing besides."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, place: object) -> object:
        return self.last_hidden_state if place == 0 else None

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def _attend(module, query, key, value, attention_mask, **options):
    """Scaled dot products; in float32 a GPU has none but the plain ones, which keep all scores,
    for fewer key than query heads: keys and values are repeated.
    """
    if query.shape[1] != key.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(groups, 1) for each in (key, value))
        options["is_causal"] = getattr(module, "is_causal", True)
        module = torch.nn.Module()  # without groups
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def _same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether logits agree up to rounding."""
    found, expected = found.float(), expected.float()
    largest = float(expected.nan_to_num().abs().max())
    return torch.allclose(found, expected, rtol=0, atol=1e-4 * largest, equal_nan=True)


def _has_windows(config: transformers.PreTrainedConfig) -> bool:
    """Whether a token does not see all that stands before it, in some layer."""
    kinds = getattr(config, "layer_types", None) or []
    windows = getattr(config, "sliding_window", None)
    used = windows and getattr(config, "use_sliding_window", True)
    return bool(used) or any(kind != "full_attention" for kind in kinds)


def _device(wanted: str, args: dict[str, str]) -> torch.device:
    if wanted != "auto":
        return torch.device(wanted)
    given = (os.environ.get("CUDA_VISIBLE_DEVICES") or "-1").split(",")[0].strip()
    promised = given not in ("", "-1", "NoDevFiles")
    on_gpu = args["model_instance_kind"] == "GPU"
    if not torch.cuda.is_available():
        if promised:  # a server on the CPU would hold the GPU and answer too late
            cuda = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
            raise RuntimeError(
                f"the GPU that this server was given (CUDA_VISIBLE_DEVICES={given}…) can't be "
                f"used: torch {torch.__version__} is built {cuda} and finds none; install a torch "
                "built for this driver's CUDA (nvidia-smi), or set cluster.gpus_per_node: 0"
            )
        return torch.device("cpu")
    if not on_gpu and not promised:
        return torch.device("cpu")
    device = torch.device("cuda", int(args["model_instance_device_id"]) if on_gpu else 0)
    torch.ones(2, device=device).sum().item()  # a GPU that is busy or broken fails here
    return device


def _device_map(loader, folder, dtype, device: torch.device, args) -> dict | None:
    """Module → GPU, for a model that may be on several; None on a CPU."""
    if device.type == "cpu":
        return None
    if args["model_instance_kind"] != "MODEL":
        return {"": device}
    try:
        return spread.device_map(loader, folder, dtype, spread.free_rooms())
    except spread.TooLargeError as error:
        raise RuntimeError(
            f"this model is too large for its server's GPUs: {error}; raise cluster.server_gpus"
        ) from error


def _input(request, name: str) -> torch.Tensor:
    return torch.from_dlpack(pb_utils.get_input_tensor_by_name(request, name).to_dlpack())


def _optional_input(request, name: str) -> torch.Tensor | None:
    given = pb_utils.get_input_tensor_by_name(request, name) is not None
    return _input(request, name) if given else None


def _checksum(*tensors: torch.Tensor) -> int:
    """CRC-32 over the bytes of tensors on the CPU; without numpy, see above."""
    value = 0
    for tensor in tensors:
        whole = tensor.contiguous()
        value = zlib.crc32(ctypes.string_at(whole.data_ptr(), whole.nbytes), value)
    return value

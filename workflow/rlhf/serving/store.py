"""Model stores: a plain Hugging Face folder laid out as a Triton model repository.

A store moves with its folder: it names no place on any machine. What it was made from is in its
``identity``, which clients compare before they trust an answer.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Literal, get_args

from rlhf.core.digest import digest_file, digest_value
from rlhf.core.files import atomic_directory, read_json, write_atomic, write_json
from rlhf.errors import IntegrityError
from rlhf.provenance.bases import ADAPTER, base_of
from rlhf.provenance.manifest import read_manifest

Kind = Literal["reward", "reference"]

# The files that the server runs; the code digest of every stage that makes a store covers them.
CODE_FILES = ["model_files/model.py", "../models/spread.py"]
IDENTITY = "identity.json"
IDENTITY_PREFIX = "identity."

_HERE = Path(__file__).parent
_TENSORS = {
    "reward": [("input_ids", "INT64", -1, ""), ("attention_mask", "INT64", -1, "optional: true")],
    "reference": [
        ("input_ids", "INT64", -1, ""),
        ("attention_mask", "INT64", -1, "optional: true"),
        ("start", "INT64", 1, ""),
        ("temperature", "FP32", 1, ""),
    ],
}
OUTPUTS: dict[Kind, tuple[str, int]] = {"reward": ("rewards", 1), "reference": ("logprobs", -1)}
CHECKSUM = "checksum"  # the other output, over what a row was computed from and its answer


def tree_identity(model_dir: str | Path) -> str:
    """Digest of the weights in a model folder: the content and names of its safetensors files.

    Of an adapter alone they are its own and its base's.

    Raises:
        IntegrityError: the folder has no safetensors file, or an adapter's base is not there.
    """
    base = base_of(model_dir)
    own = _weights(model_dir if base is None else Path(model_dir) / ADAPTER)
    digests = {path.name: digest_file(path) for path in own}
    return digest_value(digests if base is None else digests | {"base": tree_identity(base)})


def model_identity(kind: Kind, artifact: str | Path) -> dict[str, str]:
    """What a model is, for the comparison of a server with its client.

    Args:
        kind: ``reward`` adds the digest of the calibration.
        artifact: folder of the trained model: ``manifest.json`` and ``model/``.

    Returns:
        Role (``weights``, ``tokenizer``, ``template``, ``calibration``) → digest.

    Raises:
        IntegrityError: the manifest, the weights, a digest or the calibration is missing.
    """
    artifact = Path(artifact)
    facts = read_manifest(artifact)["facts"]
    identity = {"weights": tree_identity(artifact / "model")}
    for role in ("tokenizer", "template"):
        if not isinstance(facts.get(f"{role}_digest"), str):
            raise IntegrityError(
                f"The model's manifest has no digest of its {role}.",
                where=artifact,
                expected=f"facts.{role}_digest in the manifest",
                hint="delete this artifact and run snakemake: the training stage writes it",
            )
        identity[role] = facts[f"{role}_digest"]
    if kind == "reward":
        calibration = artifact / "model" / "calibration.json"
        if not calibration.is_file():
            raise IntegrityError(
                "The reward model has no calibration.",
                where=calibration,
                expected='{"mean": …, "std": …}',
                hint="delete this artifact and run snakemake: the training stage writes it",
            )
        identity["calibration"] = digest_value(read_json(calibration))
    return identity


def export_store(
    kind: Kind,
    model_dir: str | Path,
    repository: str | Path,
    identity: dict[str, str],
    *,
    max_batch_size: int = 64,
    max_batch_tokens: int = 8192,
    dtype: str = "float32",
    device: str = "auto",
) -> None:
    """Write the store of one model; it appears whole, or not at all.

    Args:
        kind: what the model answers; also its name on the server.
        model_dir: plain Hugging Face folder; its weights are hard-linked where possible, and
            written anew where it is an adapter alone, merged into its base.
        repository: folder to make (an existing one is replaced).
        identity: role → digest, see ``model_identity``.
        max_batch_size: rows in one request, and rows that Triton hands over at once.
        max_batch_tokens: padded tokens in one forward pass.
        dtype: torch type that the model is loaded and run in.
        device: torch device, or ``auto``: the GPU that Triton assigns, else the CPU.

    Raises:
        IntegrityError: the folder is not a model, or ``identity`` does not fit ``kind``.
    """
    if kind not in get_args(Kind) or ("calibration" in identity) != (kind == "reward"):
        raise IntegrityError(
            f"This identity does not fit a store of kind '{kind}': {', '.join(sorted(identity))}.",
            where=model_dir,
            expected="kind reward with a calibration digest, or kind reference without one",
        )
    from rlhf.models.context import context_of
    from rlhf.models.roots import POOLING

    alone, config = base_of(model_dir) is not None, _portable_config(model_dir)
    weights = [] if alone else _weights(model_dir)
    parameters = {
        "kind": kind,
        "dtype": dtype,
        "device": device,
        "max_batch_tokens": str(max_batch_tokens),
        "longest": str(context_of(model_dir).tokens or 0),
    }
    if POOLING in config:  # of a reward model
        parameters["pooling"] = config[POOLING]
    parameters |= {IDENTITY_PREFIX + role: digest for role, digest in identity.items()}
    with atomic_directory(repository) as folder:
        version = folder / kind / "1"
        (version / "hf").mkdir(parents=True)
        for path in weights:
            _link_or_copy(path, version / "hf" / path.name)
        if alone:
            _write_merged(kind, Path(model_dir), version / "hf")
        write_json(version / "hf" / "config.json", config)
        for path in sorted(Path(model_dir).glob("*.safetensors.index.json")):
            shutil.copyfile(path, version / "hf" / path.name)
        for file in CODE_FILES:
            shutil.copyfile(_HERE / file, version / Path(file).name)
        text = _model_config(kind, parameters, max_batch_size)
        write_atomic(folder / kind / "config.pbtxt", text)
        write_json(folder / IDENTITY, identity)


def store_kind(repository: str | Path) -> Kind:
    """Which model a store holds.

    Raises:
        IntegrityError: the folder is not a store.
    """
    for kind in get_args(Kind):
        if (Path(repository) / kind / "config.pbtxt").is_file():
            return kind
    raise IntegrityError(
        "This folder is not a model store.",
        where=repository,
        expected=f"{' or '.join(f'{kind}/config.pbtxt' for kind in get_args(Kind))}",
        hint="snakemake builds it with the rule export_store",
    )


def _weights(model_dir: str | Path) -> list[Path]:
    found = sorted(Path(model_dir).glob("*.safetensors"))
    if not found:
        raise IntegrityError(
            "The model folder has no weights.",
            where=model_dir,
            expected="*.safetensors files, as save_pretrained writes them",
        )
    return found


def _write_merged(kind: Kind, model_dir: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from rlhf.models.folders import write_merged

    scored = kind == "reward"
    loader = AutoModelForSequenceClassification if scored else AutoModelForCausalLM
    write_merged(loader, model_dir, folder)


def _portable_config(model_dir: str | Path) -> dict[str, Any]:
    path = Path(model_dir) / "config.json"
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"The model's configuration can't be read: {error}",
            where=path,
            expected="config.json, as save_pretrained writes it",
        ) from None
    # transformers notes the folder that a model was loaded from, a path of one machine.
    return {key: value for key, value in config.items() if key != "_name_or_path"}


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _model_config(kind: Kind, parameters: dict[str, str], max_batch_size: int) -> str:
    def tensor(name: str, data_type: str, dim: int, extra: str = "") -> str:
        ragged = "allow_ragged_batch: true" if dim < 0 and data_type == "INT64" else ""
        fields = [f'name: "{name}"', f"data_type: TYPE_{data_type}", f"dims: [ {dim} ]"]
        return "  { " + " ".join([*fields, *filter(None, (ragged, extra))]) + " }"

    lines = [f'name: "{kind}"', 'backend: "python"', f"max_batch_size: {max_batch_size}"]
    lines += ["input [", ",\n".join(tensor(*fields) for fields in _TENSORS[kind]), "]"]
    answer, dim = OUTPUTS[kind]
    outputs = [tensor(answer, "FP32", dim), tensor(CHECKSUM, "INT64", 1)]
    lines += ["output [", ",\n".join(outputs), "]"]
    lines += ["instance_group [ { count: 1 kind: KIND_AUTO } ]"]
    lines += ["dynamic_batching { max_queue_delay_microseconds: 0 }"]
    lines += ["version_policy: { latest { num_versions: 1 } }"]
    lines += [
        f'parameters: {{ key: "{key}" value: {{ string_value: "{value}" }} }}'
        for key, value in sorted(parameters.items())
    ]
    return "\n".join(lines) + "\n"

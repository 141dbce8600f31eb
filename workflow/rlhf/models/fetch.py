"""Turn a model source (package, folder, hub, random) into one plain Hugging Face folder.

Whatever the source, the folder looks the same, holds no pickles and no paths, and equal sources
give equal bytes: ``config.json``, ``generation_config.json``, ``model.safetensors``,
``tokenizer.json``, ``tokenizer_config.json`` and ``chat_template.jinja``.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.metadata
import importlib.util
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.errors import ConfigError, DataError, RlhfError
from rlhf.provenance.digest import digest_file, digest_value
from rlhf.runtime.files import atomic_directory, read_json, write_json

logger = logging.getLogger(__name__)

SOURCE_KEYS = {
    "package": {"package", "file", "version"},
    "path": {"path"},
    "hub": {"hub", "revision"},
    "random": {"random"},
}
DTYPES = ("float32", "bfloat16", "float16")
# What a model is read from. Never pickles (*.bin, *.pt) and never code (*.py).
PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "README.md"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
# Notes that loaders leave about where and how they found the files.
LOADER_NOTES = {
    "_name_or_path",
    "_model_name_or_path",
    "name_or_path",
    "is_local",
    "local_files_only",
    "auto_map",
    "gguf_file",
}


@dataclass
class Loaded:
    """A model in memory, and what is known of its origin.

    Attributes:
        model: the causal language model.
        tokenizer: its tokenizer.
        identity: what pins the source down: version, revision or digest.
        licence: as the source states it, or None.
        root: the folder that it was read from, or None.
    """

    model: Any
    tokenizer: Any
    identity: dict[str, Any]
    licence: str | None
    root: Path | None = None


def materialize(
    source: dict[str, Any],
    folder: str | Path,
    *,
    template: str | None = None,
    pad_token: str | None = None,
    eos_token: str | None = None,
    dtype: str | None = None,
    where: str = "models",
) -> dict[str, Any]:
    """Fetch a model, settle its tokenizer and template, and write it to ``folder``.

    Args:
        source: exactly one kind: ``{"package", "file", "version"?}``, ``{"path"}``,
            ``{"hub", "revision"}`` or ``{"random": {...}}``.
        folder: the folder to make; it is there whole or not at all.
        template: name of a chat template, or None for the model's own.
        pad_token: padding token, or None for the model's own.
        eos_token: token that ends a turn, or None for the template's or the model's own.
        dtype: dtype of the weights, or None to keep the source's (float32 for GGUF and random).
        where: configuration key of the model, for messages.

    Returns:
        Facts for the manifest: source, licence, architecture, sizes, tokens and digests.
    """
    from rlhf.data.templates import template_digest, tokenizer_digest
    from rlhf.models.tokens import prepare_tokenizer

    kind, source = check_source(source, where)
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(
            f"There is no dtype {dtype!r} for weights.",
            where=f"{where}.dtype",
            expected=" | ".join(DTYPES),
        )
    loaded = LOADERS[kind](source, dtype, where)
    model, tokenizer = loaded.model, loaded.tokenizer
    if kind == "random" and template is None:
        template = "chatml"  # it has no template of its own
    added = prepare_tokenizer(tokenizer, model, template, pad_token, eos_token, where)
    with atomic_directory(folder) as target:
        tokenizer = _save(loaded, target, where)
    return {
        "source": loaded.identity,
        "licence": loaded.licence,
        "architecture": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocab_size": model.get_input_embeddings().num_embeddings,
        "context_length": getattr(model.config, "max_position_embeddings", None),
        "added_tokens": added,
        "special_tokens": {
            name: {"token": getattr(tokenizer, name), "id": getattr(tokenizer, f"{name}_id")}
            for name in ("bos_token", "eos_token", "pad_token")
        },
        "tokenizer_digest": tokenizer_digest(tokenizer),
        "template_digest": template_digest(tokenizer),
    }


def check_source(source: dict[str, Any], where: str = "models") -> tuple[str, dict[str, Any]]:
    """Check that a source is of exactly one kind, complete and pinned; nothing is fetched.

    Returns:
        The kind, and the source without unset keys.
    """
    where = f"{where}.source"
    source = {key: value for key, value in source.items() if value is not None}
    kinds = [kind for kind in SOURCE_KEYS if kind in source]
    if len(kinds) != 1:
        raise ConfigError(
            f"A model needs one source; this one names {' and '.join(kinds) or 'none'}.",
            where=where,
            expected="exactly one of package, path, hub, random",
        )
    (kind,) = kinds
    if unknown := sorted(set(source) - SOURCE_KEYS[kind]):
        raise ConfigError(
            f"A {kind} source has no key {unknown[0]!r}.",
            where=f"{where}.{unknown[0]}",
            expected=", ".join(sorted(SOURCE_KEYS[kind])),
        )
    if kind == "hub" and not re.fullmatch(r"[0-9a-f]{40}", str(source.get("revision", ""))):
        found = source.get("revision")
        raise ConfigError(
            f"The revision of {source['hub']} is not pinned: {found or 'none is given'}.",
            where=f"{where}.revision",
            expected="a commit: 40 hexadecimal digits (branches and tags move)",
            hint="copy the commit from the repository's history page, or print it: python -c "
            f"\"from huggingface_hub import HfApi; print(HfApi().model_info('{source['hub']}', "
            f'revision={found!r}).sha)"',
        )
    return kind, source


# --- package --------------------------------------------------------------------------------


def _load_package(source: dict[str, Any], dtype: str | None, where: str) -> Loaded:
    """A GGUF file that an installed Python package carries."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    file, distribution = find_package_file(source, where)
    root, name = file.parent, file.name
    logger.info("reading %s of %s %s", name, source["package"], distribution.version)
    with _loading(f"{source['package']}/{name}", where), _gguf_read_once():
        tokenizer = AutoTokenizer.from_pretrained(
            root, gguf_file=name, local_files_only=True, trust_remote_code=False
        )
        model, info = AutoModelForCausalLM.from_pretrained(
            root,
            gguf_file=name,
            dtype=getattr(torch, dtype or "float32"),
            quantization_config=GgufConfig(dequantize=True),
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    _check_complete(info, f"{source['package']}/{name}")
    meta = distribution.metadata
    identity = {
        "kind": "package",
        "package": meta["Name"],
        "version": distribution.version,
        "file": name,
        "sha256": digest_file(file),
    }
    licence = meta.get("License-Expression") or meta.get("License")
    return Loaded(model, tokenizer, identity, licence, root)


def find_package_file(
    source: dict[str, Any], where: str = "models"
) -> tuple[Path, importlib.metadata.Distribution]:
    """The one file in an installed package that a package source names.

    The package is located, not imported: its own dependencies may well be absent.
    """
    where = f"{where}.source"
    package, version = source["package"], source.get("version")
    requirement = package.replace("_", "-") + (f"=={version}" if version else "")
    install = f"pip install --no-deps {requirement}"
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"The Python package {package!r} is not installed.",
            where=f"{where}.package",
            expected="the import name of an installed package",
            hint=install,
        )
    names = importlib.metadata.packages_distributions().get(package, [package])
    distribution = importlib.metadata.distribution(names[0])
    if version and distribution.version != version:
        raise ConfigError(
            f"{package} {distribution.version} is installed, the configuration wants {version}.",
            where=f"{where}.version",
            expected=version,
            hint=f"{install}, or change the version",
        )
    root = Path(spec.submodule_search_locations[0])
    pattern = source.get("file") or "*.gguf"
    matches = sorted(path for path in root.glob(pattern) if path.suffix == ".gguf")
    if len(matches) != 1:
        raise ConfigError(
            f"{len(matches)} GGUF files of {package} match {pattern!r}.",
            where=f"{where}.file",
            expected="a pattern that matches exactly one .gguf file",
            hint="the package has: "
            + (", ".join(sorted(p.name for p in root.rglob("*.gguf"))) or "no .gguf file"),
        )
    return matches[0], distribution


@contextlib.contextmanager
def _gguf_read_once() -> Iterator[None]:
    """Let transformers parse a GGUF file once.

    Its loader parses the header anew for the configuration and for the weights, and builds the
    same name map for every submodule: two thirds of the time of a small model.
    """
    import gguf

    patched = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, original in patched.items():
        setattr(gguf, name, functools.cache(original))
    try:
        yield
    finally:
        for name, original in patched.items():
            setattr(gguf, name, original)


# --- local folder ---------------------------------------------------------------------------


def _load_path(source: dict[str, Any], dtype: str | None, where: str) -> Loaded:
    """A plain Hugging Face folder on a local disk."""
    folder = Path(source["path"]).expanduser()
    where = f"{where}.source.path"
    if not folder.is_dir():
        raise ConfigError(
            "There is no such model folder.",
            where=f"{where}: {folder}",
            expected="a folder with config.json, *.safetensors and a tokenizer",
        )
    check_folder(folder, f"{where}: {folder}")
    files = {path.name: digest_file(path) for path in _model_files(folder)}
    identity = {"kind": "path", "tree": digest_value(files)}
    return _load_folder(folder, dtype, identity, where)


def check_folder(folder: Path, where: str, names: list[str] | None = None) -> None:
    """Refuse a folder that lacks a part of a model, or whose weights are pickles.

    Args:
        folder: the folder.
        where: the folder's name in messages.
        names: what the source has, if more than the folder (a repository's listing).
    """
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(read_json(index)["weight_map"].values()))
        missing += [shard for shard in shards if not (folder / shard).is_file()]
    elif not any(folder.glob("*.safetensors")):
        names = names if names is not None else [path.name for path in folder.iterdir()]
        pickles = sorted(name for name in names if name.endswith(PICKLES))
        if pickles:
            raise DataError(
                f"The weights are pickles ({', '.join(pickles[:3])}), which can run code.",
                where=where,
                expected="*.safetensors",
                hint="load the model once where you trust it and call "
                "save_pretrained(folder): it writes safetensors",
            )
        missing.append("*.safetensors")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        missing.append("tokenizer.json")
    if missing:
        raise DataError(
            f"The model is incomplete: {', '.join(missing)} missing.",
            where=where,
            expected="config.json, *.safetensors and a tokenizer",
            hint="a folder written by save_pretrained of both model and tokenizer has them all",
        )


def _load_folder(folder: Path, dtype: str | None, identity: dict[str, Any], where: str) -> Loaded:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _loading(str(folder), where):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype) if dtype else "auto",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    _check_complete(info, str(folder))
    return Loaded(model, tokenizer, identity, _licence_of_card(folder / "README.md"), folder)


def _model_files(folder: Path) -> list[Path]:
    return sorted({path for pattern in PATTERNS for path in folder.glob(pattern)})


def _licence_of_card(card: Path) -> str | None:
    if not card.is_file():
        return None
    header = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8"), re.DOTALL)
    found = header and re.search(r"^license:\s*(\S+)", header[1], re.MULTILINE)
    return found[1].strip("\"'") if found else None


# --- hub ------------------------------------------------------------------------------------


def _load_hub(source: dict[str, Any], dtype: str | None, where: str) -> Loaded:
    """A repository of a Hugging Face hub, at one commit."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    repo, revision = source["hub"], source["revision"]
    folder = download(repo, revision, where)
    where = f"{where}.source.hub: {repo} at {revision}"
    names = None
    with contextlib.suppress(CachedRepoTreeNotFoundError):
        names = [file.path for file in get_cached_repo_tree(repo, revision=revision)]
    check_folder(folder, where, names)
    identity = {"kind": "hub", "repo": repo, "revision": revision}
    return _load_folder(folder, dtype, identity, where)


def download(
    repo: str, revision: str, where: str = "models", attempts: int = 5, pause: float = 1.0
) -> Path:
    """Download what a model needs into the hub's cache, and return the snapshot's folder.

    The hub's client resumes a file where it was cut; this function repeats what the client gives
    up on: a server that is busy or away, and a listing that did not come. ``HF_ENDPOINT``,
    ``HF_TOKEN``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` are honoured.

    Args:
        repo: ``organisation/name``.
        revision: a commit.
        where: configuration key of the model, for messages.
        attempts: how often to try.
        pause: seconds before the second attempt; doubled each time.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError, XetDownloadError

    for attempt in range(1, attempts + 1):
        try:
            folder = snapshot_download(
                repo,
                revision=revision,
                allow_patterns=PATTERNS,
                ignore_patterns=["*/*"],  # variants for other runtimes live in subfolders
                # The client reads these when imported; what counts is the environment now.
                endpoint=os.environ.get("HF_ENDPOINT") or None,
                token=os.environ.get("HF_TOKEN") or None,
            )
            return Path(folder)
        except (OSError, HTTPError, HFValidationError, XetDownloadError) as error:
            problem, hint, transient = _explain_download(error, repo, revision)
            if not transient or attempt == attempts:
                if transient:
                    problem += f" ({attempts} attempts)"
                raise DataError(
                    problem, where=f"{where}.source.hub: {repo} at {revision}", hint=hint
                ) from error
            delay = pause * 2 ** (attempt - 1)
            logger.warning("%s Trying again in %.0f s.", problem, delay)
            time.sleep(delay)
    raise AssertionError("attempts must be at least 1")


def _explain_download(error: Exception, repo: str, revision: str) -> tuple[str, str, bool]:
    """What went wrong, what to do, and whether trying again can help."""
    from huggingface_hub import errors as hub

    # The client looks in its cache when the network fails, and then reports the empty cache.
    absent = isinstance(error, hub.LocalEntryNotFoundError)
    cause = (error.__cause__ or error) if absent else error
    by_hand = f"hf download {repo} --revision {revision}"
    if isinstance(error, hub.HFValidationError):
        return f"{repo!r} is no repository name.", "write it as organisation/name", False
    if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return (
            f"The hub's cache cannot be written: {cause}.",
            "set HF_HOME to a folder that is yours, on a disk with room for the model",
            False,
        )
    if isinstance(cause, hub.OfflineModeIsEnabled):
        return (
            "The model is not (whole) in the cache, and HF_HUB_OFFLINE forbids the network.",
            f"run `{by_hand}` where there is a network, with the same HF_HOME, or unset "
            "HF_HUB_OFFLINE",
            False,
        )
    if isinstance(cause, hub.GatedRepoError):
        return (
            "The repository is gated: its owner wants its terms accepted first.",
            f"accept them on the page of {repo}, then set HF_TOKEN to a token of that account",
            False,
        )
    if isinstance(cause, hub.RevisionNotFoundError):
        return (
            "The repository has no such commit.",
            "look the commit up in the repository's history; it may have been squashed away",
            False,
        )
    response = getattr(cause, "response", None)
    status = getattr(response, "status_code", None)
    if status in (401, 403):
        return (
            f"The hub refused access (HTTP {status}): no such repository, or no right to read it.",
            "check the name; for a private repository set HF_TOKEN to a token that may read it",
            False,
        )
    if isinstance(cause, hub.RepositoryNotFoundError):
        return "There is no such repository.", "check the name and HF_ENDPOINT", False
    if status == 404:
        file = str(getattr(response, "url", "")).partition("/resolve/")[2].partition("/")[2]
        return (
            f"A file that the repository lists is missing: {file or 'unknown'} (HTTP 404).",
            "the upload may be incomplete: choose another commit, or tell the owner",
            False,
        )
    if status is not None and status < 500 and status not in (408, 429):
        return f"The hub refused the request (HTTP {status}).", "see the log for its answer", False
    detail = f"HTTP {status}" if status else f"{type(cause).__name__}: {cause}".splitlines()[0]
    return (
        f"The download failed: {detail}.",
        "run the same command again: what was downloaded is kept. Behind a proxy set HTTPS_PROXY; "
        f"for a mirror set HF_ENDPOINT; without a network run `{by_hand}` elsewhere",
        True,
    )


# --- random ---------------------------------------------------------------------------------

RANDOM_DEFAULTS: dict[str, Any] = {
    "architecture": "llama",
    "hidden_size": 64,
    "layers": 2,
    "heads": 4,
    "kv_heads": None,  # as many as heads
    "intermediate_size": None,  # four times hidden_size
    "context_length": 2048,
    "vocab_size": 512,
    "tie_embeddings": True,
    "tokenizer_text": None,
    "seed": 0,
}
RANDOM_ARCHITECTURES = ("llama", "mistral", "qwen2", "gpt_neox")
RANDOM_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def _load_random(source: dict[str, Any], dtype: str | None, where: str) -> Loaded:
    """A tiny untrained model, for tests and smoke runs."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    where = f"{where}.source.random"
    given = {key: value for key, value in source["random"].items() if value is not None}
    if unknown := sorted(set(given) - set(RANDOM_DEFAULTS)):
        raise ConfigError(
            f"A random model has no key {unknown[0]!r}.",
            where=f"{where}.{unknown[0]}",
            expected=", ".join(RANDOM_DEFAULTS),
        )
    values = RANDOM_DEFAULTS | given
    if values["architecture"] not in RANDOM_ARCHITECTURES:
        raise ConfigError(
            f"Random models of architecture {values['architecture']!r} are not supported.",
            where=f"{where}.architecture",
            expected=" | ".join(RANDOM_ARCHITECTURES),
        )
    hidden, heads = values["hidden_size"], values["heads"]
    if hidden % (2 * heads):
        raise ConfigError(
            f"hidden_size {hidden} does not divide among {heads} heads of even size.",
            where=f"{where}.heads",
            expected="hidden_size a multiple of 2 × heads (rotary embeddings pair the dimensions)",
        )
    tokenizer = _train_tokenizer(values["tokenizer_text"], values["vocab_size"], where)
    config = AutoConfig.for_model(
        values["architecture"],
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=values["intermediate_size"] or 4 * hidden,
        num_hidden_layers=values["layers"],
        num_attention_heads=heads,
        num_key_value_heads=values["kv_heads"] or heads,
        max_position_embeddings=values["context_length"],
        tie_word_embeddings=values["tie_embeddings"],
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):  # the caller's random state is none of our business
        torch.manual_seed(values["seed"])
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model = model.to(getattr(torch, dtype or "float32"))
    text = values.pop("tokenizer_text")
    identity = {"kind": "random", **values, "tokenizer_text": digest_file(text) if text else None}
    return Loaded(model, tokenizer, identity, None)


def _train_tokenizer(text: str | None, vocab_size: int, where: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    smallest = len(RANDOM_SPECIALS) + 256
    if vocab_size < smallest:
        raise ConfigError(
            f"A vocabulary of {vocab_size} does not hold every byte.",
            where=f"{where}.vocab_size",
            expected=f"at least {smallest}",
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=RANDOM_SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = _texts(Path(text), f"{where}.tokenizer_text") if text else iter(())
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        logger.info("vocabulary: %d; the text gives no more", tokenizer.get_vocab_size())
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


def _texts(path: Path, where: str) -> Iterator[str]:
    """The lines of a text file, or every string in a JSON lines file."""
    if not path.is_file():
        raise ConfigError(
            "There is no such text file.",
            where=f"{where}: {path}",
            expected="a .txt or .jsonl file",
        )
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if path.suffix != ".jsonl":
                yield line
            elif line.strip():
                try:
                    yield from _strings(json.loads(line))
                except ValueError as error:
                    raise DataError(f"Not JSON: {error}", where=f"{path}:{number}") from None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)


# --- shared ---------------------------------------------------------------------------------

LOADERS: dict[str, Callable[[dict[str, Any], str | None, str], Loaded]] = {
    "package": _load_package,
    "path": _load_path,
    "hub": _load_hub,
    "random": _load_random,
}


@contextlib.contextmanager
def _loading(what: str, where: str) -> Iterator[None]:
    """Turn whatever a loader raises on a damaged or foreign model into a sentence."""
    try:
        yield
    except (RlhfError, MemoryError):
        raise
    except Exception as error:
        remote = "trust_remote_code" in str(error)
        raise DataError(
            f"{what} cannot be loaded: {type(error).__name__}: {str(error).splitlines()[0]}"
            if str(error)
            else f"{what} cannot be loaded: {type(error).__name__}",
            where=where,
            expected="a causal language model of an architecture that transformers has",
            hint="a model that brings its own code is not run: choose one that transformers has"
            if remote
            else "a damaged file? fetch the model anew, or load it by hand with transformers",
        ) from error


def _check_complete(info: dict[str, Any], what: str) -> None:
    """Weights that are absent would silently be random."""
    missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if missing:
        raise DataError(
            f"{len(missing)} weights are missing or of another shape: {', '.join(missing[:3])} …",
            where=what,
            expected="all weights of a causal language model",
            hint="a reward model or an encoder cannot be a base model",
        )


def _save(loaded: Loaded, folder: Path, where: str) -> Any:
    """Write the folder, and return the tokenizer as later stages will load it."""
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    if not (folder / "tokenizer.json").is_file():
        raise DataError(
            "The tokenizer has no fast version, so tokenizer.json cannot be written.",
            where=where,
            hint="choose a model whose folder has tokenizer.json",
        )
    tokenizer = _reload_tokenizer(loaded.tokenizer, folder, where)
    roots = {str(loaded.root), str(loaded.root.resolve())} if loaded.root else set()
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        write_json(folder / name, _without_notes(read_json(folder / name), roots))
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # weights come out readable by us alone
    return tokenizer


def _reload_tokenizer(tokenizer: Any, folder: Path, where: str) -> Any:
    """Make the saved tokenizer the one that loading it gives.

    The class that belongs to an architecture may rebuild parts of what it reads (Qwen2 its
    pre-tokenizer), so the digest of the tokenizer in memory would not be what others see.
    """
    from transformers import AutoTokenizer

    from rlhf.data.templates import check_tokenizer, tokenizer_digest

    reloaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer_digest(reloaded) != tokenizer_digest(tokenizer):
        reloaded.save_pretrained(folder)
        check_tokenizer(reloaded, None, where.rpartition(".")[2])
    return reloaded


def _without_notes(value: Any, roots: set[str]) -> Any:
    """A configuration without traces of the place that it was loaded from."""
    if isinstance(value, dict):
        return {
            key: _without_notes(one, roots)
            for key, one in value.items()
            if key not in LOADER_NOTES
            and not (isinstance(one, str) and any(root in one for root in roots))
        }
    return [_without_notes(one, roots) for one in value] if isinstance(value, list) else value

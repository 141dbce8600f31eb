"""Which container images the stages run in, what they are called, and whether they are there.

Two builds of the same image differ in their bytes, so an image is known by what it is made from:
its definition, the files that the definition copies (the locks), and its base where a site chose
another than the definition's own. A digest of these is part of its file name. No torch in here.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from rlhf.core.digest import digest_file, digest_text, digest_value
from rlhf.core.files import read_json, write_json
from rlhf.errors import RlhfError
from rlhf.provenance.code import PACKAGE_ROOT

USUAL = ("train", "serve")
KINDS = (*USUAL, "sample")  # the last only for runs whose sampler is vLLM
RUNTIMES = ("apptainer", "singularity")
PROJECT = PACKAGE_ROOT.parents[1]
FOLDER = Path("images")  # in the working directory, as results are
_BASES = FOLDER / "bases.json"
_DIGITS = 12


def present() -> list[str]:
    """Kinds of which there ought to be an image: the usual ones, and those that were built once."""
    return [kind for kind in KINDS if kind in USUAL or any(FOLDER.glob(f"{kind}-*.sif"))]


def image_path(kind: str) -> Path:
    """Where the image of a kind is, or has to be built: ``images/<kind>-<digest>.sif``."""
    return FOLDER / f"{image_name(kind)}.sif"


def image_id(*kinds: str) -> str:
    """What a stage that runs in these images records, such as ``image:train-0123456789ab``."""
    return "image:" + "+".join(image_name(kind) for kind in kinds)


def image_name(kind: str) -> str:
    """Kind and digest of all that the image is made from."""
    definition = definition_path(kind)
    inputs = {
        "definition": digest_file(definition),
        "files": {name: digest_file(PROJECT / name) for name in copied_files(definition)},
        "base": read_bases().get(kind, {}).get("digest"),
    }
    return f"{kind}-{digest_value(inputs)[:_DIGITS]}"


def definition_path(kind: str) -> Path:
    """The definition of a kind of image.

    Raises:
        RlhfError: there is no such kind.
    """
    if kind not in KINDS:
        raise RlhfError("There is no such image.", where=kind, expected=" or ".join(KINDS))
    return PROJECT / "containers" / f"{kind}.def"


def copied_files(definition: Path) -> list[str]:
    """What a definition's ``%files`` copies into the image, relative to the project."""
    section, names = "", []
    for line in definition.read_text(encoding="utf-8").splitlines():
        if line.startswith("%"):
            section = line.strip()
        elif section == "%files" and line.strip():
            names.append(line.split()[0])
    return names


def read_bases() -> dict[str, dict[str, Any]]:
    """Bases that this site builds on instead of the definitions' own: kind → source, digest.

    Raises:
        RlhfError: the file that lists them is damaged.
    """
    try:
        bases = read_json(_BASES)
        if all(isinstance(one[key], str) for one in bases.values() for key in ("source", "digest")):
            return bases
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise RlhfError(
        "The list of base images is damaged.",
        where=_BASES,
        expected="what `rlhf images build --base` wrote",
        hint="delete it, and give --base again for each image that was built on another base",
    )


def choose_base(kind: str, source: str | None) -> None:
    """Build images of a kind on another base from now on; None returns to the definition's own.

    Args:
        kind: the kind of image.
        source: an image's file (SIF or squashfs), or an address such as ``docker://…``.

    Raises:
        RlhfError: the file is not there.
    """
    bases = read_bases()
    if source is None:
        bases.pop(kind, None)
    elif "://" in source:
        bases[kind] = {"source": source, "digest": digest_text(source)}
    else:
        path = Path(source).resolve()
        if not path.is_file():
            raise RlhfError(
                "The base image is not there.",
                where=path,
                expected="an image in one file, or an address such as docker://host/name:tag",
                hint="mksquashfs makes one file of a folder; `--base default` forgets this base",
            )
        bases[kind] = {"source": str(path), "digest": digest_file(path)}
    if bases != read_bases():
        write_json(_BASES, bases)


def require_image(kind: str) -> Path:
    """Path of a kind's image.

    Raises:
        RlhfError: it was not built yet, or only from another definition, lock or base.
    """
    path = image_path(kind)
    if not path.is_file():
        others = [str(other) for other in old_images(kind)]
        own = "" if kind in USUAL else f" {kind}"
        raise RlhfError(
            f"The image of kind {kind} is {'stale' if others else 'not built yet'}.",
            where=f"{', '.join(others)}: from another definition, lock or base" if others else path,
            expected=str(path),
            hint=f"run `rlhf images build{own}` on a machine with a network",
        )
    return path


def old_images(kind: str) -> list[Path]:
    """Images of a kind that were built from something else than what is here now."""
    return sorted(path for path in FOLDER.glob(f"{kind}-*.sif") if path != image_path(kind))


def find_runtime() -> str:
    """Path of the program that runs images.

    Raises:
        RlhfError: there is none.
    """
    for name in RUNTIMES:
        if found := shutil.which(name):
            return found
    raise RlhfError(
        "There is no container runtime on this machine.",
        where="PATH",
        expected=" or ".join(RUNTIMES),
        hint="install Apptainer or load its module, or set `runtime.containers: none`",
    )

"""What the definitions may do, and that they and their locks belong together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf.launch import images

DEFINITIONS = sorted((images.PROJECT / "containers").glob("*.def"))
LOCKS = sorted((images.PROJECT / "envs/locks").glob("*.txt"))

# While an image is built, these are the folders of the machine that builds it.
HOST = ("/tmp", "/var/tmp", "/dev")
_REMOVES = re.compile(r"\b(rm|rmdir|unlink|shred|truncate|mv|wipe|dd|mkfs\S*)\b|-delete\b|--delete")
_REDIRECTS = re.compile(r">\s*/(?:tmp|var/tmp|dev)/(?!null\b)\S*")
# A plain file or folder outside those: no variable, no link upwards, no pattern in the first part.
_HARMLESS = re.compile(r"/(?!(?:tmp|var/tmp|dev)\b)(?!var/?$)[\w.+-]+(?:/[\w.*+-]+)+/?")


def removals(definition: str) -> Iterator[str]:
    """Lines of a definition that remove, or could remove, something of the building machine."""
    text = definition.replace("\\\n", " ")
    for line in text.splitlines():
        code = re.sub(r"(^|\s)#.*", "", line)
        if _REDIRECTS.search(code):
            yield line
        for command in re.split(r"[;&|]+|\$\(|\bthen\b|\bdo\b|`", code):
            found = _REMOVES.search(command)
            if not found:
                continue
            targets = [word.strip("\"'") for word in command[found.end() :].split()]
            targets = [word for word in targets if not word.startswith("-")]
            harmless = targets and all(
                _HARMLESS.fullmatch(target) and ".." not in target for target in targets
            )
            if not harmless or found[0].endswith("-delete"):
                yield line


@pytest.mark.parametrize(
    "line",
    [
        "rm -rf /tmp/*",
        "    rm -rf /tmp",
        "rm -r /var/tmp/pip-*",
        "rm -rf /dev/shm/*",
        "apt-get clean && rm -rf /var/lib/apt/lists/* /tmp/* /var/tmp/*",
        "rm -rf \\\n    /var/lib/apt/lists/* \\\n    /tmp/*",
        "rm -rf $TMPDIR",
        'rm -rf "${scratch:-/tmp}"/*',
        "cd /tmp && rm -rf *",
        "rm -rf /*",
        "rm -rf /var",
        "rm -rf /opt/../tmp/*",
        "find /tmp -type f -delete",
        "find / -name '*.pyc' -delete",
        "find /tmp -exec rm {} +",
        "ls /tmp/* | xargs rm",
        "mv /tmp/wheels /opt",
        "if true; then rmdir /tmp/pip; fi",
        "rsync --delete /opt/empty/ /tmp/",
        "echo > /dev/sda",
        "$(rm -rf /tmp/x)",
    ],
)
def test_what_removes_from_the_building_machine_is_rejected(line):
    assert list(removals(f"%post\n    {line}\n"))


@pytest.mark.parametrize(
    "line",
    [
        "apt-get clean && rm -rf /var/lib/apt/lists/*",
        "rm /opt/rlhf/check.py",
        "tritonserver --help >/dev/null 2>&1",
        "# never rm -rf /tmp/*",
        "python3 -m pip install --no-cache-dir -r /opt/rlhf/locks/train.txt",
        "python3 -c 'import torch'  # DANGER: rm in /tmp",
    ],
)
def test_what_does_not_is_accepted(line):
    assert not list(removals(f"%post\n    {line}\n"))


@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.name)
def test_the_definitions_remove_nothing(path):
    assert not list(removals(path.read_text()))


def test_there_is_a_definition_of_every_kind():
    assert {path.stem for path in DEFINITIONS} == set(images.KINDS)


@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.name)
def test_a_definition_pins_its_base_and_installs_by_hash_alone(path):
    text = path.read_text()
    base = r"nvcr\.io/nvidia/\w+:\d\d\.\d\d-py3|vllm/vllm-openai:v[\d.]+"
    assert re.search(rf"^    FROM=({base})$", text, re.MULTILINE)
    assert "%test" in text
    installs = re.findall(r"pip .*?install .*", text.replace("\\\n", " "))
    assert installs
    assert all("--require-hashes" in one and "--no-deps" in one for one in installs)
    assert "PYTHONNOUSERSITE=1" in text
    for label in ("image.version {{ VERSION }}", "image.revision {{ REVISION }}", "{{ FROM }}"):
        assert f"org.opencontainers.{label}" in text or f"base.name {label}" in text


@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.name)
def test_all_locks_that_a_definition_uses_are_copied(path):
    copied = images.copied_files(path)
    assert f"envs/locks/{path.stem}.txt" in copied
    assert all((images.PROJECT / name).is_file() for name in copied)


def pins(path: Path) -> dict[str, str]:
    found = re.findall(r"^([\w.-]+)(?:\[\w+\])?==([^\s;]+)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_locked_package_has_hashes(path):
    blocks = re.split(r"^(?=[\w.-]+==)", path.read_text(), flags=re.MULTILINE)[1:]
    assert blocks
    assert all("--hash=sha256:" in block for block in blocks)


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_images_and_the_bare_environment_have_the_same_versions(path):
    """But for vLLM, which is a process of its own and wants versions of its own."""
    if path.name == "sample.txt":
        assert pins(path)["transformers"] != pins(images.PROJECT / "envs/lock.txt")["transformers"]
        return
    bare = pins(images.PROJECT / "envs/lock.txt") | pins(images.PROJECT / "envs/bare.txt")
    common = pins(path).keys() & bare.keys()
    assert common
    assert {name: pins(path)[name] for name in common} == {name: bare[name] for name in common}


@pytest.mark.parametrize("kind", images.KINDS)
def test_a_lock_holds_what_its_environment_asks_for_and_leaves_torch_to_the_base(kind):
    asked = pins(images.PROJECT / f"envs/{kind}.txt")
    torch = asked.pop("torch", pins(images.PROJECT / "envs/train.txt")["torch"])
    locked = pins(images.PROJECT / f"envs/locks/{kind}.txt")
    assert {name: locked.get(name) for name in asked} == asked
    assert "torch" not in locked
    assert pins(images.PROJECT / "envs/locks/torch.txt")["torch"] == torch

"""Links between the pages of the repository lead somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from support.page_tables import REPOSITORY


def pages() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    return [REPOSITORY / name for name in listed]


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Anchors of headings, as GitHub makes them, and those that are written out."""
    text = prose(page)
    titles = [re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-")
              for one in re.findall(r"^#+ (.*)$", text, flags=re.M)]  # fmt: skip
    return {*titles, *re.findall(r'<a id="([^"]+)">', text)}


def test_links_lead_to_files_and_headings():
    broken = []
    for page in pages():
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if re.match(r"\w+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path) if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{page.relative_to(REPOSITORY)}: {target}")
    assert broken == []


def test_every_page_is_reached_from_the_readme():
    seen: set[Path] = set()
    waiting = [REPOSITORY / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        targets = [one.partition("#")[0] for one in re.findall(r"\]\(([^)\s]+)\)", prose(page))]
        waiting += [(page.parent / one).resolve() for one in targets if one.endswith(".md")]
    docs = {page for page in pages() if page.parent.name == "docs"}
    assert docs
    assert docs - seen == set()

"""Runs at the end of an image's build: is all there that the locks name, and does it import?"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import site
import sys
from pathlib import Path

assert site.ENABLE_USER_SITE is False, "packages of a user's home would come first"
for lock in Path(__file__).parent.glob("locks/*.txt"):
    for name, locked in re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), re.MULTILINE):
        found = importlib.metadata.version(name)
        assert found == locked, f"{name} is {found}, not {locked} as in {lock}"
for module in sys.argv[1:]:
    importlib.import_module(module)

"""A launcher's part in owning a state: claim the folder, say so, hold it until stdin ends."""

from __future__ import annotations

import sys

from rlhf.errors import RlhfError
from rlhf.runtime import ownership

if __name__ == "__main__":
    try:
        with ownership.claim(sys.argv[1], ownership.new_attempt()) as owned:
            print(f"owner {owned.attempt.id}", flush=True)
            sys.stdin.read()
    except RlhfError as error:
        print(f"refused {error}".replace("\n", " "), flush=True)

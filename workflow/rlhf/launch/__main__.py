"""``python -m rlhf.launch``."""

import sys

from rlhf.launch.command import run

if __name__ == "__main__":
    sys.exit(run())

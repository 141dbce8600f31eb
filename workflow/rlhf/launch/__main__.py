"""``python -m rlhf.launch``."""

import sys

from rlhf.launch import main

if __name__ == "__main__":
    sys.exit(main())

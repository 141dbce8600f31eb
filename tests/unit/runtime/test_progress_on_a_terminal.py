"""A bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

STEPS = """
import logging, time
logging.basicConfig(level=logging.INFO, format="%(message)s")
from rlhf.runtime.progress import Progress
progress = Progress("train_sft.chat", 4, done=1)
for _ in range(3):
    time.sleep(0.15)
    progress.advance(100, "loss 1.5")
progress.close()
"""


def test_a_terminal_gets_a_bar() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", STEPS], stderr=theirs, stdout=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    assert process.wait() == 0
    text = shown.decode()
    assert "100%" in text
    assert "4/4" in text
    assert "tok/s" in text
    assert "<00:00" in text  # time left


def test_elsewhere_there_are_lines() -> None:
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("train_sft.chat step 4/4")
    assert "tok/s" in lines[-1]
    assert "left" in lines[-1]
    assert "\r" not in done.stderr

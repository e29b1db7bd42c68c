"""Progress: a bar with the current accuracy on a terminal, nothing in a log."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

from conftest import ROOT

SCRIPT = """
from amalgam.progress import progress_bar
from amalgam.history import Epoch
from amalgam.validation import Validation
with progress_bar("student taskA", 3, "step") as (advance, show):
    for number in (1, 2, 3):
        advance()
        show(Epoch(number, 0.1, 0.5, 0.75, {}, validation=Validation(0.4, 0.625)))
"""
COMMAND = [sys.executable, "-c", SCRIPT]


def test_a_terminal_sees_the_bar_and_the_accuracy() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    subprocess.run(COMMAND, cwd=ROOT, stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "student taskA: 100%|" in shown
    assert "epoch=3, train=75.0%, val=62.5%" in shown


def test_a_log_file_sees_nothing() -> None:
    result = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout + result.stderr == ""

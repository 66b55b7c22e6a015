"""Running a program that is killed just before the nth time that it does something to the disk."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_KILLER = """
import os, pathlib, signal, sys
from pathlib import Path
from pocketpaw.config import *
from pocketpaw.config.vault import Vault
root, left = Path(sys.argv[1]), int(sys.argv[2])

def counting(real):
    def call(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    return call

home, vault = Home(root), Vault(Home(root))
os.open, os.fsync, os.link, pathlib.Path.replace = map(counting, (os.open, os.fsync, os.link, pathlib.Path.replace))
"""


def cut_short(root: Path, program: str) -> Iterator[int]:
    """Run `program`, which has `home` and `vault`, on `root` until it ends, killed one step later each time.

    Yields the number of the step after each kill, for the caller to look and to put things back as they were.
    """
    step = 1
    while True:
        arguments = [sys.executable, "-P", "-c", _KILLER + program, str(root), str(step)]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0:
            return
        assert done.returncode == -signal.SIGKILL, done.stderr
        yield step
        step += 1

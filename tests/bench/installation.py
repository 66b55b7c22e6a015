"""The daemon as a user has it: a virtual environment made from `requirements.lock`, and nothing else in it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
INSTALL = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps")


def install(folder: Path) -> Path:
    """Make the environment, unless there is one of the same lock; returns the command `pocketpaw` in it."""
    lock = ROOT / "requirements.lock"
    wanted = hashlib.sha256(lock.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    stamp = folder / ".made-of"
    binary = folder / "bin/pocketpaw"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing from {lock.name}", flush=True)
        python = str(folder / "bin/python")
        steps = (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [python, *INSTALL, "--require-hashes", "-r", str(lock)],
            [python, *INSTALL, "--editable", str(ROOT)],
        )
        for step in steps:
            subprocess.run(step, check=True, stderr=subprocess.PIPE)
        stamp.write_text(wanted)
    return binary

"""A command-line agent that reads its stdin, prints the lines that it is told, and writes down how it was called.

program = place(tmp_path / "bin", "claude", lines=CLAUDE, status=0)       # then put the folder on the PATH
program.calls()[-1].stdin
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

_SCRIPT = """#!{python} -IS
import json, os, sys, time
told = json.loads({told!r})
with open({record!r}, "a") as record:
    call = {{"arguments": sys.argv[1:], "environment": dict(os.environ), "stdin": sys.stdin.read(),
             "files": os.listdir("."), "folder": os.getcwd(), "pid": os.getpid(), "child": 0}}
    if told["has_child"]:
        call["child"] = os.fork()
        if call["child"] == 0:
            time.sleep(600)
    record.write(json.dumps(call) + "\\n")
for line in told["lines"]:
    print(line, flush=True)
    time.sleep(told["pause_s"])
print(told["stderr"], end="", file=sys.stderr, flush=True)
while told["hangs"]:
    time.sleep(600)
os._exit(told["status"])
"""


class Call(msgspec.Struct):
    """How it was called; `files` is what was in its `folder`."""

    arguments: list[str]
    environment: dict[str, str]
    stdin: str
    files: list[str]
    folder: str
    pid: int
    child: int


@dataclass(frozen=True)
class FakeProgram:
    record: Path

    def calls(self) -> list[Call]:
        text = self.record.read_text() if self.record.exists() else ""
        return [msgspec.json.decode(line, type=Call) for line in text.splitlines()]


def place(
    folder: Path,
    name: str,
    lines: Sequence[str] = (),
    *,
    status: int = 0,
    stderr: str = "",
    pause_s: float = 0.0,
    hangs: bool = False,
    has_child: bool = False,
) -> FakeProgram:
    """Put the program into `folder`; one that `has_child` leaves a process behind that holds its stdout."""
    folder.mkdir(exist_ok=True)
    record = folder / f"{name}.calls"
    told = {
        "lines": list(lines),
        "status": status,
        "stderr": stderr,
        "pause_s": pause_s,
        "hangs": hangs,
        "has_child": has_child,
    }
    script = folder / name
    script.write_text(
        _SCRIPT.format(python=sys.executable, told=msgspec.json.encode(told).decode(), record=str(record))
    )
    script.chmod(0o755)
    return FakeProgram(record)

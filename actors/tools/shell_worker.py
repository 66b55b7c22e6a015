"""Commands of one session: what runs inside the child process of `tools/shells/*`."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator

from ...runtime.worker import Worker
from .contained import Ending, Limits, contain
from .protocol import ToolEvent, ToolOutput, ToolProgress
from .shell import RunCommand

HEAD_BYTES = 20_000
TAIL_BYTES = 28_000
"""Of the output, what is kept: the beginning and the end. The end says how it went."""
FLOOD_BYTES = 50_000_000
"""A command that writes more is ended."""
POLL_S = 0.1
"""How often to look whether anybody still wants the answer."""
PROGRESS_S = 1.0
QUIET_PROGRESS_S = 10.0
"""Also with nothing new to show: nobody is to think that the call is dead."""
PROGRESS_LIMIT = 200

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "LOGNAME")
_DEFAULTS = {"PATH": os.defpath, "LANG": "C.UTF-8", "TERM": "dumb", "NO_COLOR": "1", "PAGER": "cat"}


class ShellWorker(Worker):
    """Answers `RunCommand`."""

    def run(self, message: RunCommand) -> Iterator[ToolEvent]:
        started = time.monotonic()
        kept = KeptOutput()
        with contain(_arguments(message.command), message.folder, environment(), Limits(message.timeout_s)) as command:
            progress = _Progress(started)
            while command.ending is None:
                kept.add(command.read(POLL_S))
                if self.is_cancelled():
                    return
                if kept.total > FLOOD_BYTES:
                    command.release()
                event = progress.next(kept)
                if event is not None:
                    yield event
            for data in command.rest():
                kept.add(data)
            ending = command.ending
        took_s = time.monotonic() - started
        text = f"[{_verdict(ending, kept, message.timeout_s)}, after {took_s:.1f} s]{_remarks(ending)}\n{kept.text()}"
        is_error = ending != Ending("exited", background=ending.background)
        yield ToolOutput(text, is_error, source=f"shell {_title(message.command)}")


class KeptOutput:
    """The beginning and the end of what was written, however much it is."""

    def __init__(self) -> None:
        self.total = 0
        self._head = b""
        self._tail = bytearray()

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = HEAD_BYTES - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]

    def last_line(self) -> str:
        """The last line that is not empty."""
        end = (self._tail or self._head)[-4 * PROGRESS_LIMIT :].decode(errors="replace").rstrip()
        return end.rpartition("\n")[2][-PROGRESS_LIMIT:]

    def text(self) -> str:
        if self.total <= HEAD_BYTES + TAIL_BYTES:
            return (self._head + self._tail).decode(errors="replace")
        head = self._head.decode(errors="replace")
        tail = self._tail[-TAIL_BYTES:].decode(errors="replace")
        missing = self.total - HEAD_BYTES - TAIL_BYTES
        return f"{head}\n[… {missing} bytes left out; for all of it, write it to a file and read that …]\n{tail}"


class _Progress:
    """Says now and then how far the command is."""

    def __init__(self, started: float) -> None:
        self._started = self._said = started
        self._total = 0

    def next(self, kept: KeptOutput) -> ToolProgress | None:
        now = time.monotonic()
        is_new = kept.total > self._total
        if now - self._said < (PROGRESS_S if is_new else QUIET_PROGRESS_S):
            return None
        self._said, self._total = now, kept.total
        return ToolProgress(kept.last_line() if is_new else f"still running, for {now - self._started:.0f} s")


def environment() -> dict[str, str]:
    """What a command finds in its environment: all of it."""
    return _DEFAULTS | {name: os.environ[name] for name in _KEPT if name in os.environ}


def _arguments(command: str) -> list[str]:
    return [shutil.which("bash") or "/bin/sh", "-c", command]


def _verdict(ending: Ending, kept: KeptOutput, timeout_s: float) -> str:
    match ending.how:
        case "exited":
            return f"exit code {ending.number}"
        case "signalled":
            return f"killed by {_signal_name(ending.number)}"
        case "late":
            return f"stopped at its time limit of {timeout_s:g} s (timeout_s)"
        case "swarmed":
            return f"stopped because it had more than {Limits(0).processes} processes"
        case "released":
            return f"stopped because it wrote more than {FLOOD_BYTES} bytes, {kept.total} in all"
        case "lost":
            return "stopped because its guard was killed"


def _remarks(ending: Ending) -> str:
    remarks = ""
    if ending.background:
        remarks += f"\n[{ending.background} processes that it left in the background were ended]"
    if ending.stuck:
        remarks += f"\n[{ending.stuck} of its processes could not be ended: another user's, or stuck in the kernel]"
    return remarks


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time one


def _title(command: str) -> str:
    line = command.strip().partition("\n")[0]
    return line if len(line) <= 100 else f"{line[:99]}…"

"""What this process has started, as the system sees it: counting it, adopting it, and ending it for good."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

PATIENCE_S = 3.0
"""How long to go on killing; longer takes only what is stuck in the kernel, on a disk that hangs say."""
PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Be the one who inherits what descendants leave behind (Linux)."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_descendants() -> int:
    """Kill every descendant of this process, and reap them; return how many are stuck.

    They are killed by their groups: each at once, which no fork can outrun. Whoever changes its group meanwhile is
    found the next time.
    """
    until = time.monotonic() + PATIENCE_S
    ours = os.getpgrp()
    while _reap():
        found = descendants()
        for group in {process.group for process in found} - {ours}:
            kill_group(group)
        if time.monotonic() > until:
            return len(found)
        time.sleep(0.001)
    return 0


class Process(NamedTuple):
    """A process at the moment it was looked at."""

    pid: int
    parent: int
    group: int
    threads: int
    is_zombie: bool


def descendants() -> list[Process]:
    """Everything that this process has started, directly or not, and that has not been reaped."""
    children: dict[int, list[Process]] = {}
    for process in _processes():
        children.setdefault(process.parent, []).append(process)
    found = list(children.get(os.getpid(), ()))
    for process in found:  # it grows while it is walked
        found += children.get(process.pid, ())
    return found


def _processes() -> Iterator[Process]:
    try:
        names = os.listdir("/proc")  # noqa: PTH208 only the names, and fast
    except FileNotFoundError:
        return  # not Linux: only the command's own group is known
    for name in names:
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 a Path costs more than the reading
                    fields = file.read().rpartition(b")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended meanwhile
            yield Process(int(name), int(fields[1]), int(fields[2]), int(fields[17]), fields[0] in b"ZX")


def signal_at_parents_death(number: signal.Signals) -> None:
    """Get this signal when the parent dies; this outlasts the exec of another program, but not a fork (Linux)."""
    _prctl(PR_SET_PDEATHSIG, number)


def tasks_of_this_user() -> int:
    """Count what this user runs, threads and all: what RLIMIT_NPROC is compared with."""
    user = os.getuid()
    return sum(process.threads for process in _processes() if _owner(process.pid) == user)


def _owner(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116
    except (FileNotFoundError, ProcessLookupError):
        return None


def _reap() -> bool:
    """Reap what has ended; whether any child is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def kill_group(group: int) -> None:
    """Kill every process of a group at once."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # it has ended meanwhile, or is another user's, by sudo say: then it is among the stuck


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux" and _libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")

"""The guard of a command: a process that keeps its limits and leaves nothing of it behind. See `contained.py`."""

from __future__ import annotations

import os
import resource
import select
import signal
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Literal, NamedTuple, NoReturn

import msgspec

from .processes import (
    become_subreaper,
    descendants,
    end_descendants,
    kill_group,
    signal_at_parents_death,
    tasks_of_this_user,
)

WATCH_S = 0.1
WATCH_SHARE = 0.05
"""Of one core, at most, that counting the processes takes."""
NICENESS = 10
OUT_OF_MEMORY_SCORE = b"1000"
"""When memory runs out, the command goes first."""


def half_of_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


class Limits(msgspec.Struct, frozen=True):
    """What a command may use; bytes and open files are for each of its processes."""

    time_s: float
    processes: int = 256
    memory_bytes: int = msgspec.field(default_factory=half_of_memory)
    file_bytes: int = 8 * 2**30
    open_files: int = 4096


class Ending(msgspec.Struct, frozen=True):
    """How it ended. `number` is the exit status, or the signal that killed it.

    `late`, `swarmed` and `released` were ended by the guard: out of time, too many processes, no longer wanted.
    """

    how: Literal["exited", "signalled", "late", "swarmed", "released", "lost"]
    number: int = 0
    background: int = 0
    """Processes that it had left running, ended after it."""
    stuck: int = 0
    """Processes that could not be ended: another user's, or waiting for a disk in the kernel."""


class Task(NamedTuple):
    """What is to be run, and where."""

    arguments: Sequence[str]
    folder: str
    environment: Mapping[str, str]
    limits: Limits


def keep(task: Task, control: int, status: int, output: int) -> NoReturn:
    """Run the command and see it to its end: the whole life of the guard's process."""
    try:
        os.setsid()  # the worker's group is killed when the daemon is gone, and this one has to clean up then
        become_subreaper()
        signal_at_parents_death(signal.SIGCONT)  # the command may have stopped it
        _keep_open(control, status, output)
        ending = _watch(task, control, output)
        os.write(status, msgspec.json.encode(msgspec.structs.replace(ending, stuck=end_descendants())))
    finally:
        end_descendants()
        os._exit(0)


def _keep_open(*descriptors: int) -> None:
    """Close all but these: the worker's own pipes must end with the worker."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    start = 3
    for descriptor in (*sorted(descriptors), os.sysconf("SC_OPEN_MAX")):
        os.closerange(start, descriptor)
        start = descriptor + 1


def _watch(task: Task, control: int, output: int) -> Ending:
    """Start the command and wait for what comes first: its end, a limit, or the worker's letting go."""
    wake, wake_in = os.pipe()
    for descriptor in (wake, wake_in):
        os.set_blocking(descriptor, False)
    signal.signal(signal.SIGCHLD, _wake_up)
    signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)
    tasks = tasks_of_this_user() if os.geteuid() else 0
    guard = os.getpid()
    command = os.fork()
    if not command:
        _become(task, output, guard, tasks)
    os.close(output)
    now = time.monotonic()
    deadline, next_count = now + task.limits.time_s, now
    try:
        while (ended := _ended(command)) is None:
            now = time.monotonic()
            if now >= deadline:
                return Ending("late")
            if now >= next_count:
                if len(descendants()) > task.limits.processes:
                    return Ending("swarmed")
                next_count = now + max(WATCH_S, (time.monotonic() - now) / WATCH_SHARE)
            ready, _, _ = select.select([control, wake], [], [], max(0.0, min(deadline, next_count) - now))
            if control in ready:
                return Ending("released")
            if wake in ready:
                os.read(wake, 4096)
        return msgspec.structs.replace(ended, background=sum(not process.is_zombie for process in descendants()))
    finally:
        kill_group(command)  # while its number is its own; where there is no /proc, this is all there is


def _wake_up(_: int, __: FrameType | None) -> None:
    """A child has ended; the wake-up descriptor says so."""


def _ended(command: int) -> Ending | None:
    """How the command ended, if it has. It stays unreaped: its number is still its own when its group is killed.

    Orphans that were adopted and have ended are reaped on the way.
    """
    while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
        if found.si_pid == command:
            how = "exited" if found.si_code == os.CLD_EXITED else "signalled"
            return Ending(how, found.si_status)
        os.waitpid(found.si_pid, 0)
    return None


def _become(task: Task, output: int, guard: int, tasks: int) -> NoReturn:
    """Turn this process, the guard's child, into the command."""
    try:
        os.setsid()
        signal_at_parents_death(signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(1)  # it was killed before it could be followed
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(task.folder)
        _restrict(task.limits, tasks)
        os.execve(task.arguments[0], list(task.arguments), task.environment)  # noqa: S606 this is what it is for
    except (OSError, ValueError) as error:  # no such folder, too long a command, a NUL in it
        os.write(2, f"it could not be started: {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def _restrict(limits: Limits, tasks: int) -> None:
    os.nice(NICENESS)
    try:
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(descriptor, OUT_OF_MEMORY_SCORE)
        os.close(descriptor)
    except OSError:
        pass  # not Linux, or a container that forbids it
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, int(limits.time_s + 1) * (os.cpu_count() or 1))
    _limit(resource.RLIMIT_DATA, limits.memory_bytes)
    _limit(resource.RLIMIT_FSIZE, limits.file_bytes)
    _limit(resource.RLIMIT_NOFILE, limits.open_files)
    if tasks:  # the kernel counts all that the user runs, threads too, and root's not at all
        _limit(resource.RLIMIT_NPROC, tasks + 4 * limits.processes)


def _limit(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    least = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (least, least))

"""Running a command so that nothing it starts outlives it, whatever it starts and whoever is killed.

Three processes stand in a row: the worker that wants the command run, a guard that it forks, and the command. The guard
adopts whatever daemonises (it is a subreaper), keeps the limits, and kills when the command has ended or when the
worker lets go of a pipe, which it does by dying too. If the guard is killed, the command dies by its parent-death
signal, and the worker, a subreaper itself, adopts and kills the rest. Only when the kernel says that there is no child
left is it over.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from .command_guard import Ending, Limits, Task, keep
from .processes import PATIENCE_S, become_subreaper, end_descendants

__all__ = ["Contained", "Ending", "Limits", "contain"]

GUARD_GRACE_S = PATIENCE_S + 1.0
"""For the guard, to end what it guards; less than what a worker has to leave off."""
READ_BYTES = 2**16
PIPE_BYTES = 2**20
"""The most that a pipe holds (pipe(7))."""


class Contained:
    """A command that runs; see `contain`."""

    def __init__(self, guard: int, control: int, status: int, output: int, time_s: float) -> None:
        self._guard = guard
        self._guard_has_until = time.monotonic() + time_s + GUARD_GRACE_S
        self._control: int | None = control
        self._status = status
        self._output = output
        self._report = b""
        self._poll = select.poll()
        for descriptor in (status, output):
            os.set_blocking(descriptor, False)
            self._poll.register(descriptor, select.POLLIN)
        self.ending: Ending | None = None

    def read(self, wait_s: float) -> bytes:
        """What it has written since; waits up to `wait_s` for something to happen. Sets `ending` when it is over."""
        self._see_to_guard()
        for descriptor, _ in self._poll.poll(wait_s * 1000):
            if descriptor == self._status:
                self._read_status()
            else:
                data = self._read_output()
                if data:
                    return data
        return b""

    def rest(self) -> Iterator[bytes]:
        """What it had written before it ended and was not read yet."""
        for _ in range(PIPE_BYTES // READ_BYTES):  # more can only be from what is stuck, which may write for ever
            data = self._read_output()
            if not data:
                return
            yield data

    def release(self) -> None:
        """Have the guard end it."""
        if self._control is not None:
            os.close(self._control)
            self._control = None
            self._guard_has_until = time.monotonic() + GUARD_GRACE_S

    def close(self) -> None:
        """End it if it runs; returns when nothing of it is left."""
        self.release()
        while self.ending is None:
            self._see_to_guard()
            self._poll.poll(100)
            self._read_status()
            for _ in self.rest():
                pass  # nobody wants it any more, and who writes it shall not wait
        os.close(self._status)
        os.close(self._output)

    def _see_to_guard(self) -> None:
        """Kill a guard that does not do its work: the command may have stopped it."""
        if time.monotonic() > self._guard_has_until:
            os.kill(self._guard, signal.SIGKILL)

    def _read_status(self) -> None:
        try:
            data = os.read(self._status, 4096)
        except BlockingIOError:
            return
        self._report += data
        if not data:
            os.waitpid(self._guard, 0)
            if self._report:
                self.ending = msgspec.json.decode(self._report, type=Ending)
            else:
                self.ending = Ending("lost", stuck=end_descendants())

    def _read_output(self) -> bytes:
        try:
            data = os.read(self._output, READ_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            try:
                self._poll.unregister(self._output)  # an end would be told again and again
            except KeyError:
                pass  # told before
        return data


@contextmanager
def contain(
    arguments: Sequence[str], folder: str, environment: Mapping[str, str], limits: Limits
) -> Generator[Contained]:
    """Run a command in `folder` for the block; nothing of it is left after that.

    Its stdin is empty, its stdout and stderr are one. Called on the main thread of a process with no other children.
    """
    become_subreaper()
    control_out, control = os.pipe()
    status, status_in = os.pipe()
    output, output_in = os.pipe()
    guard = os.fork()
    if not guard:
        keep(Task(arguments, folder, environment, limits), control_out, status_in, output_in)
    for descriptor in (control_out, status_in, output_in):
        os.close(descriptor)
    contained = Contained(guard, control, status, output, limits.time_s)
    try:
        yield contained
    finally:
        contained.close()

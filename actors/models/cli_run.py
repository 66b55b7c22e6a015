"""One run of a program that answers on its stdout, in a process group and an empty folder that are gone afterwards.

The group is gone also when the daemon is killed: see `..mcp.launcher`, whose guard is a part of it for as long as the
daemon lives, so that the group's number is its own even when the program has been reaped.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from tempfile import TemporaryFile, mkdtemp
from typing import IO

import trio

from ..mcp import launcher

STDERR_KEPT_BYTES = 4096
STDERR_LIMIT_BYTES = 16 * 1024 * 1024
END_S = 2.0
"""How long a program may take to end once its stdout is closed."""


class TooTalkative(Exception):
    """It wrote more to its stderr than any honest program."""


class ProgramRun:
    """Its stdin is a file, which ends by itself and cannot block, and so is its stderr: only stdout is waited for.

    `close` must be called whatever happens. Making one blocks on the disk.
    """

    def __init__(self, command: Sequence[str], prompt: str) -> None:
        self._command = list(command)
        with ExitStack() as made:  # all of it, or nothing
            self._stdin = made.enter_context(_file())
            self._stderr = made.enter_context(_file())
            self._stdin.write(prompt.encode())
            self._stdin.seek(0)
            self._folder = mkdtemp(prefix="pocketpaw-")
            made.pop_all()
        self._process: trio.Process | None = None
        self._lifeline = -1

    async def start(self, environment: Mapping[str, str]) -> None:
        """Raises: OSError"""
        read_end, self._lifeline = os.pipe()
        try:
            self._process = await trio.lowlevel.open_process(
                [sys.executable, "-I", "-S", launcher.__file__, str(read_end), *self._command],
                stdin=self._stdin.fileno(),
                stdout=subprocess.PIPE,
                stderr=self._stderr.fileno(),
                cwd=self._folder,
                env=environment,
                start_new_session=True,
                pass_fds=(read_end,),
            )
        finally:
            os.close(read_end)

    async def receive(self) -> bytes:
        """Read what comes next of its stdout; nothing at its end.

        Raises: TooTalkative
        """
        assert self._process is not None
        assert self._process.stdout is not None
        received = await self._process.stdout.receive_some()
        if os.fstat(self._stderr.fileno()).st_size > STDERR_LIMIT_BYTES:
            raise TooTalkative(f"more than {STDERR_LIMIT_BYTES} bytes on its stderr")
        return bytes(received)

    async def end(self) -> str:
        """Wait a little for its end, and say how it ended."""
        assert self._process is not None
        with trio.move_on_after(END_S):
            await self._process.wait()
        status = self._process.returncode
        if status is None:
            return "did not end"
        return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

    def last_words(self) -> str:
        """The last of what it wrote to its stderr."""
        number = self._stderr.fileno()
        size = os.fstat(number).st_size
        words = os.pread(number, STDERR_KEPT_BYTES, max(0, size - STDERR_KEPT_BYTES))
        return words.decode("utf-8", "replace").strip().rpartition("\n")[2]

    async def close(self) -> None:
        """Kill whatever is left of the process group, and remove the folder; nothing of it outlives this."""
        with trio.CancelScope(shield=True):
            if self._process is not None:
                self._kill(self._process)
            if self._lifeline >= 0:
                os.close(self._lifeline)
            if self._process is not None:
                await self._process.wait()
                assert self._process.stdout is not None
                await trio.aclose_forcefully(self._process.stdout)
            await trio.to_thread.run_sync(self._clear)

    def _kill(self, process: trio.Process) -> None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # nothing of the group is left

    def _clear(self) -> None:
        self._stdin.close()
        self._stderr.close()
        shutil.rmtree(self._folder, ignore_errors=True)  # a temporary folder: the system clears what is left of it


def _file() -> IO[bytes]:
    return TemporaryFile()

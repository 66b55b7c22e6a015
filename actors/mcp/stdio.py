"""MCP servers that run here: a process group each, spoken with over its stdin and stdout.

The SDK's own transport leaves servers behind when the daemon is killed, logs every line that is no message, holds a
line of any length in memory, and shares our stderr. Invariant: on no way out is a process of the group left, nor a
zombie.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from ...runtime.errors import NeedsOperator, TransientFailure
from . import launcher
from .configuration import ServerConfig
from .link import Link, Streams
from .stdio_streams import MessagesIn, MessagesOut

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL")
"""What a program needs to find its way, and nothing of ours."""

LEAVE_S = 1.5
"""Once its stdin is closed, how long a server may take to end; then it is asked by SIGTERM, then it is killed."""
TERMINATE_S = 0.5
REAP_S = 0.8
"""Less than what a kill leaves an actor to unwind."""

LAST_WORDS_S = 0.2
"""A server that has closed its stdout is probably about to exit, and one that has exited may have left last words."""

STDERR_KEPT_BYTES = 4096
STDERR_LINES = 3


@asynccontextmanager
async def open_stdio(config: ServerConfig, link: Link) -> AsyncGenerator[Streams]:
    """Run the server for the block.

    Raises:
        NeedsOperator: there is no such program.
    """
    process = await _start(config, link)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.drain_stderr)
            nursery.start_soon(process.outgoing.pump)
            nursery.start_soon(process.watch)
            yield process.incoming, process.outgoing
            nursery.start_soon(process.drain_stdout)
            await process.leave()
            nursery.cancel_scope.cancel()
    finally:
        await process.end()


class ServerProcess:
    """A running server; `lifeline` is what keeps its group alive (see `launcher.py`).

    Invariant: the guard is in the group for as long as the lifeline is open, so the group's number is its own even when
    the server has been reaped.
    """

    def __init__(self, process: trio.Process, lifeline: int, link: Link) -> None:
        assert isinstance(process.stdin, trio.lowlevel.FdStream)
        assert process.stdout is not None
        assert process.stderr is not None
        self.incoming = MessagesIn(process.stdout, link, self._say_last_words)
        self.outgoing = MessagesOut(process.stdin.fileno(), link)
        self._pipes = (process.stdin, process.stdout, process.stderr)
        self._process = process
        self._lifeline = lifeline
        self._link = link
        self._has_ended = trio.Event()
        self._is_silent = trio.Event()
        self._is_dry = trio.Event()  # nothing more comes from its stderr
        self._stderr = b""

    async def watch(self) -> None:
        """Wait for its end; what it has started may hold its pipes open for longer."""
        await self._process.wait()
        self._has_ended.set()
        await _wait(self._is_silent)
        await self._give_up()

    async def drain_stdout(self) -> None:
        """Read what it says while we leave, or it could block on a full pipe instead of ending."""
        stdout = self._pipes[1]
        while await stdout.receive_some():
            pass

    async def drain_stderr(self) -> None:
        """Drain it for life, or a chatty server would block on a full pipe; the tail is kept for the obituary."""
        async for data in self._pipes[2]:
            self._stderr = (self._stderr + data)[-STDERR_KEPT_BYTES:]
        self._is_dry.set()

    async def leave(self) -> None:
        """Ask it to end, first by closing its stdin and then by SIGTERM."""
        await self._pipes[0].aclose()
        with trio.move_on_after(LEAVE_S):
            await self._has_ended.wait()
            return
        self._signal(signal.SIGTERM)
        with trio.move_on_after(TERMINATE_S):
            await self._has_ended.wait()

    async def end(self) -> None:
        """Kill what is left of its group, and reap it."""
        self._signal(signal.SIGKILL)
        os.close(self._lifeline)
        with trio.CancelScope(shield=True):
            with trio.move_on_after(REAP_S):
                await self._process.wait()
            for pipe in self._pipes:
                await trio.aclose_forcefully(pipe)

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass  # nothing of the group is left

    async def _say_last_words(self) -> None:
        """Its stdout has ended, so it probably has, too."""
        self._is_silent.set()
        await _wait(self._has_ended)
        await self._give_up()

    async def _give_up(self) -> None:
        await _wait(self._is_dry)
        self._link.fail(TransientFailure(self._obituary()))

    def _obituary(self) -> str:
        status = self._process.returncode
        if status is None:
            how = "it closed its stdout"
        elif status >= 0:
            how = f"it exited with status {status}"
        else:
            how = f"it was killed by {signal.Signals(-status).name}"
        lines = self._stderr.decode(errors="replace").strip().splitlines()[-STDERR_LINES:]
        return f"{how}: {' / '.join(lines)}" if lines else how


async def _start(config: ServerConfig, link: Link) -> ServerProcess:
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ} | config.env
    path = _find(config.command, environment)
    read_end, write_end = os.pipe()
    try:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-I", "-S", launcher.__file__, str(read_end), path, *config.args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=(read_end,),
            env=environment,
            cwd=environment.get("HOME"),
        )
    except OSError as error:
        os.close(write_end)
        raise TransientFailure(f"it could not be started: {error.strerror}") from error
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    return ServerProcess(process, write_end, link)


def _find(command: str, environment: Mapping[str, str]) -> str:
    path = shutil.which(command, path=environment.get("PATH", os.defpath))
    if path is None:
        raise NeedsOperator(f"there is no program {command!r} on the PATH: install it, or correct the command")
    return str(Path(path).absolute())


async def _wait(event: trio.Event) -> None:
    with trio.move_on_after(LAST_WORDS_S):
        await event.wait()

"""Actors that are child processes: for native or foreign code, which may crash, leak or hog without taking us along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, ClassVar

import trio

from .actor import Actor
from .envelope import Envelope
from .errors import PocketPawError
from .frames import FrameReader, name_of, pack
from .message import Message
from .node import Incarnation, Kind
from .reply import Reply, StreamReply, died

if TYPE_CHECKING:
    from .cell import Cell

CANCEL_GRACE_S = 5.0
"""How long a child may take to notice that nobody wants its answer any more; then it is killed."""

STDERR_KEPT_BYTES = 4096


class WorkerDied(Exception):
    """The child process has ended, or said something that is no frame."""


class ProcessActor(Actor):
    """A trio actor in front of a child process that runs a `Worker` (`worker.py`).

    The child is the leader of its own process group, which is killed on every way out; if the daemon itself is killed, the
    child's stdin closes and it ends by itself. Messages are handed over as the bytes they came as, one after another.
    """

    kind: ClassVar[Kind] = "process"
    has_tasks: ClassVar[bool] = True
    worker: ClassVar[str]
    """The worker's class, `module:Class`. The module is imported in the child only."""
    takes: ClassVar[tuple[type[Message[Any]], ...]]
    """The messages that the worker handles."""

    def __init__(self) -> None:
        super().__init__()
        self._process: trio.Process | None = None
        self._frames = FrameReader()
        self._is_ending = False
        self._is_killed = False
        self._ready = trio.Event()
        self._calls = 0
        self._call: tuple[int, Envelope, trio.Event] | None = None
        self._stderr = b""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def arguments(self) -> list[str]:
        """What the worker's constructor gets; visible to every user of the machine, so never a secret."""
        return []

    def environment(self) -> dict[str, str]:
        """The child's environment: by default what a Python program needs, and nothing of ours."""
        kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")
        return {name: os.environ[name] for name in kept if name in os.environ}

    async def on_start(self) -> None:
        command = [sys.executable, "-m", "pocketpaw.runtime.worker", self.worker, *self.arguments()]
        self._process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=self.environment(),
        )
        self.spawn(self._read_frames, self._process)
        self.spawn(self._read_stderr, self._process)
        await self._ready.wait()

    async def on_stop(self) -> None:
        """Close the child's stdin, which asks it to end; `run_in` kills whatever is left."""
        self._is_ending = True
        if self._process is not None and self._process.stdin is not None:
            with trio.move_on_after(1.0):
                await self._process.stdin.aclose()
                await self._process.wait()
            self._is_killed = self._process.returncode is not None

    async def run_in(self, cell: Cell, life: Incarnation) -> None:
        """Live one incarnation in `cell`. On no way out is a process of the group left, nor a zombie."""
        try:
            await super().run_in(cell, life)
        finally:
            self._kill()
            if self._process is not None:
                with trio.move_on_after(1.0, shield=True):
                    await self._process.wait()
                for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                    if pipe is not None:
                        await trio.aclose_forcefully(pipe)

    async def _handle(self, envelope: Envelope) -> None:
        """Hand the message to the child and wait until it has answered."""
        cell, reply = self._cell, envelope.reply
        if envelope.message_type not in self.takes:
            await super()._handle(envelope)
            return
        if reply is None or reply.is_settled:
            cell.dead_letter(envelope, "expired")
            return
        started = cell.begin(envelope)
        self._calls += 1
        answered = trio.Event()
        self._call = (self._calls, envelope, answered)
        try:
            await self._send(pack("call", self._calls, name_of(envelope.message_type), envelope.payload))
            await self._answered(reply, answered)
        except BaseException:
            reply.fail(died(cell.path, f"(process {self.pid}) ended"))
            raise
        finally:
            self._call = None
            cell.finish(envelope, envelope.message_type.__name__, started)

    async def _answered(self, reply: Reply | StreamReply, answered: trio.Event) -> None:
        """Wait for the end of the answer; if the asker leaves, have the child leave off too."""
        if isinstance(reply, StreamReply):
            with trio.CancelScope() as reply.producer_scope:
                await answered.wait()
                return
        else:
            await answered.wait()
            return
        await self._send(pack("cancel", self._calls))
        with trio.move_on_after(CANCEL_GRACE_S):
            await answered.wait()
            return
        raise WorkerDied(f"process {self.pid} did not leave off within {CANCEL_GRACE_S:g} s")

    async def _send(self, frame: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            await self._process.stdin.send_all(frame)
        except trio.BrokenResourceError as error:
            raise WorkerDied(f"process {self.pid} has closed its pipe") from error

    async def _read_frames(self, process: trio.Process) -> None:
        """Read what the child says, for as long as it lives; its end is a crash unless this actor is stopping."""
        assert process.stdout is not None
        async for data in process.stdout:
            for word, *rest in self._frames.feed(data):
                if word == "ready":
                    self._ready.set()
                elif self._call is not None and rest and rest[0] == self._call[0]:
                    _, envelope, answered = self._call
                    await self._take_answer(word, rest[1:], envelope, answered)
        self._kill()
        await process.wait()
        if not self._is_ending:
            raise WorkerDied(self._obituary(process))

    async def _take_answer(self, word: str, rest: list[Any], envelope: Envelope, answered: trio.Event) -> None:
        reply = envelope.reply
        assert reply is not None
        if word == "item" and isinstance(reply, StreamReply):
            await reply.put(rest[0])
        elif word == "end":
            if isinstance(reply, StreamReply):
                reply.end()
            else:
                reply.set(rest[0])
            answered.set()
        elif word == "error":
            code, detail, data = rest
            reply.fail(PocketPawError.from_wire(code, detail, data))
            answered.set()
        elif word == "crash":
            raise WorkerDied(f"process {self.pid}: {rest[0]}")

    async def _read_stderr(self, process: trio.Process) -> None:
        """Drain it for life, or a chatty child would block on a full pipe; the tail is kept for the obituary."""
        assert process.stderr is not None
        async for data in process.stderr:
            self._stderr = (self._stderr + data)[-STDERR_KEPT_BYTES:]

    def _obituary(self, process: trio.Process) -> str:
        status = process.returncode
        assert status is not None
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        last = self._stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return f"process {process.pid} {how}{f': {last}' if last else ''}"

    def _kill(self) -> None:
        """Kill the whole process group, once; the leader is not reaped before, so that the number is still its own."""
        if self._process is not None and not self._is_killed:
            self._is_killed = True
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # nothing of the group is left

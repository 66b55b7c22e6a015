"""Actors that are child processes: for native or foreign code, which may crash, leak or hog without taking us along."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, ClassVar

import trio

from .actor import Actor
from .envelope import Envelope
from .errors import BadRequest, PocketPawError
from .frames import FrameReader, name_of, pack
from .message import Message
from .node import Incarnation, Kind
from .reply import StreamReply

if TYPE_CHECKING:
    from .cell import Cell

CANCEL_GRACE_S = 5.0
"""How long a child may take to notice that nobody wants its answer any more; then it is killed."""

STOP_GRACE_S = 0.8
"""How long a child may take to end by itself once its stdin is closed; less than an incarnation's grace."""

STDERR_KEPT_BYTES = 4096


COMMAND = "from pocketpaw.runtime.worker import main; main()"
"""Not `-m`: the worker's module imports `Worker` from its package, so that module must not be `__main__`."""


class WorkerDied(Exception):
    """The child process has ended, or said something that is no frame."""


class ProcessActor(Actor):
    """A trio actor in front of a child process that runs a `Worker` (`worker.py`).

    The child is the leader of its own process group, which is killed on every way out; if the daemon itself is killed,
    the child's stdin closes and it ends by itself. Messages are handed over as the bytes they came as, one by one.
    An asker that leaves, or whose deadline passes, has the child leave off; a child that does not is killed.
    """

    kind: ClassVar[Kind] = "process"
    has_tasks: ClassVar[bool] = True
    worker: ClassVar[str]
    """The worker's class, `module:Class`. The module is imported in the child only."""
    takes: ClassVar[tuple[type[Message[Any]], ...]]
    """The messages that the worker handles."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.concurrency != 1:
            raise TypeError(f"{cls.__name__}: a child process handles one message at a time")

    def __init__(self) -> None:
        super().__init__()
        self._process: trio.Process | None = None
        self._frames = FrameReader()
        self._is_ending = False
        self._is_killed = False
        self._ready = trio.Event()
        self._ended = trio.Event()
        self._calls = 0
        self._call: tuple[int, Envelope, trio.Event] | None = None
        self._stderr = b""
        self._stderr_ended = trio.Event()

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
        self._process = await trio.lowlevel.open_process(
            [sys.executable, "-P", "-c", COMMAND, self.worker, *self.arguments()],
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
        assert self._process is not None
        assert self._process.stdin is not None
        with trio.move_on_after(STOP_GRACE_S):
            await self._process.stdin.aclose()
            await self._ended.wait()

    async def run_in(self, cell: Cell, life: Incarnation) -> None:
        """Live one incarnation in `cell`. On no way out is a process of the group left, nor a zombie."""
        try:
            await super().run_in(cell, life)
        finally:
            if self._process is not None:
                self._kill(self._process)
                with trio.move_on_after(STOP_GRACE_S, shield=True):
                    await self._process.wait()
                with trio.CancelScope(shield=True):
                    for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                        assert pipe is not None
                        await trio.aclose_forcefully(pipe)

    async def _handle(self, envelope: Envelope) -> None:
        """Hand the message to the child and wait until it has answered."""
        if envelope.message_type not in self.takes:
            await super()._handle(envelope)
            return
        cell, reply = self._cell, envelope.reply
        if reply is not None and reply.is_settled:
            cell.dead_letter(envelope, "expired")
            return
        name = envelope.message_type.__name__
        started = cell.begin(envelope)
        self._calls += 1
        answered = trio.Event()
        self._call = (self._calls, envelope, answered)
        try:
            if envelope.message_type.__stream__ != isinstance(reply, StreamReply):
                raise BadRequest(f"{name} is answered by a stream: use stream()")
            await self._send(pack("call", self._calls, name_of(envelope.message_type), envelope.payload))
            with trio.CancelScope(deadline=envelope.deadline) as asker:
                if isinstance(reply, StreamReply):
                    reply.producer_scope = asker
                if reply is None or not reply.is_settled:
                    await answered.wait()
            if not answered.is_set():
                await self._leave_off(answered)
        except BaseException as error:
            if not cell.is_survived(envelope, error):
                raise
        self._call = None
        cell.finish(envelope, name, started)

    async def _leave_off(self, answered: trio.Event) -> None:
        """Nobody wants the answer in hand any more: have the child stop working on it."""
        with trio.move_on_after(CANCEL_GRACE_S):
            await self._send(pack("cancel", self._calls))
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
                elif word == "refuse":
                    raise PocketPawError.from_wire(*rest)
                elif self._call is not None and rest and rest[0] == self._call[0]:
                    _, envelope, answered = self._call
                    await self._take_answer(word, rest[1:], envelope, answered)
        self._kill(process)
        await process.wait()
        self._ended.set()
        if not self._is_ending:
            with trio.move_on_after(STOP_GRACE_S):
                await self._stderr_ended.wait()
            raise WorkerDied(self._obituary(process))

    async def _take_answer(self, word: str, rest: list[Any], envelope: Envelope, answered: trio.Event) -> None:
        reply = envelope.reply
        if word == "item" and isinstance(reply, StreamReply):
            self._cell.touch(envelope, math.inf)  # while its consumer has it, the time is not the child's
            await reply.put(rest[0])
            self._cell.touch(envelope, self.system.now())
        elif word == "end":
            if isinstance(reply, StreamReply):
                reply.end()
            elif reply is not None:
                reply.set(rest[0])
            answered.set()
        elif word == "error":
            code, detail, data = rest
            self._cell.fail(envelope, PocketPawError.from_wire(code, detail, data))
            answered.set()
        elif word == "crash":
            raise WorkerDied(f"process {self.pid}: {rest[0]}")

    async def _read_stderr(self, process: trio.Process) -> None:
        """Drain it for life, or a chatty child would block on a full pipe; the tail is kept for the obituary."""
        assert process.stderr is not None
        async for data in process.stderr:
            self._stderr = (self._stderr + data)[-STDERR_KEPT_BYTES:]
        self._stderr_ended.set()

    def _obituary(self, process: trio.Process) -> str:
        status = process.returncode
        assert status is not None
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        last = self._stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return f"process {process.pid} {how}{f': {last}' if last else ''}"

    def _kill(self, process: trio.Process) -> None:
        """Kill the whole process group, once, before its leader is reaped: until then the number is still its own."""
        if not self._is_killed:
            self._is_killed = True
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # nothing of the group is left

"""The child's side of a process actor.

A worker is a plain class whose handlers have a parameter `message: SomeMessage`; one for a `StreamMessage` is a
generator. Frames come and go on pipes of their own: whatever else reads stdin finds it empty, and whatever prints to
stdout prints to stderr.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from operator import attrgetter
from queue import SimpleQueue
from typing import Any

from .errors import PocketPawError
from .exits import describe
from .frames import FrameReader, pack
from .handlers import Handler, handlers_of
from .message import Message, encode

Call = tuple[int, str, bytes]


class Worker:
    """Base of what runs in the child. Handlers run one at a time on the main thread."""

    def on_start(self) -> None:
        """Run before `ready` is said."""

    def is_cancelled(self) -> bool:
        """Whether nobody wants the present answer any more; a generator is closed at its next item anyway."""
        return _loop is not None and _loop.is_cancelled()


class _Loop:
    def __init__(self, worker: Worker, calls_fd: int, frames_fd: int) -> None:
        self.worker = worker
        self._in = calls_fd
        self._out = frames_fd
        self._calls: SimpleQueue[Call] = SimpleQueue()
        self._handlers = handlers_of(type(worker), Worker, is_async=False)
        self._current = 0
        self._cancelled = -1

    def is_cancelled(self) -> bool:
        return self._cancelled == self._current

    def run(self) -> None:
        threading.Thread(target=self._read, daemon=True, name="frames").start()
        try:
            self.worker.on_start()
        except PocketPawError as error:
            self._say("refuse", *error.to_wire())
            return
        self._say("ready")
        while True:
            self._handle(*self._calls.get())

    def _read(self) -> None:
        """Take frames; their end means that the daemon is gone or wants us gone, and all that was started from here."""
        frames = FrameReader()
        try:
            while data := os.read(self._in, 65536):
                for word, id_, *rest in frames.feed(data):
                    if word == "call":
                        self._calls.put((id_, rest[0], rest[1]))
                    elif word == "cancel":
                        self._cancelled = id_
        finally:
            if os.getpgrp() == os.getpid():
                os.killpg(0, signal.SIGKILL)
            os._exit(0)

    def _handle(self, id_: int, type_name: str, payload: bytes) -> None:
        self._current = id_
        try:
            handler = self._handlers[_load(type_name)]
            message = handler.read(payload)
            if handler.is_stream:
                self._stream(id_, handler, message)
            else:
                self._say("end", id_, encode(handler.function(self.worker, message)))
        except PocketPawError as error:
            self._say("error", id_, *error.to_wire())
        except BaseException as error:
            self._say("crash", id_, describe(error))
            raise

    def _stream(self, id_: int, handler: Handler, message: Message[Any]) -> None:
        items = handler.function(self.worker, message)
        for item in items:
            if self.is_cancelled():
                items.close()
                break
            self._say("item", id_, encode(item))
        self._say("end", id_, None)

    def _say(self, *frame: object) -> None:
        data = memoryview(pack(*frame))
        while data:
            data = data[os.write(self._out, data) :]


_loop: _Loop | None = None


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return attrgetter(attribute)(importlib.import_module(module))


def main() -> None:
    """Run the worker that the command line names, `module:Class` and its arguments, until the daemon wants us gone."""
    global _loop  # noqa: PLW0603 one process, one worker
    calls_fd, frames_fd = os.dup(0), os.dup(1)  # which no program that is started from here inherits
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    worker, *arguments = sys.argv[1:]
    _loop = _Loop(_load(worker)(*arguments), calls_fd, frames_fd)
    _loop.run()

"""The child's side of a process actor: `python -m pocketpaw.runtime.worker module:Class`.

A worker is a plain class whose handlers have a parameter `message: SomeMessage`; one for a `StreamMessage` is a generator.
Whatever native code prints to stdout goes to stderr instead: the real stdout is the frame pipe.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
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
    def __init__(self, worker: Worker, frames_fd: int) -> None:
        self.worker = worker
        self._out = frames_fd
        self._calls: SimpleQueue[Call] = SimpleQueue()
        self._handlers = handlers_of(type(worker), Worker)
        self._current = 0
        self._cancelled = 0

    def is_cancelled(self) -> bool:
        return self._cancelled == self._current

    def run(self) -> None:
        threading.Thread(target=self._read, daemon=True, name="frames").start()
        self.worker.on_start()
        self._say("ready")
        while True:
            self._handle(*self._calls.get())

    def _read(self) -> None:
        """Take frames from stdin; its end means that the daemon is gone or wants us gone."""
        frames = FrameReader()
        while data := os.read(0, 65536):
            for word, id_, *rest in frames.feed(data):
                if word == "call":
                    self._calls.put((id_, rest[0], rest[1]))
                elif word == "cancel":
                    self._cancelled = id_
        os._exit(0)

    def _handle(self, id_: int, type_name: str, payload: bytes) -> None:
        self._current = id_
        try:
            handler = self._handlers[_load(type_name)]
            message = handler.decode(payload)
            if handler.is_stream:
                self._stream(id_, handler, message)
            else:
                self._say("end", id_, encode(handler.function(self.worker, message)))
        except PocketPawError as error:
            self._say("error", id_, error.code, error.detail, dict(error.data))
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
    return getattr(importlib.import_module(module), attribute)


def main(worker: str, *arguments: str) -> None:
    global _loop  # noqa: PLW0603 one process, one worker
    frames_fd = os.dup(1)
    os.dup2(2, 1)
    _loop = _Loop(_load(worker)(*arguments), frames_fd)
    _loop.run()


if __name__ == "__main__":
    # As a module of its package, not as __main__: the worker's module imports `Worker` from there.
    importlib.import_module("pocketpaw.runtime.worker").main(*sys.argv[1:])

"""Workers that the tests of `ProcessActor` run in child processes, and their messages."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from pocketpaw.runtime import Message, ProcessActor, StreamMessage, Worker
from pocketpaw.runtime.errors import NeedsOperator, NotFound

ROOT = Path(__file__).parents[2]


class Text(msgspec.Struct, frozen=True):
    text: str


class Item(msgspec.Struct, frozen=True):
    number: int


class Act(Message[Text], to="model"):
    what: str = ""
    text: str = ""


class Count(StreamMessage[Item], to="model"):
    up_to: int = 3
    then: str = "end"


class Here(Message[Text], to="model"):
    """Answered by the actor itself."""


class Model(Worker):
    """Does what its messages say. Its argument is what it does when it starts."""

    def __init__(self, at_start: str = "") -> None:
        self._at_start = at_start

    def on_start(self) -> None:
        assert not self.is_cancelled()
        match self._at_start:
            case "crash":
                raise RuntimeError("no model file")
            case "refuse":
                raise NeedsOperator("the model is not installed", hint="install it")
            case "hang":
                time.sleep(60)
            case "chat":
                sys.stderr.write("x" * 2**20)
            case _:
                pass

    def act(self, message: Act) -> Text:
        deed: Callable[[], str | None] | None = getattr(self, f"_{message.what}", None)
        return Text((deed() if deed is not None else None) or message.text)

    def _refuse(self) -> None:
        raise NotFound("no such token", token=7, since=datetime(2026, 1, 2, tzinfo=UTC))

    def _crash(self) -> None:
        raise RuntimeError("as asked")

    def _exit(self) -> None:
        sys.stderr.write("the last words\n")
        sys.stderr.flush()
        os._exit(7)

    def _print(self) -> None:
        print("rubbish " * 100)
        os.write(1, b"more rubbish")

    def _write_on_every_pipe(self) -> None:
        for descriptor in range(3, 20):
            try:
                os.write(descriptor, b"what native code may print")
            except OSError:
                pass  # not one that can be written

    def _shout(self) -> None:
        for _ in range(16):
            sys.stderr.write("x" * 2**16 + "\n")

    def _sleep(self) -> None:
        time.sleep(60)

    def _start_child(self) -> str:
        return str(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid)

    def _read_stdin(self) -> str:
        return repr(sys.stdin.read())

    def _tell_secret(self) -> str:
        return os.environ.get("SECRET", "unknown")

    def count(self, message: Count) -> Iterator[Item]:
        number = 0
        while number < message.up_to:
            yield Item(number)
            number += 1
        match message.then:
            case "fail":
                raise NotFound("no more")
            case "watch":
                while not self.is_cancelled():
                    time.sleep(0.001)
            case "sleep":
                time.sleep(60)
            case _:
                pass


class Embedded(ProcessActor):
    worker = f"{__name__}:Model"
    takes = (Act, Count)

    def __init__(self, at_start: str = "") -> None:
        super().__init__()
        self._at_start = at_start

    def arguments(self) -> list[str]:
        return [self._at_start]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONPATH": str(ROOT)}

    async def here(self, message: Here) -> Text:
        return Text(str(self.pid))

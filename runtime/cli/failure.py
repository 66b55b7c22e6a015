"""How a command fails: one line on stderr, and an exit code by which a script can tell the failures apart."""

from __future__ import annotations

from enum import IntEnum
from typing import IO, Any, ClassVar

import click


class ExitCode(IntEnum):
    """What `pocketpaw` exits with; 128 + N where a second signal N has ended the daemon at once."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    HOME = 3
    PORT = 4
    ALREADY_RUNNING = 5
    GAVE_UP = 6
    NO_DAEMON = 7
    INTERRUPTED = 130


MEANINGS: dict[ExitCode, str] = {
    ExitCode.DONE: "done; serve: stopped as asked",
    ExitCode.FAILED: "it failed; doctor: something is broken",
    ExitCode.USAGE: "wrong options or arguments",
    ExitCode.HOME: "the home folder cannot be used",
    ExitCode.PORT: "the port cannot be opened",
    ExitCode.ALREADY_RUNNING: "another pocketpaw has this home folder",
    ExitCode.GAVE_UP: "the daemon could not be kept alive",
    ExitCode.NO_DAEMON: "no daemon answers",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C",
}


class Failure(click.ClickException):
    """Ends a command with one line."""

    exit_code: ClassVar[int] = ExitCode.FAILED

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"pocketpaw: {self.message}", file=file, err=True)


class HomeUnusable(Failure):
    exit_code: ClassVar[int] = ExitCode.HOME


class PortUnusable(Failure):
    exit_code: ClassVar[int] = ExitCode.PORT


class HomeTaken(Failure):
    exit_code: ClassVar[int] = ExitCode.ALREADY_RUNNING


class DaemonGaveUp(Failure):
    exit_code: ClassVar[int] = ExitCode.GAVE_UP


class NoDaemon(Failure):
    """There is no answer, or none that PocketPaw would give."""

    exit_code: ClassVar[int] = ExitCode.NO_DAEMON


class Interrupted(Failure):
    exit_code: ClassVar[int] = ExitCode.INTERRUPTED

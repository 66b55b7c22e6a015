"""Who holds a home folder: one daemon at most, since two would each finish the other's turns.

The lock is the kernel's, so it ends with its process, however that ends; what the file says counts while it is held.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from ..config import Home, HomeError

TRIES = 10
PAUSE_S = 0.02


class AlreadyRunning(Exception):
    """Another daemon has this home; the text says where it serves."""


class _Note(msgspec.Struct, frozen=True):
    url: str = ""


@contextmanager
def owning(home: Home) -> Generator[Callable[[str], None]]:
    """Hold the home folder for this process; yields a function that notes there at which address it is served.

    That function raises OSError, as where the disk is full.
    Raises: AlreadyRunning; HomeError where there can be no lock.
    """
    path = _path(home)
    try:
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise HomeError(f"{path} cannot be written: {error.strerror}") from error
    with file:
        _lock(file, home)
        file.truncate(0)

        def note(url: str) -> None:
            file.truncate(0)
            file.write(msgspec.json.encode(_Note(url)))

        try:
            yield note
        finally:
            file.truncate(0)


def running_daemon(home: Home) -> str | None:
    """The address of the daemon that holds `home`; empty while it starts, None if there is none."""
    try:
        file = _path(home).open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _noted(file.read())
        return None


def _path(home: Home) -> Path:
    return home.root / "daemon.lock"


def _lock(file: IO[bytes], home: Home) -> None:
    for _ in range(TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PAUSE_S)  # whoever looks whether there is a daemon holds the lock for a moment
        except OSError as error:
            raise HomeError(
                f"{home.root} cannot be locked: {error.strerror}; set POCKETPAW_HOME to a local disk"
            ) from error
        else:
            return
    url = running_daemon(home)
    raise AlreadyRunning(
        f"{home.root} is in use by another pocketpaw, which {f'serves {url}' if url else 'is starting'}"
    )


def _noted(text: bytes) -> str:
    try:
        return msgspec.json.decode(text, type=_Note).url
    except msgspec.DecodeError:
        return ""  # it is being written

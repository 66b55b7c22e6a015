"""What is sent piece by piece: an open file, or a folder as a zip that is made while it is sent.

Each piece is made in a thread when the one before it has been taken, so a slow client costs one piece of memory and no
thread, and nothing is made for one that has gone.
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import trio

from ...runtime.errors import Conflict
from ..settings import LiveSettings
from ..tools.excerpts import SNIFFED_BYTES
from ..tools.jail import Jail, shown, telling
from .folder_zip import FolderZip, plan
from .keeper import modified

R = TypeVar("R")

PIECE_BYTES = 256 * 1024
ENCODED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
"""The type of what is compressed, whatever is in it."""

_threads = trio.CapacityLimiter(8)  # so that a disk that hangs takes these, however many want to read from it


class Download(Protocol):
    """Something to send. `read` blocks, and gives b"" at the end; `close` may come before that, and twice."""

    def read(self) -> bytes: ...

    def close(self) -> None: ...


class OpenFile:
    """A file of the jail, held open: what is said of it is said of just what is sent."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        found = os.fstat(file.fileno())
        self.path = path
        self.size = found.st_size
        self.modified: datetime | None = modified(found)
        self.tag = f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"
        """Another one after each change."""
        self._file = file
        self._left = self.size
        self.media_type = _media_type(path.name, file.read(SNIFFED_BYTES))
        self.choose(0, self.size)

    @property
    def name(self) -> str:
        return self.path.name

    def choose(self, first: int, length: int) -> None:
        """Read only `length` bytes from the one numbered `first` on, counted from 0."""
        self._file.seek(first)
        self._left = length

    def read(self) -> bytes:
        """Raises Conflict if the file has become shorter meanwhile; what has been added to it is not read."""
        if not self._left:
            return b""
        with telling(self.path):
            data = self._file.read(min(PIECE_BYTES, self._left))
        if not data:
            raise Conflict(f"path: {shown(self.path)} became shorter while it was read")
        self._left -= len(data)
        return data

    def close(self) -> None:
        self._file.close()


async def open_file(live: LiveSettings, path: str) -> OpenFile:
    """Open a file of the jail; whoever asked closes it. Raises what the jail raises."""

    def do() -> OpenFile:
        jail = Jail.of(live)
        with jail.parent(path) as (folder, name), telling(folder.path / name):
            file = folder.open(name)
            try:
                return OpenFile(folder.path / name, file)
            except BaseException:
                file.close()
                raise

    return await _in_thread(do)


async def open_zip(live: LiveSettings, path: str) -> FolderZip:
    """Look through a folder of the jail, to zip it. Raises what the jail raises, and TooLarge."""
    return await _in_thread(lambda: plan(Jail.of(live), path))


async def pull(download: Download) -> bytes:
    """The next piece; b"" at the end."""
    return await _in_thread(download.read)


async def _in_thread(work: Callable[[], R]) -> R:
    return await trio.to_thread.run_sync(work, limiter=_threads)


def _media_type(name: str, start: bytes) -> str:
    """By the file's name; what that does not tell is text if it begins like text."""
    guess, encoding = mimetypes.guess_type(name)
    if encoding is not None:
        return ENCODED.get(encoding, "application/octet-stream")
    is_text = _is_text(start)
    if guess is None:
        guess = "text/plain" if is_text else "application/octet-stream"
    return f"{guess}; charset=utf-8" if is_text and guess.startswith("text/") else guess


def _is_text(start: bytes) -> bool:
    if b"\0" in start:
        return False
    try:
        start.decode()
    except UnicodeDecodeError as error:
        return error.start > len(start) - 4 and len(start) == SNIFFED_BYTES  # a character is cut in two
    return True

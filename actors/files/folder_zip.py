"""A folder as a zip: looked through first, within bounds, and then written while it is sent.

Links are not followed, and nothing that the jail keeps is in it. What could not be put in is listed in the zip itself,
so that nobody takes it for the whole.
"""

from __future__ import annotations

import os
import stat
import time
import zipfile
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import count as count_up
from pathlib import Path
from typing import IO, BinaryIO

import msgspec

from ...runtime.errors import PocketPawError, TooLarge
from ..tools.jail import Folder, Jail, shown, telling

FILES_LIMIT = 20_000
"""Of files and folders together."""
SIZE_LIMIT_BYTES = 2_000_000_000
DEPTH_LIMIT = 50
"""Folders in one another: each is held open while those below it are looked through."""
PIECE_BYTES = 64 * 1024
READ_BYTES = 256 * 1024
READ_PER_PIECE_BYTES = 2**20
"""Of what shrinks to nearly nothing: so that no piece takes long."""
FAST = 1  # zlib's level: its ratio is nearly that of the default, in a third of the time
LEFT_OUT = "LEFT-OUT.txt"
EARLIEST, LATEST = (1980, 1, 1, 0, 0, 0), (2107, 12, 31, 23, 59, 58)
"""What a zip can hold of dates."""


class Item(msgspec.Struct, frozen=True):
    """A file, or an empty folder. `folder` is where it is, `name` what it is called there, `stored` in the zip."""

    folder: Path
    name: str
    stored: str
    size: int
    date: tuple[int, int, int, int, int, int]
    is_folder: bool


class FolderZip:
    """The zip of a folder; see `Download`."""

    def __init__(self, jail: Jail, path: Path) -> None:
        self.path = path
        self.items: list[Item] = []
        self.left_out: list[str] = []
        self._jail = jail
        self._pieces: Generator[bytes] | None = None

    @property
    def name(self) -> str:
        return f"{self.path.name or 'files'}.zip"

    def read(self) -> bytes:
        if self._pieces is None:
            self._pieces = self._write()
        return next(self._pieces, b"")

    def close(self) -> None:
        if self._pieces is not None:
            self._pieces.close()

    def _write(self) -> Generator[bytes]:
        sink = _Sink()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=FAST) as archive:
            read = 0
            for item in self.items:
                for count in self._add(archive, item):
                    read += count
                    if sink.size >= PIECE_BYTES or (read >= READ_PER_PIECE_BYTES and sink.size):
                        yield sink.take()
                        read = 0
            if self.left_out:
                archive.writestr(self._free_name(), "\n".join([*self.left_out, ""]))
        yield sink.take()

    def _free_name(self) -> str:
        """What the list of what is left out is called: as nothing else in the zip is."""
        taken = {item.stored for item in self.items}
        return next(name for count in count_up() if (name := "_" * count + LEFT_OUT) not in taken)

    def _add(self, archive: zipfile.ZipFile, item: Item) -> Iterator[int]:
        """Write one item; gives the count of bytes each time some were read."""
        info = zipfile.ZipInfo(item.stored, item.date)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = (0o040755 << 16 | 0x10) if item.is_folder else 0o100644 << 16
        info.file_size = item.size
        if item.is_folder:
            archive.writestr(info, b"")
            return
        try:
            with self._jail.folder(item.folder) as folder:
                file = folder.open(item.name)
        except PocketPawError as error:
            self.left_out.append(f"{item.stored}: {error.detail}")
            return
        with file, closing(archive.open(info, "w")) as packed, telling(item.folder / item.name):
            yield from _copy(file, packed, item.size)


def plan(jail: Jail, path: str) -> FolderZip:
    """Look through the folder at `path`. Raises TooLarge beyond the limits, and what the jail raises."""
    with jail.folder(path) as folder:
        made = FolderZip(jail, folder.path)
        _look_through(made, folder, "", 0)
        return made


def _look_through(made: FolderZip, folder: Folder, above: str, total: int, depth: int = 0) -> int:
    """Add what is in `folder` to the plan; returns the total of bytes."""
    if depth > DEPTH_LIMIT:
        raise TooLarge(f"{shown(folder.path)} is more than {DEPTH_LIMIT} folders deep: download a folder inside of it")
    with telling(folder.path):
        names = sorted(entry.name for entry in folder.entries() if not folder.hides(entry.name))
    if not names and above:
        made.items.append(Item(folder.path, "", above, 0, EARLIEST, is_folder=True))
    for name in names:
        stored = above + shown(name)
        try:
            found = folder.look(name)
            if found is None:
                continue  # gone just now
            if stat.S_ISDIR(found.st_mode):
                with closing(folder.folder(name)) as below:
                    total = _look_through(made, below, f"{stored}/", total, depth + 1)
            elif stat.S_ISREG(found.st_mode):
                made.items.append(Item(folder.path, name, stored, found.st_size, _date(found), is_folder=False))
                total += found.st_size
            else:
                kind = "a link" if stat.S_ISLNK(found.st_mode) else "no plain file"
                made.left_out.append(f"{stored}: it is {kind}")
        except TooLarge:
            raise
        except PocketPawError as error:
            made.left_out.append(f"{stored}: {error.detail}")
        if len(made.items) + len(made.left_out) > FILES_LIMIT or total > SIZE_LIMIT_BYTES:
            raise TooLarge(
                f"{shown(made.path)} has more than {FILES_LIMIT} files or {SIZE_LIMIT_BYTES // 1_000_000} MB:"
                " download a folder inside of it"
            )
    return total


def _copy(file: BinaryIO, packed: IO[bytes], size: int) -> Iterator[int]:
    """Copy `size` bytes, which is what was planned: the file may have grown."""
    while size > 0 and (data := file.read(min(READ_BYTES, size))):
        packed.write(data)
        size -= len(data)
        yield len(data)


def _date(found: os.stat_result) -> tuple[int, int, int, int, int, int]:
    try:
        year, month, day, hour, minute, second = time.localtime(found.st_mtime)[:6]
    except (ValueError, OverflowError, OSError):
        return EARLIEST  # no calendar has that day
    return min(max((year, month, day, hour, minute, second), EARLIEST), LATEST)


class _Sink:
    """Takes what the zip's writer writes, until it is taken from here. It cannot tell where it is, so nothing seeks."""

    def __init__(self) -> None:
        self._written: list[bytes] = []
        self.size = 0

    def write(self, data: bytes, /) -> int:
        self._written.append(bytes(data))
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """There is nowhere to flush to."""

    def close(self) -> None:
        """There is nothing to close."""

    def take(self) -> bytes:
        data = b"".join(self._written)
        self._written.clear()
        self.size = 0
        return data

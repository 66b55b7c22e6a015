"""Unpacking a zip of unknown origin: nothing but plain files, none outside its folder, and not too much of it."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from ...runtime.errors import Forbidden, InvalidInput, TooLarge
from ..tools.jail import shown
from .files import MB

FILES_LIMIT = 2_000
UNPACKED_LIMIT_BYTES = 100 * MB
RATIO_LIMIT = 200
"""How much larger than the archive what is in it may be, above what is small anyway."""
SMALL_BYTES = 1 * MB
PATH_LIMIT = 500
READ_LIMIT_BYTES = 2 * MB
"""At once: as much as the list of so many files with such paths."""

_CHUNK_BYTES = 64 * 1024
_ENCRYPTED = 0x1
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The others can ask for gigabytes of memory to unpack a few bytes, and fail in ways of their own."""


def unpack(archive: BinaryIO, target: Path) -> None:
    """Unpack the zip `archive` into the folder `target`, which is made.

    Raises: InvalidInput if it is no sound zip; Forbidden for a link or a path that leads elsewhere; TooLarge.
    """
    target.mkdir(mode=0o700)
    try:
        with zipfile.ZipFile(_Sparing(archive)) as opened:
            members = opened.infolist()
            if len(members) > FILES_LIMIT:
                raise TooLarge(f"the archive holds {len(members):,} files, {FILES_LIMIT:,} are the limit")
            room = min(UNPACKED_LIMIT_BYTES, max(SMALL_BYTES, os.fstat(archive.fileno()).st_size * RATIO_LIMIT))
            if sum(member.file_size for member in members) > room:
                raise _too_large()
            for member in members:
                path = _path_in(target, member)
                if member.is_dir():
                    path.mkdir(mode=0o700, parents=True, exist_ok=True)
                else:
                    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    with opened.open(member) as source:
                        room -= _write(source, path, member, room)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeError, ValueError) as error:
        raise InvalidInput(f"the archive is no zip that can be read: {error}") from None
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise InvalidInput("the archive holds two things of one name") from None


class _Sparing:
    """An archive of which not too much is read at once, as its list of contents is, before anybody could count it."""

    def __init__(self, archive: BinaryIO) -> None:
        self._archive = archive
        self.seek = archive.seek
        self.tell = archive.tell
        self.seekable = archive.seekable

    def read(self, size: int = -1, /) -> bytes:
        data = self._archive.read(READ_LIMIT_BYTES + 1 if size < 0 else min(size, READ_LIMIT_BYTES + 1))
        if len(data) > READ_LIMIT_BYTES:
            raise TooLarge(f"the archive's list of contents is larger than {READ_LIMIT_BYTES // MB} MB")
        return data


def _path_in(target: Path, member: zipfile.ZipInfo) -> Path:
    """Where a member goes. (Windows' separators count, and so do its drives: nobody means them well in a skill.)"""
    name = member.filename
    path = PurePosixPath(name)
    if "\\" in name or ":" in name or path.is_absolute() or ".." in path.parts or not path.parts:
        raise Forbidden(f"the archive holds {shown(name[:200])}, a path that leads out of it")
    if len(os.fsencode(name)) > PATH_LIMIT:
        raise Forbidden(f"the archive holds a path of more than {PATH_LIMIT} bytes")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise Forbidden(f"{shown(name)} in the archive is a link or a special file: a skill with one is not installed")
    if member.compress_type not in _COMPRESSIONS:
        raise InvalidInput(f"{shown(name)} in the archive is packed in another way than by deflate")
    if member.flag_bits & _ENCRYPTED:
        raise InvalidInput("the archive is encrypted")
    return target / path


def _write(source: IO[bytes], path: Path, member: zipfile.ZipInfo, room: int) -> int:
    """Write one file; what the archive says of its size is not believed. Returns its size."""
    is_program = bool((member.external_attr >> 16) & stat.S_IXUSR)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o700 if is_program else 0o600)
    size = 0
    with os.fdopen(descriptor, "wb") as file:
        while data := source.read(_CHUNK_BYTES):
            size += len(data)
            if size > room:
                raise _too_large()
            file.write(data)
    return size


def _too_large() -> TooLarge:
    return TooLarge(
        f"the archive unpacks to more than {UNPACKED_LIMIT_BYTES // MB} MB or {RATIO_LIMIT} times its own size"
    )

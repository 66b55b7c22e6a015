"""An archive of the audit: a JSON line that says what it follows, then one line for each entry, its hash with it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import msgspec

from ...storage.audit import AuditEntry, AuditHead

PIECE_BYTES = 1024 * 1024


class Beginning(msgspec.Struct, frozen=True):
    """The first line: the place in the chain that the first entry follows."""

    follows: AuditHead


class ArchiveWriter:
    """Writes a file beside its place, mode 0600, and puts it there when it is whole. Each step blocks on the disk."""

    def __init__(self, path: Path, follows: AuditHead) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._path = path
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._digest = hashlib.sha256()
        self._temporary.unlink(missing_ok=True)  # of a rotation that was cut off
        descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file: BinaryIO = os.fdopen(descriptor, "wb")
        self._write([Beginning(follows)])

    def add(self, entries: Iterable[AuditEntry]) -> None:
        self._write(entries)

    def finish(self) -> str:
        """Put it in its place, on disk; returns its SHA-256."""
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._temporary.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return self._digest.hexdigest()

    def abandon(self) -> None:
        """Leave nothing behind; after `finish` it does nothing."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _write(self, lines: Iterable[msgspec.Struct]) -> None:
        data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        self._digest.update(data)
        self._file.write(data)


def digest_of(path: Path) -> str | None:
    """The SHA-256 of a file, which blocks; None if it is not there."""
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                found.update(piece)
    except FileNotFoundError:
        return None
    return found.hexdigest()

"""Files that only their owner may read and that are written whole or not at all."""

import os
from pathlib import Path

OTHERS = 0o077
"""The rights of all but the owner."""


def write_private(path: Path, data: bytes) -> None:
    """Put `data` in the place of `path`, mode 0600; a crash at any moment leaves the old content or the new.

    A symbolic link stays one: the file that it points to is replaced. Raises OSError, with the old content untouched
    (but for the last step, making the new name durable: then the new content is there and a power cut may undo it).
    """
    path = path.resolve()
    temporary = _write_beside(path, data)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def create_private(path: Path, data: bytes) -> bool:
    """Make `path` with `data`, mode 0600, unless it is there by now, which answers False. Raises OSError."""
    temporary = _write_beside(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    _sync_folder(path.parent)
    return True


def tighten(path: Path) -> None:
    """Take every right to `path` from all but its owner. Raises OSError."""
    mode = path.stat().st_mode
    if mode & OTHERS:
        path.chmod(mode & 0o7777 & ~OTHERS)


def probe(folder: Path) -> None:
    """Make and remove a file in `folder`; raises OSError if that cannot be done."""
    path = folder / _temporary_name("probe")
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    path.unlink()


def temporaries(folder: Path) -> list[Path]:
    """List what writers that were killed left behind, or that others are writing right now."""
    return list(folder.glob(".*.tmp"))


def _write_beside(path: Path, data: bytes) -> Path:
    temporary = path.with_name(_temporary_name(path.name))
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _temporary_name(name: str) -> str:
    return f".{name}.{os.urandom(4).hex()}.tmp"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

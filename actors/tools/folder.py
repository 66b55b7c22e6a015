"""A folder of the jail, held open, and what is in it."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from ...runtime.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    PocketPawError,
    Unavailable,
    UnsupportedMedia,
)
from .secret_places import is_secret

if TYPE_CHECKING:
    from .jail import Jail

Access = Literal["read", "write"]
Identity = tuple[int, int]
"""Device and inode."""

OWN_READABLE = ("identity", "skills")
"""What of the daemon's own folder may be read."""
CONTROL = re.compile(r"[\x00-\x1f\x7f]")

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Folder:
    """A folder inside the jail, held open: everything in it is reached through its descriptor."""

    def __init__(self, jail: Jail, path: Path, descriptor: int, access: Access) -> None:
        self.path = path
        self.descriptor = descriptor
        self._jail = jail
        self._access: Access = access
        self._is_own = identity(os.fstat(descriptor)) == jail.own_identity

    def close(self) -> None:
        os.close(self.descriptor)

    def hides(self, name: str) -> bool:
        """Whether `name` in it is kept from everybody."""
        is_kept = self._is_own and not (name in OWN_READABLE and self._access == "read")
        return is_kept or is_secret(self.path / name)

    def look(self, name: str) -> os.stat_result | None:
        """What `name` in it is, not following a link; None if there is no such thing. Raises: Forbidden"""
        path = self.path / name
        if self.hides(name):
            raise _kept(path)
        with telling(path):
            try:
                found = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
            except FileNotFoundError:
                return None
        self._admit(path, found)
        return found

    def folder(self, name: str) -> Folder:
        """Open the folder `name` in it; whoever asked closes it."""
        self._exists(name)
        path = self.path / name
        with telling(path):
            descriptor = os.open(name, FOLDER, dir_fd=self.descriptor)
        try:
            found = os.fstat(descriptor)
            self._admit(path, found)
            if self._access == "write" and identity(found) == self._jail.own_identity:
                raise _kept(path)
            return Folder(self._jail, path, descriptor, self._access)
        except BaseException:
            os.close(descriptor)
            raise

    def make(self, name: str) -> Folder:
        """Open the folder `name` in it, made if it is missing."""
        if self.look(name) is None:
            with telling(self.path / name):
                try:
                    os.mkdir(name, dir_fd=self.descriptor)
                except FileExistsError:
                    pass  # somebody else has made it just now
        return self.folder(name)

    def open(self, name: str) -> BinaryIO:
        """Open the plain file `name` in it for reading; never waits for the other end of a pipe."""
        path = self.path / name
        _check_plain(path, self._exists(name))
        with telling(path):
            file = os.fdopen(os.open(name, _READ, dir_fd=self.descriptor), "rb")
        try:
            found = os.fstat(file.fileno())
            self._admit(path, found)
            _check_plain(path, found)
        except BaseException:
            file.close()
            raise
        return file

    @contextmanager
    def replacing(self, name: str, expected: os.stat_result | None = None) -> Generator[BinaryIO]:
        """Write the plain file `name`: what is written takes its place when the block ends well, else nothing changes.

        Mode and owner stay. Raises Conflict if it is no longer as it was when `expected` was taken.
        """
        path = self.path / name
        old = self.look(name)
        if old is not None:
            _check_plain(path, old)
        temporary = f".pocketpaw-{os.urandom(6).hex()}.tmp"
        with telling(path):
            file = os.fdopen(os.open(temporary, _CREATE, 0o666, dir_fd=self.descriptor), "wb")
            try:
                with file:
                    yield file
                    _keep_rights(file.fileno(), old)
                    file.flush()
                    os.fsync(file.fileno())
                if expected is not None:
                    self._check_unchanged(name, expected)
                os.replace(temporary, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
            except BaseException:
                os.unlink(temporary, dir_fd=self.descriptor)
                raise
            os.fsync(self.descriptor)

    def entries(self) -> Iterator[os.DirEntry[str]]:
        """What is in it, secrets included: see `hides`."""
        with telling(self.path), os.scandir(self.descriptor) as entries:
            yield from entries

    def _exists(self, name: str) -> os.stat_result:
        found = self.look(name)
        if found is None:
            raise NotFound(f"path: there is no {shown(self.path / name)}")
        return found

    def _admit(self, path: Path, found: os.stat_result) -> None:
        if identity(found) in self._jail.hidden:
            raise _kept(path)
        if found.st_dev in self._jail.foreign_devices:
            raise Forbidden(f"path: {shown(path)} is a window into the system, not a file")

    def _check_unchanged(self, name: str, expected: os.stat_result) -> None:
        now = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        if _version(now) != _version(expected):
            raise Conflict(f"path: {shown(self.path / name)} was changed by somebody else just now: read it again")


@contextmanager
def telling(path: Path) -> Generator[None]:
    """Turn what the system says of `path` into an answer."""
    try:
        yield
    except OSError as error:
        raise _answer(path, error) from error


def shown(path: Path | str) -> str:
    """`path` as it may stand in a sentence: what is no text, or would break the line, is escaped."""
    text = str(path).encode(errors="backslashreplace").decode()
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino


def identity_at(path: Path) -> Identity | None:
    try:
        return identity(path.stat())
    except OSError:
        return None  # not there, or nobody comes as far as to it


def _kept(path: Path) -> PocketPawError:
    return Forbidden(f"path: {shown(path)} is kept from tools: it holds secrets, or what this daemon lives on")


def _check_plain(path: Path, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise UnsupportedMedia(f"path: {shown(path)} is a folder, not a file")
    if stat.S_ISLNK(found.st_mode):
        raise Forbidden(f"path: {shown(path)} is a link that leads nowhere, or was swapped just now")
    if not stat.S_ISREG(found.st_mode):
        raise Forbidden(f"path: {shown(path)} is no plain file but a pipe, a socket or a device")


def _version(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_mtime_ns, found.st_size


def _keep_rights(descriptor: int, old: os.stat_result | None) -> None:
    if old is None:
        return
    new = os.fstat(descriptor)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.fchown(descriptor, old.st_uid, old.st_gid)
        except PermissionError:
            pass  # only root can give files away; otherwise whoever writes the file has it from now on
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode) & 0o777)


def _answer(path: Path, error: OSError) -> PocketPawError:
    where = f"path: {shown(path)}"
    match error.errno:
        case errno.ENOENT:
            return NotFound(f"path: there is no {shown(path)}")
        case errno.ENOTDIR:
            return UnsupportedMedia(f"{where} is not a folder")
        case errno.EISDIR:
            return UnsupportedMedia(f"{where} is a folder, not a file")
        case errno.ELOOP | errno.ENXIO:
            return Forbidden(f"{where} is a link that leads in a circle, or was swapped just now")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return Forbidden(f"{where}: {error.strerror}; the user that the daemon runs as has no right to do that")
        case errno.ENAMETOOLONG:
            return InvalidInput(f"{where[:200]} is too long", field=["path"])
        case _:
            return Unavailable(f"{where}: {error.strerror}")

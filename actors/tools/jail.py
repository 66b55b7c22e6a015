"""The one door to files: through it nothing outside the jail's folder is reached, and no secret inside it.

Invariant: a path is resolved first, its links followed; then it is walked again from the root down, each step by the
descriptor of the one before and following no link. So what is opened is what was checked, whoever swaps files
meanwhile. What a name may hide (letter case, hard links, mounts) is checked by inode and device.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ...runtime.errors import Forbidden, InvalidInput, Unavailable, UnsupportedMedia
from .folder import CONTROL, FOLDER, Access, Folder, Identity, identity_at, shown, telling
from .secret_places import SECRETS

if TYPE_CHECKING:
    from ..settings import LiveSettings

__all__ = ["Access", "Folder", "Jail", "shown", "telling"]

LONGEST_PATH_BYTES = 4095
LONGEST_NAME_BYTES = 255

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|file:")


class Jail:
    """The folder `root`, less the secrets in it and the daemon's `own` folder. Cheap: make one for each call."""

    def __init__(self, root: str, own: Path) -> None:
        self.root = Path(os.path.realpath(_expanded(root)))
        self.own = own

    @classmethod
    def of(cls, live: LiveSettings) -> Jail:
        """The jail that the settings name now."""
        return cls(live.current.file_jail_path, live.home.root)

    def resolve(self, path: str) -> Path:
        """Where `path` leads, its links followed; a relative one starts at the root, `~` is the user's home.

        Raises: InvalidInput, Forbidden
        """
        try:
            real = Path(os.path.realpath(self.root / _readable(path)))
        except OSError as error:
            raise Forbidden(f"path: a link on the way to {path} cannot be followed: {error.strerror}") from error
        if not real.is_relative_to(self.root):
            raise Forbidden(f"path: {path} is outside of {self.root}, the folder whose files may be reached")
        return real

    @contextmanager
    def folder(self, path: str | Path, access: Access = "read", *, make: bool = False) -> Generator[Folder]:
        """Hold the folder at `path` open; with `make`, it and those above it are made where they are missing.

        Raises: InvalidInput, Forbidden, NotFound, UnsupportedMedia if it is no folder.
        """
        real = self.resolve(path) if isinstance(path, str) else path
        folder = self._open_root(access)
        try:
            for name in real.relative_to(self.root).parts:
                below = folder.make(name) if make else folder.folder(name)
                folder.close()
                folder = below
            yield folder
        finally:
            folder.close()

    @contextmanager
    def parent(self, path: str, access: Access = "read", *, make: bool = False) -> Generator[tuple[Folder, str]]:
        """Hold open the folder of what is or will be at `path`, and give it with the name in it."""
        real = self.resolve(path)
        if real == self.root:
            raise UnsupportedMedia(f"path: {path} is a folder, not a file")
        with self.folder(real.parent, access, make=make) as folder:
            yield folder, real.name

    def open(self, path: str) -> BinaryIO:
        """Open the file at `path` for reading.

        Raises: InvalidInput, Forbidden, NotFound, UnsupportedMedia if it is no plain file.
        """
        with self.parent(path) as (folder, name):
            return folder.open(name)

    @cached_property
    def hidden(self) -> frozenset[Identity]:
        """The secrets by inode, as far as they are where they usually are."""
        homes = {self.root, _home()}
        return frozenset(found for home in homes for secret in SECRETS if (found := identity_at(home / secret)))

    @cached_property
    def own_identity(self) -> Identity | None:
        return identity_at(self.own)

    @cached_property
    def foreign_devices(self) -> frozenset[int]:
        """What looks like files and is none, wherever it is mounted."""
        return frozenset(found[0] for place in ("/proc", "/sys") if (found := identity_at(Path(place))))

    def _open_root(self, access: Access) -> Folder:
        try:
            return Folder(self, self.root, os.open(self.root, FOLDER), access)
        except OSError as error:
            raise Unavailable(
                f"the folder whose files may be reached, {self.root} (file_jail_path), cannot be opened:"
                f" {error.strerror}"
            ) from error


def _readable(path: str) -> str:
    """`path` as the system takes it, `~` expanded. Raises InvalidInput"""
    trouble = _trouble(path)
    if trouble:
        raise InvalidInput(f"path: {shown(path[:200])} {trouble}", field=["path"])
    return str(_home()) + path[1:] if path == "~" or path.startswith("~/") else path


def _trouble(path: str) -> str | None:
    if not path:
        return "is empty"
    if _SCHEME.match(path):
        return "is an address: give the plain path of a file on this machine"
    if path.startswith("~") and path != "~" and not path.startswith("~/"):
        return "names another user's home: give the whole path"
    if CONTROL.search(path):
        return "has control characters, which no path here may have"
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        return "has half a character in it (a lone surrogate)"
    if len(encoded) > LONGEST_PATH_BYTES or any(len(name) > LONGEST_NAME_BYTES for name in encoded.split(b"/")):
        return f"is too long: {LONGEST_PATH_BYTES} bytes, and {LONGEST_NAME_BYTES} for a name, are the most"
    return None


def _home() -> Path:
    return _expanded("~")


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise Unavailable(f"{path}: there is no home folder for the user that the daemon runs as") from error

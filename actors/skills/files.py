"""Skills as folders: finding them in what was fetched, copying them, reading them; never through a link.

Whatever is copied is first looked at through the jail, so that no link or special file comes along.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ...runtime.errors import Forbidden, InvalidInput, NotFound, PocketPawError, TooLarge
from ..tools.jail import Folder, Jail, shown
from .format import SKILL_FILE, TEXT_LIMIT_BYTES, SkillHead, read_head

MB = 1024 * 1024
FILES_LIMIT = 1_000
SIZE_LIMIT_BYTES = 50 * MB
DEPTH_LIMIT = 8
"""Folders in folders inside a skill."""
SEARCH_DEPTH = 4
"""Folders in folders above one."""
SEARCHED_FOLDERS = 5_000
FOUND_LIMIT = 100

_CHUNK_BYTES = 1024 * 1024


class FoundSkill(msgspec.Struct, frozen=True):
    """A folder with a SKILL.md, below what was searched; `problem` says why it is no skill, and is empty if it is."""

    path: Path
    head: SkillHead | None
    problem: str = ""

    @property
    def name(self) -> str:
        return self.head.name if self.head is not None else shown(self.path.name)


@dataclass
class _Counter:
    files: int = 0
    size_bytes: int = 0

    def add_file(self) -> None:
        self.files += 1
        if self.files > FILES_LIMIT:
            raise TooLarge(f"a skill of more than {FILES_LIMIT:,} files is not installed")

    def add_bytes(self, count: int) -> None:
        self.size_bytes += count
        if self.size_bytes > SIZE_LIMIT_BYTES:
            raise TooLarge(f"a skill of more than {SIZE_LIMIT_BYTES // MB} MB is not installed")


def find_skills(jail: Jail, root: Path) -> list[FoundSkill]:
    """The skills at or below `root`, which is in the jail; in one there is no other. Raises: as the jail does."""
    found: list[FoundSkill] = []
    searched = 0
    waiting = [(root, 0)]
    while waiting and len(found) < FOUND_LIMIT and searched < SEARCHED_FOLDERS:
        path, depth = waiting.pop(0)
        searched += 1
        with jail.folder(path) as folder:
            if folder.look(SKILL_FILE) is not None:
                found.append(_found(folder))
            elif depth < SEARCH_DEPTH:
                below = sorted(name for name in _visible(folder) if _is_folder(folder, name))
                waiting += [(path / name, depth + 1) for name in below]
    return found


def copy_skill(jail: Jail, source: Path, target: Path) -> None:
    """Copy the folder `source`, which is in the jail, to `target`, which is made.

    Hidden files stay behind. Raises: Forbidden if there is a link or a special file in it; TooLarge.
    """
    with jail.folder(source) as folder:
        _copy_folder(folder, target, _Counter(), 0)


def read_skill(folder: Path, name: str) -> str:
    """The text of a file in a skill's folder.

    Raises: NotFound, Forbidden, TooLarge; InvalidInput if it is no text.
    """
    with Jail(str(folder), own=folder.parent).open(name) as file:
        data = file.read(TEXT_LIMIT_BYTES + 1)
    if len(data) > TEXT_LIMIT_BYTES:
        raise TooLarge(f"{shown(name)} has more than {TEXT_LIMIT_BYTES // MB or 1} MB: it cannot be read as a text")
    try:
        if b"\0" in data:
            raise UnicodeError
        return data.decode("utf-8-sig")
    except UnicodeError:
        raise InvalidInput(f"{shown(name)} is no text") from None


def list_files(folder: Path, most: int) -> list[str]:
    """The first files of a skill, by their paths in its folder, SKILL.md aside."""
    paths: list[str] = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(place).relative_to(folder)
        paths += [str(inside / name) for name in sorted(files) if not name.startswith(".")]
        if len(paths) > most:
            break
    return [shown(path) for path in paths if path != SKILL_FILE][:most]


def _found(folder: Folder) -> FoundSkill:
    try:
        with folder.open(SKILL_FILE) as file:
            text = file.read(TEXT_LIMIT_BYTES).decode(errors="replace")
        return FoundSkill(folder.path, read_head(text))
    except PocketPawError as error:
        return FoundSkill(folder.path, None, error.detail)


def _visible(folder: Folder) -> Iterator[str]:
    for entry in folder.entries():
        if not entry.name.startswith(".") and entry.name != "node_modules" and not folder.hides(entry.name):
            yield entry.name


def _is_folder(folder: Folder, name: str) -> bool:
    found = folder.look(name)
    return found is not None and stat.S_ISDIR(found.st_mode)


def _copy_folder(folder: Folder, target: Path, counter: _Counter, depth: int) -> None:
    if depth > DEPTH_LIMIT:
        raise TooLarge(f"a skill with folders more than {DEPTH_LIMIT} deep is not installed")
    target.mkdir(mode=0o700)
    for name in sorted(_visible(folder)):
        found = folder.look(name)
        path = shown(folder.path / name)
        if found is None:
            raise NotFound(f"{path} was removed just now")
        if stat.S_ISDIR(found.st_mode):
            counter.add_file()  # a tree of nothing but folders has an end, too
            with_below = folder.folder(name)
            try:
                _copy_folder(with_below, target / name, counter, depth + 1)
            finally:
                with_below.close()
        elif stat.S_ISREG(found.st_mode):
            counter.add_file()
            _copy_file(folder, name, target / name, counter)
        else:
            what = "a link" if stat.S_ISLNK(found.st_mode) else "no plain file"
            raise Forbidden(f"{path} is {what}: a skill with one is not installed")


def _copy_file(folder: Folder, name: str, target: Path, counter: _Counter) -> None:
    with folder.open(name) as source:
        mode = 0o700 if os.fstat(source.fileno()).st_mode & stat.S_IXUSR else 0o600
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as copy:
            while data := source.read(_CHUNK_BYTES):
                counter.add_bytes(len(data))
                copy.write(data)
            copy.flush()
            os.fsync(copy.fileno())

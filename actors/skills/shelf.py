"""The folder in which the installed skills are: what stands in it, what comes and what goes.

Invariant: a skill comes and goes by one rename, so nobody ever sees a part of one. All of this blocks on the disk.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec

from ...runtime.errors import Conflict, InvalidInput, NotFound, PocketPawError
from ..tools.jail import Jail, shown
from .files import FoundSkill, copy_skill, read_skill
from .format import SKILL_FILE, read_head

UPLOAD_PREFIX = ".upload-"
STAGING_PREFIX = ".staging-"
"""What is being installed or removed: on the same disk, so that a rename is all there is to it."""


class Skill(msgspec.Struct, frozen=True):
    """A skill; with an `error` it cannot be used, and its name is its folder's."""

    name: str
    description: str = ""
    argument_hint: str = ""
    tools: tuple[str, ...] = ()
    error: str = ""


class OnShelf(msgspec.Struct, frozen=True):
    """A folder as it was when it was last read; `signature` tells whether it still is so."""

    skill: Skill
    folder: Path
    written: Skill
    """What its SKILL.md says, whatever else there is of the same name."""
    signature: tuple[int, ...]


class Skipped(msgspec.Struct, frozen=True):
    """A skill that was not installed."""

    name: str
    reason: str


class Shelf:
    """The skills in the folder `root`, whose hidden entries are none."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Make the folder, and sweep what an earlier life of the daemon was cut short at."""
        self.root.mkdir(mode=0o700, exist_ok=True)
        for entry in list(self.root.iterdir()):
            if entry.name.startswith((STAGING_PREFIX, UPLOAD_PREFIX)):
                sweep(entry)

    def new_staging(self) -> Path:
        """Where to put what is not on the shelf yet, or not any more."""
        return self.root / f"{STAGING_PREFIX}{secrets.token_hex(4)}"

    def look(self, before: Iterable[OnShelf]) -> tuple[OnShelf, ...]:
        """What is there now, by name; a file that looks as it did before is not read again."""
        known = {there.folder: there for there in before}
        read = [_read(folder, known.get(folder)) for folder in self._folders()]
        # Of two with one name, the one whose folder is called so stays.
        read.sort(key=lambda there: (there.folder.name != there.written.name, there.folder.name))
        owners: dict[str, Path] = {}
        found: list[OnShelf] = []
        for there in read:
            skill = there.written
            if not skill.error and owners.setdefault(skill.name, there.folder) != there.folder:
                error = f"the folder {owners[skill.name].name!r} has a skill of the same name, {skill.name!r}"
                skill = Skill(there.folder.name, error=error)
            found.append(msgspec.structs.replace(there, skill=skill))
        return tuple(sorted(found, key=lambda there: (there.skill.name, there.folder.name)))

    def place(
        self, staging: Path, jail: Jail, chosen: Iterable[FoundSkill], present: Iterable[OnShelf], *, replace: bool
    ) -> tuple[list[str], list[Skipped]]:
        """Copy what was chosen beside its place, all of it, then put one after the other there.

        Returns the names of what is there now, and what was there already. Raises: Conflict if that is all.
        """
        ready, old = staging / "ready", staging / "old"
        for folder in (ready, old):
            folder.mkdir(mode=0o700)
        occupied = {one.name: self._places(one.name, present) for one in chosen}
        placed: list[str] = []
        skipped: list[Skipped] = []
        for one in chosen:
            if occupied[one.name] and not replace:
                skipped.append(Skipped(one.name, "it is installed already"))
            else:
                copy_skill(jail, one.path, ready / one.name)
                placed.append(one.name)
        if not placed:
            names = ", ".join(occupied)
            raise Conflict(f"installed already: {names}; to have it replaced, say so with `replace`", names=names)
        for name in placed:
            for number, place in enumerate(occupied[name]):
                place.rename(old / f"{name}-{number}")
            (ready / name).rename(self.root / name)
        return placed, skipped

    def remove(self, folder: Path) -> None:
        """Take a folder away, then delete it; of a link to one only the link goes."""
        if folder.is_symlink():
            folder.unlink()
            return
        away = self.new_staging()
        folder.rename(away)
        sweep(away)

    def _folders(self) -> list[Path]:
        try:
            entries = list(self.root.iterdir())
        except FileNotFoundError:
            return []
        return [entry for entry in entries if not entry.name.startswith(".") and entry.is_dir()]

    def _places(self, name: str, present: Iterable[OnShelf]) -> list[Path]:
        """The folders that a skill of that name has or would have, as far as they are there."""
        places = {there.folder for there in present if not there.skill.error and there.skill.name == name}
        return sorted(place for place in places | {self.root / name} if place.exists())


def choose(found: list[FoundSkill], wanted: str) -> tuple[list[FoundSkill], list[Skipped]]:
    """Those that are meant and can be used, one of a name; and why others that are meant are not among them.

    Raises: NotFound; InvalidInput if none can be used.
    """
    if not found:
        raise NotFound(f"there is no {SKILL_FILE} in it, so there is no skill")
    meant = [one for one in found if not wanted or wanted == one.name or str(one.path).endswith(f"/{wanted}")]
    if not meant:
        raise NotFound(f"there is no skill {wanted!r} in it; there are: {', '.join(one.name for one in found[:20])}")
    chosen: dict[str, FoundSkill] = {}
    skipped: list[Skipped] = []
    for one in meant:
        if one.problem:
            skipped.append(Skipped(one.name, one.problem))
        elif one.name in chosen:
            skipped.append(Skipped(one.name, "there is another one of that name in it"))
        else:
            chosen[one.name] = one
    if not chosen:
        raise InvalidInput(f"the skill {skipped[0].name!r} cannot be used: {skipped[0].reason}", field="source")
    return list(chosen.values()), skipped


def sweep(path: Path) -> None:
    """Delete a folder or a file as far as that can be done; what is left goes at the next start."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _read(folder: Path, before: OnShelf | None) -> OnShelf:
    signature = _signature(folder / SKILL_FILE)
    if before is not None and before.signature == signature:
        return before
    written = _head_of(folder)
    return OnShelf(written, folder, written, signature)


def _signature(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _head_of(folder: Path) -> Skill:
    name = shown(folder.name)
    if name != folder.name:
        return Skill(name, error="the name of its folder is no text that could be passed on: rename the folder")
    try:
        head = read_head(read_skill(folder, SKILL_FILE))
    except PocketPawError as error:
        return Skill(folder.name, error=error.detail)
    return Skill(head.name, head.description, head.argument_hint, head.tools)

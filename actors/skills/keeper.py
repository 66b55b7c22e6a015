"""The skills: folders with instructions that the agent may read, as they are on disk, and their installation."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import structlog
import trio

from ...runtime import Actor, Message
from ...runtime.errors import DeliveryFailure, Forbidden, NotFound, Unavailable
from ...storage.sessions import Ok
from ..health import RecordProblem
from ..settings import LiveSettings
from ..tools.jail import Jail
from .archive import unpack
from .files import FoundSkill, find_skills, list_files, read_skill
from .format import SKILL_FILE
from .shelf import UPLOAD_PREFIX, OnShelf, Shelf, Skill, Skipped, choose, sweep
from .sources import GitSource, LocalSource, clone, parse_source

log = structlog.get_logger()

LOOK_S = 5.0
"""How often the folder is looked at: a few stats, read anew only where something has changed."""

CLEAN_UP_S = 0.5
"""When an installation is cancelled; what is left then is swept at the next start."""

FILES_LISTED = 50

SkillName = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class SkillMatches(msgspec.Struct, frozen=True):
    skills: list[Skill]
    count: int


class SkillText(msgspec.Struct, frozen=True):
    """`folder` is where the skill is on this machine, `files` is what else it brings."""

    text: str
    folder: str
    files: list[str]


class SkillsInstalled(msgspec.Struct, frozen=True):
    """What was installed, and what else there was and why it was not."""

    status: str
    installed: list[Skill]
    skipped: list[Skipped]


class SkillsReloaded(msgspec.Struct, frozen=True):
    status: str
    count: int


class ListSkills(Message[list[Skill]], to="skills"):
    """List the skills by name, those that cannot be used too."""


class SearchSkills(Message[SkillMatches], to="skills"):
    """Find the skills that have all words of `q` in their name or description; those named so come first."""

    q: Annotated[str, msgspec.Meta(max_length=200)] = ""


class ReadSkill(Message[SkillText], to="skills"):
    """Read a file of a skill, by its path in the skill's folder."""

    name: SkillName
    file: Annotated[str, msgspec.Meta(max_length=1_000)] = SKILL_FILE


class InstallSkill(Message[SkillsInstalled], to="skills"):
    """Install the skills of a folder or a zip on this machine, or of a git repository.

    `owner/repository` is one on the server that the setting skills_git_base names; `owner/repository/skill` is one
    skill of it, `https://…#skill` one of any other. One that is there already stays, unless it is to be replaced.
    """

    source: Annotated[str, msgspec.Meta(min_length=1, max_length=2_000)]
    replace: bool = False


class InstallUpload(Message[SkillsInstalled], to="skills"):
    """Install the skills of a zip that was uploaded into the skills' folder, under a name that begins `.upload-`."""

    name: str
    replace: bool = False


class RemoveSkill(Message[Ok], to="skills"):
    """Delete a skill's folder."""

    name: SkillName


class ReloadSkills(Message[SkillsReloaded], to="skills"):
    """Look at the folder now; it is looked at every few seconds anyway."""


class Skills(Actor):
    """Answers from memory; the disk is waited for in threads, and one thing is installed at a time."""

    concurrency = 32
    has_tasks = True
    handler_timeout_s = None  # fetching a repository takes its time, which has its own limit

    def __init__(self, live: LiveSettings) -> None:
        super().__init__()
        self._live = live
        self._shelf = Shelf(live.home.skills)
        self._there: tuple[OnShelf, ...] = ()
        self._looking = trio.Lock()
        self._changing = trio.Lock()

    async def on_start(self) -> None:
        try:
            await trio.to_thread.run_sync(self._shelf.prepare)
        except OSError as error:
            log.warning("the skills' folder cannot be used", actor=self.path, reason=str(error))
        await self._look()
        self.spawn(self._keep_looking)

    async def list_skills(self, message: ListSkills) -> list[Skill]:
        return self._skills()

    async def search_skills(self, message: SearchSkills) -> SkillMatches:
        words = message.q.casefold().split()
        found = [skill for skill in self._skills() if all(word in _searched(skill) for word in words)]
        found.sort(key=lambda skill: not any(word in skill.name for word in words))
        return SkillMatches(found, len(found))

    async def read_skill(self, message: ReadSkill) -> SkillText:
        there = self._find(message.name)
        if there.skill.error:
            raise Unavailable(f"the skill {message.name!r} cannot be used: {there.skill.error}")
        return await trio.to_thread.run_sync(_read, there.folder, message.file or SKILL_FILE)

    async def reload_skills(self, message: ReloadSkills) -> SkillsReloaded:
        await self._look()
        return SkillsReloaded("ok", len(self._there))

    async def install_skill(self, message: InstallSkill) -> SkillsInstalled:
        source = parse_source(message.source, self._live.current.skills_git_base)
        return await self._install(source, replace=message.replace)

    async def install_upload(self, message: InstallUpload) -> SkillsInstalled:
        root = self._shelf.root
        path = root / message.name
        if path.parent != root or not message.name.startswith(UPLOAD_PREFIX):
            raise Forbidden(f"an upload is a file in {root} whose name begins with {UPLOAD_PREFIX}")
        return await self._install(path, replace=message.replace)

    async def remove_skill(self, message: RemoveSkill) -> Ok:
        async with self._changing:
            there = self._find(message.name)
            try:
                await trio.to_thread.run_sync(self._shelf.remove, there.folder)
            except OSError as error:
                raise Unavailable(f"the skill {message.name!r} could not be removed: {error.strerror}") from error
            await self._look()
        return Ok()

    # Installation -----------------------------------------------------------------------------------------------------

    async def _install(self, source: LocalSource | GitSource | Path, *, replace: bool) -> SkillsInstalled:
        async with self._changing:
            staging = self._shelf.new_staging()
            try:
                await trio.to_thread.run_sync(partial(staging.mkdir, 0o700, parents=True))
                jail, found = await self._fetch(source, staging)
                chosen, skipped = choose(found, source.wanted if isinstance(source, GitSource) else "")
                place = partial(self._shelf.place, staging, jail, chosen, self._there, replace=replace)
                placed, kept = await trio.to_thread.run_sync(place)
            except OSError as error:
                raise Unavailable(f"nothing was installed: {error.strerror or error}") from error
            finally:
                with trio.move_on_after(CLEAN_UP_S, shield=True):
                    await trio.to_thread.run_sync(sweep, staging)
            await self._look()
        log.info("skills installed", actor=self.path, names=placed)
        return SkillsInstalled("ok", [skill for skill in self._skills() if skill.name in placed], skipped + kept)

    async def _fetch(self, source: LocalSource | GitSource | Path, staging: Path) -> tuple[Jail, list[FoundSkill]]:
        """Bring the source where it can be looked through, and say which skills there are in it."""
        fetched = Jail(str(staging), own=staging / "nothing of ours")
        target = fetched.root / "fetched"
        if isinstance(source, LocalSource):
            return await trio.to_thread.run_sync(_look_into, Jail.of(self._live), source.path, fetched, target)
        if isinstance(source, GitSource):
            await clone(source, target)
        else:
            await trio.to_thread.run_sync(_unpack_file, source, target)
        return fetched, await trio.to_thread.run_sync(find_skills, fetched, target)

    # What there is ----------------------------------------------------------------------------------------------------

    def _skills(self) -> list[Skill]:
        return [there.skill for there in self._there]

    def _find(self, name: str) -> OnShelf:
        """The skill of that name, one that can be used if there is one; raises NotFound."""
        named = sorted((there for there in self._there if there.skill.name == name), key=lambda one: one.skill.error)
        if not named:
            names = ", ".join(skill.name for skill in self._skills() if not skill.error)
            raise NotFound(f"name: there is no skill {name!r}; there are: {names or 'none'}")
        return named[0]

    async def _keep_looking(self) -> None:
        while True:
            await trio.sleep(LOOK_S)
            await self._look()

    async def _look(self) -> None:
        """See what has changed on disk. What cannot be read now counts as it was."""
        async with self._looking:
            before = set(self._skills())
            try:
                self._there = await trio.to_thread.run_sync(self._shelf.look, self._there)
            except OSError as error:
                log.info("the skills' folder cannot be read", actor=self.path, reason=str(error))
                return
        for skill in self._skills():
            if skill.error and skill not in before:
                await self._report(f"the skill {skill.name!r} is left out: {skill.error}")

    async def _report(self, text: str) -> None:
        try:
            await self.tell(RecordProblem(source=self.path, message=text, severity="warning"))
        except DeliveryFailure:
            log.warning(text, actor=self.path)


def _searched(skill: Skill) -> str:
    return f"{skill.name} {skill.description}".casefold()


def _read(folder: Path, file: str) -> SkillText:
    return SkillText(read_skill(folder, file), str(folder), list_files(folder, FILES_LISTED))


def _unpack_file(path: Path, target: Path) -> None:
    with path.open("rb") as archive:
        unpack(archive, target)


def _look_into(jail: Jail, path: str, fetched: Jail, target: Path) -> tuple[Jail, list[FoundSkill]]:
    """A folder of this machine is looked through where it is, a zip is unpacked first."""
    real = jail.resolve(path)
    if real.is_dir():
        return jail, find_skills(jail, real)
    with jail.open(path) as archive:
        unpack(archive, target)
    return fetched, find_skills(fetched, target)

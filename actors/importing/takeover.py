"""One import: what stands in the old home, kind by kind, and what of it this one takes.

Invariant: what is set or said here stays as it is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from ...config import Home, UnreadableFileError, load
from ...config.document import read_document
from ...config.load import DEFAULT, ENVIRONMENT
from ...runtime import Actor
from ...runtime.errors import Conflict, InvalidInput, NotFound
from ...storage.api_keys import KeyPair
from ...storage.imports import ImportApiKey, ImportMemory, ImportMessages, Outcome
from ...storage.jobs import AddJob, GetJob, Job
from ..access.known_credentials import TakeNote
from ..identity import DEFAULTS, ChangeIdentity, GetIdentity
from ..mcp.configuration import ServerConfig
from ..mcp.protocol import AddMcpServer, GetMcpStatus
from ..scheduler.clock import local_zone
from ..settings import ChangeSettings, LiveSettings
from .old_access import IDENTITY_FILES, OldKey, read_identity, read_keys, read_servers
from .old_chats import Index, OldSession, read_index, read_memories, read_session, session_files
from .old_files import Remark, Unreadable, left_aside, shown
from .old_jobs import Plan, read_intentions, read_reminders
from .old_secrets import SECRETS, SecretsSealed, read_secrets
from .protocol import Kind, Taken

T = TypeVar("T")

MESSAGES_AT_ONCE = 500
"""Messages of a session that are kept in one transaction: others wait for it."""

UNTOUCHED: dict[str, object] = {
    "agent_backend": "claude_agent_sdk",
    "api_rate_limit_per_key": 60,
    "max_concurrent_conversations": 5,
}
"""Defaults of PocketPaw 0.4 that are others here. It writes all its defaults into its file, so they say nothing."""

CONFIG = "config.json"
NAMED = 10
"""Settings unknown here that are named; more are counted."""


class Takeover:
    """One import, on behalf of whoever asked for it."""

    def __init__(self, importer: Actor, live: LiveSettings, home: Path, *, is_dry: bool) -> None:
        self._importer = importer
        self._live = live
        self._home = home
        self._is_dry = is_dry
        self._kinds: dict[Kind, Taken] = {}

    async def done(self) -> dict[Kind, Taken]:
        await self._settings()
        await self._identity()
        await self._sessions()
        await self._memories()
        await self._jobs("reminders", read_reminders)
        await self._jobs("intentions", read_intentions)
        await self._servers()
        await self._keys()
        if not await off_the_loop(_is_same, self._home, self._live.home.root):
            async with self._kind("other") as other:
                other.left.extend(await off_the_loop(left_aside, self._home))
        return self._kinds

    @asynccontextmanager
    async def _kind(self, kind: Kind) -> AsyncGenerator[_Tally]:
        """Count things of a kind; if their file cannot be read, that is what is left."""
        tally = _Tally()
        try:
            yield tally
        except Unreadable as error:
            tally.left.append(Remark(kind.replace("_", " "), str(error)))
        self._kinds[kind] = Taken(tally.taken, tally.known, tally.left)

    async def _sessions(self) -> None:
        async with self._kind("sessions") as tally:
            try:
                index = await off_the_loop(read_index, self._home)
            except Unreadable as error:
                tally.left.append(Remark("titles", str(error)))
                index = Index()
            for path in await off_the_loop(session_files, self._home):
                try:
                    session = await off_the_loop(read_session, path, index)
                except Unreadable as error:
                    tally.left.append(Remark(shown(path.stem), str(error)))
                    continue
                tally.left += [Remark(f"{session.id}: {one.name}", one.reason) for one in session.remarks]
                tally.count(session.id, await self._import_session(session), "it has gone on here since it was taken")

    async def _import_session(self, session: OldSession) -> Outcome:
        outcomes: set[Outcome] = set()
        for start in range(0, len(session.messages), MESSAGES_AT_ONCE):
            part = ImportMessages(
                session_id=session.id,
                title=session.title,
                channel=session.channel,
                messages=session.messages[start : start + MESSAGES_AT_ONCE],
                dry_run=self._is_dry,
            )
            outcomes.add(await self._importer.ask(part))
        return "changed" if "changed" in outcomes else "taken" if "taken" in outcomes else "known"

    async def _memories(self) -> None:
        async with self._kind("memories") as tally:
            for memory in await off_the_loop(_all, read_memories, self._home, tally.left):
                command = ImportMemory(
                    content=memory.content, tags=memory.tags, created_at=memory.created_at, dry_run=self._is_dry
                )
                tally.count(memory.content[:80], await self._importer.ask(command))

    async def _jobs(self, kind: Kind, read: Callable[[Path, Plan, list[Remark]], Iterator[Job]]) -> None:
        plan = Plan(self._importer.principal, datetime.now(UTC), local_zone(self._live.current.time_zone))

        def read_jobs(home: Path, left: list[Remark]) -> Iterator[Job]:
            return read(home, plan, left)

        async with self._kind(kind) as tally:
            for job in await off_the_loop(_all, read_jobs, self._home, tally.left):
                try:
                    tally.count(job.name[:80], await self._add_job(job))
                except Conflict as error:
                    tally.left.append(Remark(job.name[:80], error.detail))
                    continue
                if "{{" in job.prompt:
                    tally.left.append(Remark(job.name[:80], "what stands in {{…}} of its prompt is not filled in here"))

    async def _add_job(self, job: Job) -> Outcome:
        """The scheduler looks at least each minute for what came into the store past it."""
        try:
            await self._importer.ask(GetJob(job_id=job.id, kind=job.kind))
            return "known"
        except NotFound:
            pass  # it is new
        if not self._is_dry:
            await self._importer.ask(AddJob(job=job))
        return "taken"

    async def _identity(self) -> None:
        async with self._kind("identity") as tally:
            theirs = await off_the_loop(read_identity, self._home, tally.left)
            here = await self._importer.ask(GetIdentity())
            changes: dict[str, str] = {}
            for field, text in theirs.items():
                name, present = IDENTITY_FILES[field], getattr(here, field)
                if text == present:
                    tally.known += 1
                elif present != DEFAULTS[name]:
                    tally.left.append(Remark(name, "it is written here already"))
                else:
                    changes[field] = text
                    tally.taken.append(name)
            if changes and not self._is_dry:
                await self._importer.ask(msgspec.convert(changes, ChangeIdentity))

    async def _settings(self) -> None:
        async with self._kind("settings") as tally:
            try:
                secrets = await off_the_loop(read_secrets, self._home)
            except SecretsSealed as error:
                secrets = dict[str, str]()
                tally.left.append(Remark(SECRETS, str(error)))
            self._live.hide(secrets.values())
            theirs = await off_the_loop(load, Home(self._home), {}, secrets)
            written = await off_the_loop(_written, self._home)
            # Without what holds for this run only, such as the port of a daemon that was started for a visit.
            kept = await off_the_loop(load, self._live.home, {}, None, self._live.vault)
            changes: dict[str, object] = {}
            for name, source in theirs.sources.items():
                value = getattr(theirs.settings, name)
                if source == DEFAULT or self._is_untouched(name, written):
                    continue
                if value == getattr(kept.settings, name):
                    tally.known += 1
                elif kept.sources[name] != DEFAULT or self._live.loaded.sources[name] == ENVIRONMENT:
                    tally.left.append(Remark(name, "it is set here"))
                else:
                    changes[name] = value
                    tally.taken.append(name)
            tally.left += [
                Remark(problem.setting or CONFIG, problem.message.partition("; using")[0])
                for problem in theirs.problems
                if not self._is_untouched(problem.setting, written)
            ]
            tally.left += _unknown(theirs.unknown_keys, secrets.keys() - theirs.sources.keys())
            if changes and not self._is_dry:
                await self._importer.ask(ChangeSettings(changes=msgspec.to_builtins(changes)))

    def _is_untouched(self, name: str, written: Mapping[str, object]) -> bool:
        """Whether it is what PocketPaw 0.4 writes by itself."""
        untouched = {**UNTOUCHED, "file_jail_path": str(self._home.parent)}
        return name in untouched and written.get(name) == untouched[name]

    async def _servers(self) -> None:
        async with self._kind("mcp_servers") as tally:
            here = await self._importer.ask(GetMcpStatus())
            for server in await off_the_loop(_all, read_servers, self._home, tally.left):
                if server.name in here:
                    tally.known += 1
                    continue
                try:
                    await self._add_server(server)
                except (InvalidInput, Conflict) as error:
                    tally.left.append(Remark(server.name, error.detail))
                else:
                    tally.taken.append(server.name)

    async def _add_server(self, server: ServerConfig) -> None:
        self._live.hide(server.check().secrets())
        if not self._is_dry:
            await self._importer.ask(msgspec.convert(msgspec.structs.asdict(server), AddMcpServer))

    async def _keys(self) -> None:
        async with self._kind("api_keys") as tally:
            for key in await off_the_loop(_all, read_keys, self._home, tally.left):
                tally.count(key.name, await self._add_key(key))

    async def _add_key(self, key: OldKey) -> Outcome:
        created_at, last_used_at, expires_at = key.times()
        command = ImportApiKey(
            key=KeyPair(key.id, key.prefix, key.key_hash),
            name=key.name,
            scopes=key.scopes,
            created_at=created_at,
            last_used_at=last_used_at,
            expires_at=expires_at,
            created_by=self._importer.principal.name,
            dry_run=self._is_dry,
        )
        added = await self._importer.ask(command)
        if added is None:
            return "known"
        if not self._is_dry:
            await self._importer.ask(TakeNote(credentials=added.changed))
        return "taken"


class _Tally:
    """What came of one kind so far."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.known = 0
        self.left: list[Remark] = []

    def count(self, name: str, outcome: Outcome, reason: str = "") -> None:
        """`reason` is why it is left, where that is the outcome."""
        if outcome == "taken":
            self.taken.append(name)
        elif outcome == "known":
            self.known += 1
        else:
            self.left.append(Remark(name, reason))


def _unknown(keys: Iterable[str], secrets: Iterable[str]) -> list[Remark]:
    """What there is no setting for here, in a sentence; secrets by name, as somebody has set each."""
    remarks = [Remark(name, "there is no such setting here") for name in sorted(secrets)]
    names = list(keys)
    if names:
        shown = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
        remarks.append(Remark(CONFIG, f"{len(names)} of its settings do not exist here: {shown}"))
    return remarks


def _written(home: Path) -> Mapping[str, object]:
    """What stands in its settings file; nothing where that cannot be read, which the settings themselves say."""
    try:
        return read_document(home / CONFIG).values
    except UnreadableFileError:
        return {}


def _all(read: Callable[[Path, list[Remark]], Iterator[T]], home: Path, left: list[Remark]) -> list[T]:
    return list(read(home, left))


def _is_same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


async def off_the_loop(function: Callable[..., T], *arguments: object) -> T:
    """Call what waits for the disk, or computes, in a thread."""
    return await trio.to_thread.run_sync(function, *arguments)

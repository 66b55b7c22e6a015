"""Importing a home that the real PocketPaw 0.4.18 has made, on the real store and its owners here."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pocketpaw.actors.access.guard import Guard
from pocketpaw.actors.identity import ChangeIdentity, GetIdentity, IdentityKeeper
from pocketpaw.actors.importing import old_secrets, takeover
from pocketpaw.actors.importing.importer import Importer
from pocketpaw.actors.importing.old_secrets import Owner
from pocketpaw.actors.importing.protocol import ImportHome, ImportReport
from pocketpaw.actors.mcp.keeper import McpKeeper
from pocketpaw.actors.mcp.protocol import GetMcpStatus
from pocketpaw.actors.settings import ChangeSettings, LiveSettings, SettingsKeeper
from pocketpaw.actors.tools.catalogue import Catalogue
from pocketpaw.runtime import ActorSystem, Child, DynamicSupervisor, Principal, Supervisor
from pocketpaw.runtime.errors import NotFound
from pocketpaw.storage.api_keys import LoadApiKeys
from pocketpaw.storage.credentials import ListCredentials
from pocketpaw.storage.export import ExportSession
from pocketpaw.storage.history import GetHistory
from pocketpaw.storage.jobs import DeleteJob, ListJobs
from pocketpaw.storage.memories import AddMemory, ListMemories
from pocketpaw.storage.sessions import ListSessions
from pocketpaw.storage.turns import AddTurn

from ...journeys.older_pocketpaw import MACHINE, SECRET, USER, USER_TEXT, recorded_home

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
Open = Callable[[], AbstractAsyncContextManager[ActorSystem]]

ANN = Principal("master", frozenset({"admin"}))
TALK = "websocket_44c3ceaa-cd5c-4791-a2d8-ecf39fe60530"
SHORT = "websocket_7faeff2b-f0e5-44ef-8b9e-a0c0e6364787"
TAKEN = {
    "settings": ["openai_compatible_api_key"],
    "identity": ["USER.md"],
    "memories": [
        "Ann's bicycle is green and has a child seat.",
        "The boiler is serviced each October.",
        "Bob likes chess.",
        "Called the plumber, who comes on Friday.",
    ],
    "reminders": ["Renew the passport", "Water the plants"],
    "intentions": ["Morning", "Off"],
    "mcp_servers": ["clock"],
    "api_keys": ["panel"],
    "sessions": [TALK, SHORT],
    "other": [],
}


@pytest.fixture
def old_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(old_secrets, "likely_owners", lambda: [Owner("another", "one"), Owner(MACHINE, USER)])
    return recorded_home(tmp_path / "ann")


def tree(live: LiveSettings, store: Supervisor) -> Supervisor:
    return Supervisor(
        "root",
        [
            store,
            Child(SettingsKeeper, live, id="settings"),
            Child(Guard, live),
            Child(IdentityKeeper, live, id="identity"),
            Supervisor("mcp", [DynamicSupervisor("servers"), Child(McpKeeper, live, Catalogue(), id="keeper")]),
            Child(Importer, live),
        ],
    )


@pytest.fixture
def daemon(live: LiveSettings, make_store: Callable[[], Supervisor], running: Running) -> Open:
    @asynccontextmanager
    async def start() -> AsyncGenerator[ActorSystem]:
        async with running(tree(live, make_store())) as system:
            yield system

    return start


async def take(system: ActorSystem, home: Path, *, dry_run: bool = False) -> ImportReport:
    return await system.ask(ImportHome(path=str(home), dry_run=dry_run), principal=ANN, timeout_s=60)


def names(report: ImportReport) -> dict[str, list[str]]:
    return {kind: found.taken for kind, found in report.kinds.items()}


def left(report: ImportReport) -> dict[str, str]:
    return {f"{kind}: {one.name}": one.reason for kind, found in report.kinds.items() for one in found.left}


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


async def everything(system: ActorSystem, live: LiveSettings) -> list[object]:
    """All that an import may change here."""
    sessions = (await system.ask(ListSessions())).sessions
    exported = [(await system.ask(ExportSession(session_id=one.id))).content for one in sessions]
    return [
        sessions,
        [json.loads(text)["messages"] for text in exported],
        (await system.ask(ListMemories())).memories,
        await system.ask(ListJobs(kind="reminder")),
        await system.ask(ListJobs(kind="intention")),
        await system.ask(GetIdentity()),
        live.current,
        list(await system.ask(GetMcpStatus())),
        await system.ask(LoadApiKeys()),
    ]


async def test_all_that_is_the_users_arrives_and_the_old_home_stays_as_it_is(
    daemon: Open, live: LiveSettings, old_home: Path
) -> None:
    before = contents(old_home)
    async with daemon() as system:
        report = await take(system, old_home)
        expected = {**TAKEN, "settings": report.kinds["settings"].taken}
        assert names(report) == expected
        assert {"openai_compatible_api_key", "openai_compatible_model", "media_max_file_size_mb"} <= set(
            report.kinds["settings"].taken
        )
        assert contents(old_home) == before
        # Sessions
        talk, short = sorted((await system.ask(ListSessions())).sessions, key=lambda one: -one.message_count)
        assert (talk.id, talk.title, talk.channel, talk.message_count) == (
            TALK,
            "hello from the old home",
            "websocket",
            4,
        )
        assert (short.id, short.message_count) == (SHORT, 2)
        history = await system.ask(GetHistory(session_id=TALK))
        written = json.loads((old_home / "memory" / "sessions" / f"{TALK}.json").read_text())
        assert [(one.role, one.content) for one in history] == [(one["role"], one["content"]) for one in written]
        moments = [datetime.fromisoformat(one["timestamp"]).astimezone() for one in written]
        assert [one.timestamp for one in history] == moments
        assert (talk.created_at, talk.last_activity) == (moments[0], moments[-1])
        # Memories
        memories = {one.content: one for one in (await system.ask(ListMemories())).memories}
        assert memories["Ann's bicycle is green and has a child seat."].tags == ["bicycle", "family"]
        note = memories["Called the plumber, who comes on Friday."]
        assert (note.tags, note.created_at.date().isoformat()) == (["house"], "2026-11-22")
        assert note.provenance == []
        # Reminders and intentions
        passport, plants = sorted(await system.ask(ListJobs(kind="reminder")), key=lambda job: job.schedule)
        assert (passport.name, passport.prompt) == (
            "Renew the passport",
            "remind me in 20000 days to renew the passport",
        )
        assert passport.next_slot is not None
        assert passport.next_slot.year == 2081
        assert (plants.schedule, plants.recurrence) == ("0 8 * * 1-5", "weekday morning 8am")
        assert plants.next_slot is not None
        morning, off = await system.ask(ListJobs(kind="intention"))
        assert (morning.prompt, morning.schedule, morning.enabled) == ("What is on today?", "0 8 * * 1-5", True)
        assert (off.schedule, off.enabled, off.next_slot) == ("0 22 * * *", False, None)
        assert (morning.principal, morning.scopes) == ("master", ["admin"])
        # What it is and may
        assert (await system.ask(GetIdentity())).user_file == USER_TEXT
        assert live.current.openai_compatible_api_key == SECRET
        assert (live.current.agent_backend, live.current.openai_compatible_model) == ("openai_compatible", "fake")
        assert live.current.media_max_file_size_mb == 77
        assert {"file_jail_path", "api_rate_limit_per_key", "max_concurrent_conversations"}.isdisjoint(
            expected["settings"]
        )
        clock = (await system.ask(GetMcpStatus()))["clock"]
        assert (clock.enabled, clock.transport) == (False, "stdio")
        (key,) = await system.ask(LoadApiKeys())
        (credential,) = await system.ask(ListCredentials())
        (old_key,) = json.loads((old_home / "api_keys.json").read_text())
        assert (key.id, key.scopes, key.created_at) == (
            old_key["id"],
            ["chat", "sessions"],
            datetime.fromisoformat(old_key["created_at"]),
        )
        assert credential.digest == old_key["key_hash"]
    assert left(report)["other: traces"] == "traces are not kept here"
    assert "settings do not exist here" in left(report)["settings: config.json"]


async def test_a_second_import_changes_nothing_and_a_dry_run_even_less(
    daemon: Open, live: LiveSettings, old_home: Path
) -> None:
    async with daemon() as system:
        empty = await everything(system, live)
        dry = await take(system, old_home, dry_run=True)
        assert await everything(system, live) == empty
        first = await take(system, old_home)
        assert names(dry) == names(first)
        assert (dry.dry_run, first.dry_run) == (True, False)
        after = await everything(system, live)
        assert after != empty
        second = await take(system, old_home)
        assert not any(names(second).values())
        assert await everything(system, live) == after
        known = {kind: found.known for kind, found in second.kinds.items()}
        for kind, taken in names(first).items():
            assert known[kind] >= len(taken), kind


async def test_what_the_user_has_here_is_never_overwritten(daemon: Open, live: LiveSettings, old_home: Path) -> None:
    async with daemon() as system:
        await system.ask(ChangeIdentity(user_file="I am Ben."))
        await system.ask(ChangeSettings(changes={"openai_compatible_model": "mine"}))
        mine = AddMemory(content="ann's bicycle is green and has a child seat", tags=["mine"])
        memory = (await system.ask(mine)).memory
        report = await take(system, old_home)
        assert left(report)["identity: USER.md"] == "it is written here already"
        assert left(report)["settings: openai_compatible_model"] == "it is set here"
        assert (await system.ask(GetIdentity())).user_file == "I am Ben."
        assert live.current.openai_compatible_model == "mine"
        assert report.kinds["memories"].known == 1
        assert memory in (await system.ask(ListMemories())).memories


@pytest.mark.parametrize("place", ["command line", "environment"])
async def test_what_holds_for_this_run_only_is_not_taken_for_a_setting_of_the_users(
    make_live: Callable[..., LiveSettings],
    make_store: Callable[[], Supervisor],
    running: Running,
    old_home: Path,
    place: str,
) -> None:
    """A daemon that is started for a visit has a port of its own; an environment that says so is the operator's."""
    config = old_home / "config.json"
    config.write_text(config.read_text().replace('"web_port": 8888', '"web_port": 9999'))
    live = make_live(web_port=1)
    if place == "environment":
        live = LiveSettings(live.home, {"POCKETPAW_WEB_PORT": "1"})
    async with running(tree(live, make_store())) as system:
        report = await take(system, old_home)
        if place == "environment":
            assert left(report)["settings: web_port"] == "it is set here"
            return
        assert "web_port" in names(report)["settings"]
        assert json.loads(live.home.config.read_text())["web_port"] == 9999
        assert "web_port" not in names(await take(system, old_home))["settings"]


async def test_what_was_said_there_since_is_taken_unless_the_session_has_gone_on_here(
    daemon: Open, old_home: Path
) -> None:
    def say_there(session_id: str) -> None:
        path = old_home / "memory" / "sessions" / f"{session_id}.json"
        said = json.loads(path.read_text())
        said.append({"id": "new", "role": "user", "content": "one more", "timestamp": "2026-11-23T10:00:00+00:00"})
        path.write_text(json.dumps(said))

    async with daemon() as system:
        await take(system, old_home)
        turn = AddTurn(
            session_id=SHORT, turn_id="t", content="here", channel="api", state="pending", boot_id="b", principal="ann"
        )
        await system.ask(turn)
        say_there(TALK)
        say_there(SHORT)
        report = await take(system, old_home)
        assert names(report)["sessions"] == [TALK]
        assert left(report)[f"sessions: {SHORT}"] == "it has gone on here since it was taken"
        grown, stayed = [await system.ask(GetHistory(session_id=one)) for one in (TALK, SHORT)]
        assert (len(grown), grown[-1].content, grown[-1].timestamp) == (
            5,
            "one more",
            datetime(2026, 11, 23, 10, tzinfo=UTC),
        )
        assert [one.content for one in stayed][-1] == "here"


async def test_a_long_session_is_taken_in_parts_each_message_once(
    daemon: Open, old_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "MESSAGES_AT_ONCE", 3)
    async with daemon() as system:
        for _ in range(2):
            await take(system, old_home)
            assert len(await system.ask(GetHistory(session_id=TALK))) == 4


async def test_an_import_that_was_cut_off_is_finished_by_the_next_one(daemon: Open, old_home: Path) -> None:
    async with daemon() as system:
        await take(system, old_home)
        (first, _) = await system.ask(ListJobs(kind="intention"))
        await system.ask(DeleteJob(job_id=first.id, kind="intention"))
        assert names(await take(system, old_home))["intentions"] == [first.name]


async def test_secrets_of_another_machine_are_told_and_the_rest_arrives(
    daemon: Open, live: LiveSettings, old_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(old_secrets, "likely_owners", lambda: [Owner("another", "one")])
    async with daemon() as system:
        report = await take(system, old_home)
    assert "locked on another machine" in left(report)["settings: secrets.enc"]
    assert live.current.openai_compatible_api_key == ""
    assert len(names(report)["sessions"]) == 2


async def test_files_that_are_damaged_are_told_by_name_and_the_others_arrive(daemon: Open, old_home: Path) -> None:
    sessions = old_home / "memory" / "sessions"
    (sessions / f"{SHORT}.json").write_text("[{")
    (sessions / "telegram_7.json").write_text('[{"role": "tool", "content": "x", "timestamp": "2026-01-01"}, 7]')
    (sessions / "_index.json").write_text("no JSON")
    (old_home / "reminders.json").write_bytes(b"\xff")
    (old_home / "api_keys.json").write_text('{"not": "a list"}')
    (old_home / "mcp_servers.json").write_text('{"servers": [{"name": "bare"}, {"name": "b@d"}]}')
    (old_home / "config.json").write_text("{")
    async with daemon() as system:
        report = await take(system, old_home)
        assert names(report)["sessions"] == [TALK]
        assert [one.title for one in (await system.ask(ListSessions())).sessions] == ["New Chat"]
    told = left(report)
    assert names(report)["intentions"] == ["Morning", "Off"]
    for place in (
        f"sessions: {SHORT}",
        "sessions: telegram_7",
        "sessions: titles",
        "reminders: reminders",
        "api_keys: api keys",
        "mcp_servers: bare",
        "mcp_servers: entry 2",
        "settings: config.json",
    ):
        assert told.pop(place), place


async def test_names_and_texts_that_are_no_utf8_stop_nothing(daemon: Open, old_home: Path) -> None:
    sessions = old_home / "memory" / "sessions"
    said = b'[{"role": "user", "content": "%s", "timestamp": "2026-01-01"}]'
    (sessions / os.fsdecode(b"telegram_caf\xe9.json")).write_bytes(said % b"hi")
    (sessions / os.fsdecode(b"empty_\xe9.json")).write_text("[]")
    (sessions / "telegram_8.json").write_bytes(said % b"caf\xe9")
    (old_home / os.fsdecode(b"extra-\xe9")).write_text("")
    guest = old_home / "memory" / "users" / os.fsdecode(b"guest-\xe9") / "MEMORY.md"
    guest.parent.mkdir(parents=True)
    guest.write_text("")
    async with daemon() as system:
        first = await take(system, old_home)
        assert len(first.kinds["sessions"].taken) == len(TAKEN["sessions"]) + 1
        second = await take(system, old_home)
        assert (names(second)["sessions"], second.kinds["sessions"].known) == ([], len(TAKEN["sessions"]) + 1)
    told = left(first)
    assert {"sessions: empty_�", "sessions: telegram_8", "other: extra-�", "memories: users/guest-�"} <= set(told)


async def test_folders_that_cannot_be_listed_are_told_and_not_taken_for_empty_ones(
    daemon: Open, old_home: Path
) -> None:
    shutil.rmtree(old_home / "memory")
    (old_home / "memory").write_text("no folder")
    async with daemon() as system:
        told = left(await take(system, old_home))
    assert {"sessions: sessions", "memories: memories"} <= set(told)
    assert told["sessions: sessions"] == "its folder cannot be listed: Not a directory"


async def test_a_job_whose_id_is_taken_by_another_kind_is_told_and_the_others_arrive(
    daemon: Open, old_home: Path
) -> None:
    reminders, intentions = (old_home / f"{kind}.json" for kind in ("reminders", "intentions"))
    taken = json.loads(reminders.read_bytes())["reminders"][0]["id"]
    document = json.loads(intentions.read_bytes())
    document["intentions"][0]["id"] = taken
    intentions.write_text(json.dumps(document))
    async with daemon() as system:
        report = await take(system, old_home)
    assert names(report)["intentions"] == TAKEN["intentions"][1:]
    assert "there is a job" in left(report)[f"intentions: {document['intentions'][0]['name']}"]
    assert names(report)["api_keys"] == TAKEN["api_keys"]


@pytest.mark.parametrize("path", ["nowhere", "/nowhere/at/all", "/a\0b", "~nobody-of-that-name/x", "/" + "x" * 4_000])
async def test_a_path_that_is_no_home_is_told(daemon: Open, path: str) -> None:
    async with daemon() as system:
        with pytest.raises(NotFound, match="there is no PocketPaw home"):
            await system.ask(ImportHome(path=path))


async def test_the_folder_above_will_do_and_the_home_here_can_be_imported_into_itself(
    daemon: Open, live: LiveSettings, old_home: Path
) -> None:
    async with daemon() as system:
        assert (await take(system, old_home.parent, dry_run=True)).path == str(old_home)
        for name in ("reminders.json", "memory", "identity"):
            source, target = old_home / name, live.home.root / name
            if source.is_dir():
                for path in source.rglob("*.*"):
                    copy = target / path.relative_to(source)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    if path.is_file():
                        copy.write_bytes(path.read_bytes())
            else:
                target.write_bytes(source.read_bytes())
        report = await take(system, live.home.root)
        assert len(names(report)["sessions"]) == len(names(report)["reminders"]) == 2
        assert report.kinds["identity"].known == 1
        assert "other" not in report.kinds

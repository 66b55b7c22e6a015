"""What each check finds, and what it leaves alone."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import pytest
import trio
import trio.testing
from pocketpaw.actors import checks, service_checks
from pocketpaw.actors.checks import MB, NAMED, Check, Finding, Hitch, Surroundings
from pocketpaw.actors.models.router import BackendState
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.actors.tunnel.protocol import TunnelState, TunnelStatus
from pocketpaw.runtime import (
    Actor,
    ActorSystem,
    Backoff,
    Child,
    Done,
    DynamicSupervisor,
    Message,
    Supervisor,
    SupervisorNode,
)
from pocketpaw.runtime.errors import NeedsOperator, PocketPawError, TransientFailure, Unavailable
from pocketpaw.storage.failures import displaced
from pocketpaw.storage.soundness import StorageReport
from pocketpaw.storage.tables import utc_now
from pocketpaw.storage.tokens import ListRevokedTokens, RevokeToken

R = TypeVar("R")

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
MakeLive = Callable[..., LiveSettings]

EMPTY = Supervisor("root")


def around(live: LiveSettings, system: ActorSystem, *hitches: Hitch) -> Surroundings:
    return Surroundings(live, system, system.ask, hitches)


def answering(live: LiveSettings, *answers: object) -> Surroundings:
    """Surroundings in which the questions of a check are answered by these, in order."""
    left = list(answers)

    async def ask(message: Message[R], /) -> R:
        await trio.lowlevel.checkpoint()
        answer = left.pop(0)
        if isinstance(answer, PocketPawError):
            raise answer
        return answer  # pyright: ignore[reportReturnType] each test knows what is asked

    def ask_(message: Message[R], /) -> Awaitable[R]:
        return ask(message)

    return Surroundings(live, ActorSystem(EMPTY), ask_, ())


def test_every_check_says_what_it_is_and_is_told_apart(live: LiveSettings, running: Running) -> None:
    assert {
        "configuration",
        "vault",
        "storage",
        "database",
        "disk_space",
        "models",
        "mcp_servers",
        "channels",
        "kits",
        "tunnel",
        "actors",
        "event_loop",
        "audit",
        "schedule",
        "access",
        "webhooks",
    } == set(service_checks.CHECKS)
    for id_, check in service_checks.CHECKS.items():
        assert check.id == id_
        assert check.look.__doc__
        assert check.timeout_s < 25  # so that all of them end before an ask does
    assert len({check.name for check in checks.CHECKS.values()}) == len(checks.CHECKS)


async def test_a_kit_in_trouble_is_named_and_a_store_in_trouble_is_not_told_twice(live: LiveSettings) -> None:
    (finding,) = await checks.kits.look(answering(live, ["the kit mine cannot be read: x"]))
    assert (finding.status, finding.message) == ("warning", "the kit mine cannot be read: x")
    assert await checks.kits.look(answering(live, Unavailable("the store is away"))) == []


async def test_a_bad_setting_is_named_with_its_line_and_leaves_the_daemon_usable(live: LiveSettings) -> None:
    live.home.config.write_text('{\n"web_port": "high",\n"ollama_model": "qwen3"}')
    live.replace(live.load())
    (finding,) = await checks.configuration.look(answering(live))
    assert (finding.status, finding.subject) == ("warning", "web_port")
    assert "web_port" in finding.message
    assert "line 2" in finding.fix_hint


async def test_a_vault_that_cannot_be_opened_is_critical_names_the_fix_and_is_told_once(make_live: MakeLive) -> None:
    await make_live().keep_secrets({"webhooks/door": "canary"})
    live = make_live()
    assert await checks.vault.look(answering(live)) == []
    live.home.vault_key.chmod(0o644)
    live = make_live()
    (finding,) = await checks.vault.look(answering(live))
    assert finding.status == "critical"
    assert f"{live.home.vault_key}: others than its owner may read it" in finding.message
    assert f"chmod 600 {live.home.vault_key}" in finding.fix_hint
    assert await checks.configuration.look(answering(live)) == []
    live.home.vault_key.chmod(0o600)
    (finding,) = await checks.vault.look(answering(live))
    assert (finding.status, finding.fix_hint) == ("warning", "Restart the daemon.")
    live.vault.refresh()  # whoever else needs it
    (finding,) = await checks.vault.look(answering(live))
    assert finding.fix_hint == "Restart the daemon.", "the settings in force are without it still"
    assert await checks.vault.look(answering(make_live())) == []


async def test_a_file_that_cannot_be_read_is_named(live: LiveSettings) -> None:
    live.home.config.write_text("{ broken")
    live.replace(live.load())
    (finding,) = await checks.configuration.look(answering(live))
    assert finding.subject == "file"
    assert str(live.home.config) in finding.message


async def test_the_storage_is_checked_by_a_write_that_leaves_nothing_behind(
    live: LiveSettings, store: Supervisor, running: Running
) -> None:
    async with running(Supervisor("root", [store])) as system:
        for _ in range(3):
            assert await checks.storage.look(around(live, system)) == []
        await system.ask(RevokeToken(digest="real", expires_at=utc_now() + timedelta(hours=1)))
        assert await checks.storage.look(around(live, system)) == []
        assert [revoked.digest for revoked in await system.ask(ListRevokedTokens())] == ["real"]
    with closing(sqlite3.connect(live.home.database)) as connection:
        rows = connection.execute("SELECT digest FROM revoked_tokens ORDER BY digest").fetchall()
    assert rows == [("real",)]


async def test_a_store_that_takes_no_write_is_critical_and_says_why(
    live: LiveSettings, store: Supervisor, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketpaw.storage.database._PRAGMAS", ("PRAGMA busy_timeout = 20",))
    async with running(Supervisor("root", [store])) as system:
        await system.ask(ListRevokedTokens())
        with closing(sqlite3.connect(live.home.database, isolation_level=None)) as another_process:
            another_process.execute("BEGIN EXCLUSIVE")
            findings = await checks.storage.look(around(live, system))
        assert await checks.storage.look(around(live, system)) == []
    (finding,) = findings
    assert finding.status == "critical"
    assert "another process holds it locked" in finding.message


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (Unavailable("the database x cannot be used: the disk is full"), "Make room"),
        (displaced(Path("x")), "Put the file back"),
        (NeedsOperator("database_url is not a database address"), "Correct database_url"),
    ],
)
async def test_what_to_do_depends_on_what_is_wrong_with_the_store(
    live: LiveSettings, error: PocketPawError, hint: str
) -> None:
    (finding,) = await checks.storage.look(answering(live, error))
    assert finding.message == error.detail
    assert hint in finding.fix_hint


async def test_a_sound_database_is_read_from_end_to_end(
    live: LiveSettings, store: Supervisor, running: Running
) -> None:
    async with running(Supervisor("root", [store])) as system:
        assert await checks.database.look(around(live, system)) == []


async def test_damage_that_comes_while_the_daemon_runs_is_found(live: LiveSettings) -> None:
    small, bad = StorageReport("sqlite:///x.db", MB, None), StorageReport("sqlite:///x.db", MB, "page 7 is lost")
    (finding,) = await checks.database.look(answering(live, small, bad))
    assert finding.status == "critical"
    assert finding.message == "the database sqlite:///x.db is damaged: page 7 is lost"


async def test_a_huge_database_is_not_read_from_end_to_end(live: LiveSettings) -> None:
    assert await checks.database.look(answering(live, StorageReport("x", checks.READ_WHOLE_BYTES + 1, None))) == []


@pytest.mark.parametrize(
    ("free", "status"),
    [(600 * MB, None), (500 * MB, None), (499 * MB, "warning"), (50 * MB, "warning"), (49 * MB, "critical")],
)
async def test_disk_space_has_two_thresholds(
    live: LiveSettings, monkeypatch: pytest.MonkeyPatch, free: int, status: str | None
) -> None:
    def disk_usage(_: object) -> SimpleNamespace:
        return SimpleNamespace(free=free)

    monkeypatch.setattr(checks.shutil, "disk_usage", disk_usage)
    findings = await checks.disk_space.look(answering(live))
    assert [finding.status for finding in findings] == ([status] if status else [])
    if findings:
        assert f"{free // MB} MB are left on the disk of {live.home.root}" == findings[0].message


async def test_a_home_folder_that_has_gone_is_critical(live: LiveSettings) -> None:
    shutil.rmtree(live.home.root)
    (finding,) = await checks.disk_space.look(answering(live))
    assert finding.status == "critical"
    assert f"{live.home.root} cannot be seen" in finding.message


async def test_a_disk_that_hangs_takes_one_thread_however_often_it_is_looked_at(
    live: LiveSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go, callers = threading.Event(), [0]

    def hang(_: object) -> SimpleNamespace:
        callers[0] += 1
        let_go.wait(10)
        return SimpleNamespace(free=checks.DISK_WARNING_BYTES)

    monkeypatch.setattr(checks.shutil, "disk_usage", hang)
    for _ in range(3):
        with trio.move_on_after(0.05):
            await checks.disk_space.look(answering(live))
    assert callers[0] == 1
    let_go.set()
    with trio.fail_after(2):
        assert await checks.disk_space.look(answering(live)) == []


def backend(name: str, *, available: bool) -> BackendState:
    return BackendState(name, "m", available, "" if available else "connection refused", 1.0)


@pytest.mark.parametrize(
    ("states", "found"),
    [
        ([True, True], []),
        ([False, True], [("warning", "b0")]),
        ([True, False], [("warning", "b1")]),
        ([False, False], [("critical", "b0"), ("critical", "b1")]),
    ],
)
async def test_a_missing_backend_is_a_warning_while_another_one_answers(
    live: LiveSettings, states: list[bool], found: list[tuple[str, str]]
) -> None:
    backends = [backend(f"b{number}", available=state) for number, state in enumerate(states)]
    findings = await checks.models.look(answering(live, backends))
    assert [(finding.status, finding.subject) for finding in findings] == found
    assert all("connection refused" in finding.message for finding in findings)


async def test_a_router_that_is_down_is_critical(live: LiveSettings) -> None:
    (finding,) = await checks.models.look(answering(live, Unavailable("models/router is down: bad key")))
    assert (finding.status, "bad key" in finding.message) == ("critical", True)


class Break(Message[Done], to="leaf"):
    """Fail as the leaf is told."""

    transient: bool = False


class Leaf(Actor):
    async def crash(self, message: Break) -> Done:
        raise ExceptionGroup("group", [TransientCrash("gone") if message.transient else ValueError("bug")])


class TransientCrash(Exception):
    pass


class Refused(Actor):
    async def on_start(self) -> None:
        raise NeedsOperator("the token is refused")


class Unreachable(Actor):
    async def on_start(self) -> None:
        raise TransientFailure("the network is down")


class Slow(Actor):
    async def on_start(self) -> None:
        await trio.sleep_forever()


async def test_actors_in_trouble_are_named_with_their_reason(
    live: LiveSettings, running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    tree = Supervisor(
        "root",
        [
            Child(Leaf, restart="temporary"),
            Child(Refused, wait=False, on_limit="park"),
            Child(Unreachable, wait=False, on_limit="park", backoff=Backoff(min_s=60.0, max_s=60.0, jitter=0.0)),
            Child(Slow, wait=False, start_timeout_s=100.0),
            Child(Leaf, id="lazy", lazy=True),
        ],
    )
    async with running(tree) as system:
        await trio.sleep(1)
        early = {finding.subject for finding in await checks.actors.look(around(live, system))}
        await trio.sleep(10)
        findings = {finding.subject: finding for finding in await checks.actors.look(around(live, system))}
    assert early == {"refused", "unreachable"}
    assert set(findings) == {"refused", "unreachable", "slow"}
    assert findings["refused"].message == "refused is down: the token is refused"
    assert findings["refused"].fix_hint.startswith("Correct that, then POST runtime/actors/refused/restart")
    assert "the network is down" in findings["unreachable"].message
    assert "starting for more than 10 s" in findings["slow"].message


async def test_many_actors_in_trouble_are_counted_not_listed(
    live: LiveSettings, running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    dynamic = DynamicSupervisor("mcp")
    async with running(Supervisor("root", [dynamic])) as system, trio.open_nursery() as nursery:
        supervisor = system.nodes["mcp"]
        assert isinstance(supervisor, SupervisorNode)
        for number in range(NAMED + 5):
            spec = Child(Slow, id=f"s-{number}", start_timeout_s=100.0)
            nursery.start_soon(supervisor.start_child, spec)
        await trio.sleep(50)
        findings = await checks.actors.look(around(live, system))
        nursery.cancel_scope.cancel()
    assert len(findings) == NAMED + 1
    assert findings[-1].message == "5 more actors are in trouble"


async def test_what_was_abandoned_is_counted(live: LiveSettings) -> None:
    surroundings = answering(live)
    surroundings.system.abandoned = 2
    (finding,) = await checks.actors.look(surroundings)
    assert finding.message.startswith("2 former incarnations ignore every request to end")


async def test_a_late_loop_is_an_issue(live: LiveSettings) -> None:
    surroundings = answering(live)
    assert await checks.event_loop.look(surroundings) == []
    surroundings.system.watchdog.lag_s = 0.4
    (finding,) = await checks.event_loop.look(surroundings)
    assert finding.message == "the loop is 0.40 s late"


async def test_of_several_hitches_in_one_place_the_latest_counts(live: LiveSettings, running: Running) -> None:
    now = utc_now()
    hitches = [
        Hitch(now - timedelta(seconds=checks.RECENT_S + 1), "old", "long over"),
        Hitch(now - timedelta(seconds=2), "store/writer", "RecordError has been running for 2.1 s"),
        Hitch(now - timedelta(seconds=1), "store/writer", "RecordError has been running for 4.0 s"),
        Hitch(now, "", "the loop stood still for 0.30 s"),
    ]
    async with running(EMPTY) as system:
        findings = await checks.event_loop.look(around(live, system, *hitches))
    assert [finding.message for finding in findings] == [
        "store/writer: RecordError has been running for 4.0 s",
        "the daemon: the loop stood still for 0.30 s",
    ]


def test_a_check_is_one_function() -> None:
    async def nothing_wrong(_: Surroundings) -> list[Finding]:
        return []

    try:
        made = checks.check("Nothing", "test", every_s=1.0)(nothing_wrong)
        assert made == Check("nothing_wrong", "Nothing", "test", 1.0, 5.0, nothing_wrong)
        assert checks.CHECKS["nothing_wrong"] is made
    finally:
        checks.CHECKS.pop("nothing_wrong", None)


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ("connected", []),
        ("backoff", []),  # for the check of the actors to say
        ("connecting", ["the tunnel at https://a.example has no connection"]),
        ("stopping", ["the tunnel is closed, and cloudflared has not ended yet"]),
    ],
)
async def test_a_tunnel_that_leads_nowhere_or_does_not_end_is_named(
    live: LiveSettings, state: TunnelState, found: list[str]
) -> None:
    live.is_tunnelled = True
    status = TunnelStatus(active=True, url="https://a.example", state=state)
    findings = await checks.tunnel.look(answering(live, status))
    assert [finding.message for finding in findings] == found


async def test_of_a_tunnel_that_is_closed_nobody_is_asked(live: LiveSettings) -> None:
    assert await checks.tunnel.look(answering(live)) == []


async def test_messages_that_could_not_be_delivered_are_told_by_channel(live: LiveSettings) -> None:
    problems = ["telegram: 2 messages could not be delivered in the last 24 hours"]
    check = checks.CHECKS["channels"]
    (found,) = await check.look(answering(live, problems))
    assert (found.status, found.message, found.subject) == ("warning", problems[0], "telegram")
    assert await check.look(answering(live, [])) == []

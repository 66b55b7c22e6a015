"""API keys from their making to their end, with the guard that judges by them and a real store."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
from pocketpaw.actors.access.api_keys import ApiKeys, CreateApiKey, ListApiKeys, NewApiKey, RevokeApiKey, RotateApiKey
from pocketpaw.actors.access.guard import (
    Authenticate,
    CreateLoginCode,
    CreateSessionToken,
    Guard,
    LoginWithCode,
    Verdict,
)
from pocketpaw.actors.access.session_tokens import SessionTokens
from pocketpaw.actors.settings import LiveSettings, RegenerateToken, SettingsKeeper
from pocketpaw.runtime import ActorSystem, Child, Message, Principal, Supervisor
from pocketpaw.runtime.errors import Conflict, Forbidden, InvalidInput, NotFound, PocketPawError, Unauthenticated
from pocketpaw.storage.api_keys import EndApiKey, LoadApiKeys
from structlog.testing import capture_logs

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
OpenHouse = Callable[[], AbstractAsyncContextManager[ActorSystem]]

WITH_KEY = Principal("key:k-1", frozenset({"admin"}))
WITH_SESSION = Principal("session", frozenset({"admin"}))


@pytest.fixture
def house(live: LiveSettings, store: Supervisor, running: Running) -> OpenHouse:
    @asynccontextmanager
    async def open_house() -> AsyncGenerator[ActorSystem]:
        access = Supervisor("access", [Child(ApiKeys, id="keys")])
        settings = Child(SettingsKeeper, live, id="settings")
        async with running(Supervisor("root", [store, settings, Child(Guard, live), access])) as system:
            yield system

    return open_house


async def judge(system: ActorSystem, credential: str, **more: str) -> Verdict:
    facts = {"peer": "192.0.2.7", "host": "192.0.2.1:8888", "origin": None, "method": "GET", **more}
    return await system.ask(Authenticate(bearer=credential, forwarded=False, **facts))  # pyright: ignore[reportArgumentType] - texts all


async def create(system: ActorSystem, *scopes: str, **more: object) -> NewApiKey:
    message = {"name": "a key", "scopes": list(scopes or ("chat",)), **more}
    return await system.ask(CreateApiKey(**message))  # pyright: ignore[reportArgumentType] - given by the test


async def test_a_new_key_is_let_in_with_its_scopes_and_no_others(house: OpenHouse) -> None:
    async with house() as system:
        made = await create(system, "chat", "memory", "chat")
        verdict = await judge(system, made.key)
        assert verdict.principal == Principal(f"key:{made.id}", frozenset({"chat", "memory"}))
        assert verdict.credential_kind == "api_key"
        assert made.key.startswith("pp_")
        assert made.prefix == made.key[:12]
        assert (await judge(system, made.key + "x")).outcome == "unauthenticated"
        assert (await judge(system, made.prefix)).outcome == "unauthenticated"
        assert made.key not in repr(await system.ask(ListApiKeys()))


async def test_a_revoked_key_is_refused_at_once_and_after_a_restart(house: OpenHouse) -> None:
    async with house() as system:
        made = await create(system)
        kept = await create(system)
        await system.ask(RevokeApiKey(key_id=made.id))
        refused = await judge(system, made.key)
        await system.root.restart_child("guard")
        assert (await judge(system, made.key)).reason == "the credential has been revoked"
        assert (await judge(system, kept.key)).outcome == "allowed"
        with pytest.raises(NotFound):
            await system.ask(RevokeApiKey(key_id="none"))
    assert (refused.outcome, refused.reason) == ("unauthenticated", "the credential has been revoked")


async def test_what_a_dead_keeper_told_nobody_is_learned(house: OpenHouse) -> None:
    async with house() as system:
        made = await create(system)
        await system.ask(EndApiKey(key_id=made.id))  # on disk, but the guard has not heard of it
        assert (await judge(system, made.key)).outcome == "allowed"
        await system.root.restart_child("access")
        with trio.fail_after(5):
            while (await judge(system, made.key)).reason != "the credential has been revoked":  # noqa: ASYNC110 a thread reads it
                await trio.sleep(0.1)


async def test_an_expired_key_is_no_guess(house: OpenHouse) -> None:
    async with house() as system:
        made = await create(system, expires_at=datetime.now(UTC) + timedelta(milliseconds=200))
        assert (await judge(system, made.key)).outcome == "allowed"
        await trio.sleep(0.25)
        verdicts = [await judge(system, made.key) for _ in range(20)]
    assert {verdict.reason for verdict in verdicts} == {"the credential has expired"}


async def test_a_key_cannot_be_born_expired(house: OpenHouse) -> None:
    async with house() as system:
        with pytest.raises(InvalidInput) as refused:
            await create(system, expires_at=datetime.now(UTC))
        assert refused.value.data["field"] == "expires_at"
        assert await system.ask(ListApiKeys()) == []


async def test_a_rotated_key_does_the_same_and_the_old_one_nothing(house: OpenHouse) -> None:
    async with house() as system:
        old = await create(system, "kits", name="backup")
        new = await system.ask(RotateApiKey(key_id=old.id))
        assert (new.name, new.scopes, new.key != old.key) == ("backup", ["kits"], True)
        assert (await judge(system, old.key)).outcome == "unauthenticated"
        assert (await judge(system, new.key)).outcome == "allowed"
        with pytest.raises(Conflict):
            await system.ask(RotateApiKey(key_id=old.id))
        with pytest.raises(NotFound):
            await system.ask(RotateApiKey(key_id="none"))


async def test_nobody_gives_a_key_what_they_do_not_have(house: OpenHouse) -> None:
    narrow = Principal("user:ann", frozenset({"chat", "memory"}))
    async with house() as system:
        wide = await create(system, "admin")
        for scopes in (["admin"], ["chat", "sessions"]):
            with pytest.raises(Forbidden):
                await system.ask(CreateApiKey(name="wider", scopes=scopes), principal=narrow)  # pyright: ignore[reportArgumentType]
        with pytest.raises(Forbidden):
            await system.ask(CreateApiKey(name="default"), principal=narrow)
        with pytest.raises(Forbidden):
            await system.ask(RotateApiKey(key_id=wide.id), principal=narrow)
        made = await system.ask(CreateApiKey(name="as wide", scopes=["chat", "memory"]), principal=narrow)
        assert made.scopes == ["chat", "memory"]
        assert (await judge(system, wide.key)).outcome == "allowed"


async def test_the_last_use_is_shown_at_once_and_kept_when_the_guard_stops(house: OpenHouse) -> None:
    async with house() as system:
        made = await create(system)
        assert [key.last_used_at for key in await system.ask(ListApiKeys())] == [None]
        await judge(system, made.key)
        (shown,) = await system.ask(ListApiKeys())
        assert shown.last_used_at is not None
        assert [key.last_used_at for key in await system.ask(LoadApiKeys())] == [None], "not a write for each request"
        await system.root.restart_child("guard")
        assert [key.last_used_at for key in await system.ask(LoadApiKeys())] == [shown.last_used_at]


async def test_a_key_makes_nothing_that_would_outlive_it(house: OpenHouse) -> None:
    async with house() as system:
        messages: list[Message[Any]] = [CreateSessionToken(), CreateLoginCode(), RegenerateToken()]
        for message in messages:
            with pytest.raises(Forbidden):
                await system.ask(message, principal=WITH_KEY)


async def test_a_new_access_token_ends_sessions_and_codes_and_leaves_keys(house: OpenHouse, live: LiveSettings) -> None:
    async with house() as system:
        key = (await create(system)).key
        old, session = live.access_token, (await system.ask(CreateSessionToken())).session_token
        code = (await system.ask(CreateLoginCode())).code
        new = (await system.ask(RegenerateToken())).token
        assert live.home.access_token.read_text().strip() == new == live.access_token
        assert {new, old} <= live.secrets
        assert [(await judge(system, one)).outcome for one in (old, session)] == ["unauthenticated"] * 2
        assert [(await judge(system, one)).outcome for one in (new, key)] == ["allowed"] * 2
        with pytest.raises(Unauthenticated):
            await system.ask(LoginWithCode(code=code))


async def test_a_session_that_begins_with_a_code_ends_with_the_one_that_made_it(
    house: OpenHouse, live: LiveSettings
) -> None:
    async with house() as system:
        ends_at = int(time.time() + 1800)
        session = SessionTokens().make(live.access_token, 1800, time.time())
        made = await system.ask(CreateLoginCode(credential=session), principal=WITH_SESSION)
        derived = (await system.ask(LoginWithCode(code=made.code))).session_token
        assert ends_at - 1 <= int(derived.partition(".")[0]) <= ends_at
        with pytest.raises(Unauthenticated):
            await system.ask(LoginWithCode(code=made.code))
        with pytest.raises(Forbidden):
            await system.ask(CreateLoginCode(credential="x"), principal=WITH_SESSION)


async def test_what_is_done_with_keys_is_in_the_log_and_no_key_is(house: OpenHouse) -> None:
    with capture_logs() as logged:
        async with house() as system:
            made = await create(system)
            rotated = await system.ask(RotateApiKey(key_id=made.id))
            await system.ask(RevokeApiKey(key_id=rotated.id))
            with pytest.raises(PocketPawError):
                await system.ask(RevokeApiKey(key_id="none"))
    assert [entry["event"] for entry in logged if entry["event"].startswith("API key")] == [
        "API key created",
        "API key rotated",
        "API key revoked",
    ]
    assert not [entry for entry in logged if made.key in repr(entry) or rotated.key in repr(entry)]

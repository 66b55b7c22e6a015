from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
from pocketpaw.actors.settings import (
    Changed,
    ChangeSettings,
    GetSettings,
    LiveSettings,
    RotateVaultKey,
    SettingsKeeper,
    VaultRotated,
)
from pocketpaw.config import open_home
from pocketpaw.runtime import ActorSystem, Child, Message, Supervisor
from pocketpaw.runtime.errors import InvalidInput, Unavailable
from structlog.testing import capture_logs

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
MakeLive = Callable[..., LiveSettings]

SECRET = "sk-0123456789abcdefghij-1234"


def tree(live: LiveSettings) -> Supervisor:
    return Supervisor("root", [Child(SettingsKeeper, live, id="settings")])


def on_disk(live: LiveSettings) -> dict[str, object]:
    return json.loads(live.home.config.read_text())


async def test_a_change_is_saved_and_in_force_at_once(live: LiveSettings, running: Running) -> None:
    async with running(tree(live)) as system:
        changed = await system.ask(ChangeSettings(changes={"ollama_model": "qwen3", "turn_timeout_s": 30}))
    assert changed == Changed("ok", ["ollama_model", "turn_timeout_s"], [], [])
    assert (live.current.ollama_model, live.current.turn_timeout_s) == ("qwen3", 30.0)
    assert on_disk(live) == {"ollama_model": "qwen3", "turn_timeout_s": 30.0}


async def test_secrets_are_shown_masked_and_a_mask_that_is_written_back_changes_nothing(
    live: LiveSettings, running: Running
) -> None:
    async with running(tree(live)) as system:
        await system.ask(ChangeSettings(changes={"openai_compatible_api_key": SECRET}))
        shown = await system.ask(GetSettings())
        changed = await system.ask(ChangeSettings(changes=shown))
    assert shown["openai_compatible_api_key"] == "sk-…1234"
    assert SECRET not in repr(shown)
    assert changed.updated == []
    assert live.current.openai_compatible_api_key == SECRET
    assert on_disk(live) == {}
    assert live.vault.read() == {"settings/openai_compatible_api_key": SECRET}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"ollama_model": "x", "web_port": "high"}, "web_port"),
        ({"ollama_model": "x", "no_such_setting": 1}, "no_such_setting"),
        ({"ollama_model": "x", "turn_timeout_s": -1}, "turn_timeout_s"),
    ],
)
async def test_one_bad_value_is_named_and_nothing_is_changed(
    live: LiveSettings, running: Running, changes: dict[str, object], field: str
) -> None:
    async with running(tree(live)) as system:
        with pytest.raises(InvalidInput) as caught:
            await system.ask(ChangeSettings(changes=changes))
    assert caught.value.data["field"] == ["body", field]
    assert live.current.ollama_model == "llama3.2"
    assert not live.home.config.exists()


async def test_null_goes_back_to_the_default(live: LiveSettings, running: Running) -> None:
    async with running(tree(live)) as system:
        await system.ask(ChangeSettings(changes={"ollama_model": "qwen3"}))
        await system.ask(ChangeSettings(changes={"ollama_model": None}))
    assert live.current.ollama_model == "llama3.2"
    assert on_disk(live) == {}


async def test_a_bad_value_in_the_file_is_mended_through_the_api(live: LiveSettings, running: Running) -> None:
    live.home.config.write_text('{"web_port": "high", "turn_timeout_s": "long"}')
    live.replace(live.load())
    assert len(live.problems) == 2
    async with running(tree(live)) as system:
        changed = await system.ask(ChangeSettings(changes={"web_port": 8888, "turn_timeout_s": None}))
    assert changed.updated == ["web_port", "turn_timeout_s"]
    assert live.problems == ()
    assert on_disk(live) == {"web_port": 8888}


async def test_changes_at_the_same_time_do_not_lose_one_another(live: LiveSettings, running: Running) -> None:
    names = ["ollama_model", "litellm_model", "openrouter_model", "gemini_model", "anthropic_model"]
    async with running(tree(live)) as system, trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(system.ask, ChangeSettings(changes={name: f"my-{name}"}))
    assert on_disk(live) == {name: f"my-{name}" for name in names}
    assert all(getattr(live.current, name) == f"my-{name}" for name in names)


async def test_what_needs_a_restart_and_what_is_overridden_is_said(make_live: MakeLive, running: Running) -> None:
    live = make_live(ollama_model="from-the-command-line")
    async with running(tree(live)) as system:
        changed = await system.ask(ChangeSettings(changes={"database_url": "sqlite:////x.db", "ollama_model": "qwen3"}))
        back = await system.ask(ChangeSettings(changes={"database_url": None}))
    assert changed.restart_needed == ["database_url"]
    assert changed.overridden == ["ollama_model"]
    assert live.current.ollama_model == "from-the-command-line"
    assert live.at_start.database_url == ""
    assert back.restart_needed == []


async def test_a_file_that_cannot_be_read_is_not_written_over(live: LiveSettings, running: Running) -> None:
    live.home.config.write_text("{ broken")
    async with running(tree(live)) as system:
        with pytest.raises(Unavailable, match="correct that file first"):
            await system.ask(ChangeSettings(changes={"ollama_model": "qwen3"}))
    assert live.home.config.read_text() == "{ broken"
    assert live.current.ollama_model == "llama3.2"


async def test_a_save_that_fails_leaves_everything_as_it_was(
    live: LiveSettings, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async with running(tree(live)) as system:
        monkeypatch.setattr("pocketpaw.actors.settings.save", full)
        with pytest.raises(Unavailable, match="No space left on device"):
            await system.ask(ChangeSettings(changes={"ollama_model": "qwen3"}))
        assert await system.ask(GetSettings())
    assert live.current.ollama_model == "llama3.2"


async def test_a_change_is_told_without_its_values(live: LiveSettings, running: Running) -> None:
    async with running(tree(live)) as system:
        with system.bus.subscribe("events") as events:
            await system.ask(ChangeSettings(changes={"telegram_bot_token": SECRET}))
            (event,) = await events.take()
    assert event.name == "settings_changed"
    assert event.data()["metadata"] == {"updated": ["telegram_bot_token"]}
    assert SECRET not in repr(event.data())


async def test_the_last_good_file_is_kept_at_start(live: LiveSettings, running: Running) -> None:
    live.home.config.write_text('{"ollama_model": "edited"}')
    async with running(tree(live)):
        pass
    assert json.loads(live.home.last_good.read_text()) == {"ollama_model": "edited"}


async def test_a_secret_that_was_replaced_stays_secret(live: LiveSettings, running: Running) -> None:
    async with running(tree(live)) as system:
        await system.ask(ChangeSettings(changes={"telegram_bot_token": SECRET}))
        await system.ask(ChangeSettings(changes={"telegram_bot_token": "another-token-of-the-bot"}))
    assert {SECRET, "another-token-of-the-bot", live.access_token} <= live.secrets


async def test_a_secret_in_the_file_is_moved_to_the_vault_at_start_and_that_is_logged_without_it(
    make_live: MakeLive, running: Running
) -> None:
    home = make_live().home
    home.config.write_text(json.dumps({"telegram_bot_token": SECRET, "ollama_model": "qwen3"}))
    live = make_live()
    with capture_logs() as logged:
        async with running(tree(live)):
            assert (live.current.telegram_bot_token, live.loaded.sources["telegram_bot_token"]) == (SECRET, "vault")
    assert on_disk(live) == json.loads(home.last_good.read_text()) == {"ollama_model": "qwen3"}
    (line,) = [line for line in logged if "vault" in line["event"]]
    assert line["setting"] == "telegram_bot_token"
    assert SECRET not in repr(logged)
    assert make_live().current.telegram_bot_token == SECRET


async def test_while_the_vault_cannot_be_opened_no_secret_is_changed_and_nothing_is_overwritten(
    make_live: MakeLive, running: Running
) -> None:
    live = make_live()
    async with running(tree(live)) as system:
        await system.ask(ChangeSettings(changes={"telegram_bot_token": SECRET}))
    live.home.vault_key.chmod(0o644)
    live = make_live()
    before = live.home.vault.read_bytes(), live.home.vault_key.read_bytes()
    refusals: list[Message[Any]] = [
        ChangeSettings(changes={"telegram_bot_token": "another-token-of-the-bot"}),
        ChangeSettings(changes={"telegram_bot_token": None}),
        RotateVaultKey(),
    ]
    async with running(tree(live)) as system:
        shown = await system.ask(GetSettings())
        for refused in refusals:
            with pytest.raises(Unavailable, match="chmod 600"):
                await system.ask(refused)
        with pytest.raises(Unavailable, match="chmod 600"):
            live.secret("webhooks/door")
        with pytest.raises(Unavailable, match="chmod 600"):
            await live.keep_secrets({"webhooks/door": "x"})
        changed = await system.ask(ChangeSettings(changes={**shown, "ollama_model": "qwen3"}))
    assert changed.updated == ["ollama_model"], "what was shown and is written back is no change"
    assert (live.home.vault.read_bytes(), live.home.vault_key.read_bytes()) == before
    live.home.vault_key.chmod(0o600)
    assert make_live().current.telegram_bot_token == SECRET


async def test_the_vaults_key_is_renewed_while_the_daemon_runs(live: LiveSettings, running: Running) -> None:
    async with running(tree(live)) as system:
        await system.ask(ChangeSettings(changes={"telegram_bot_token": SECRET}))
        await live.keep_secrets({"webhooks/door": "the-webhooks-secret"})
        before = live.home.vault_key.read_bytes()
        assert await system.ask(RotateVaultKey()) == VaultRotated(2)
    assert live.home.vault_key.read_bytes() != before
    assert live.vault.read() == {"settings/telegram_bot_token": SECRET, "webhooks/door": "the-webhooks-secret"}


async def test_other_secrets_are_kept_on_disk_and_hidden_from_logs_now_and_after_a_restart(make_live: MakeLive) -> None:
    live = make_live()
    await live.keep_secrets({"webhooks/door": "the-webhooks-secret", "mcp/x/env/NODE_ENV": "production"})
    assert "the-webhooks-secret" in live.secrets
    again = make_live()
    assert again.secret("webhooks/door") == "the-webhooks-secret"
    assert "the-webhooks-secret" in again.secrets
    assert "production" not in again.secrets, "it would blacken every log"
    await again.keep_secrets({"webhooks/door": None})
    assert again.secret("webhooks/door") is None


def test_the_access_token_stays_the_same_from_start_to_start(make_live: MakeLive) -> None:
    assert (
        make_live().access_token
        == make_live().access_token
        == open_home(make_live().home.root).access_token.read_text().strip()
    )

"""What each security check finds, and what it leaves alone."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import msgspec
import pytest
from pocketpaw.actors.audit import access_checks, agent_checks, auditor, file_checks, upkeep_checks
from pocketpaw.actors.audit.security_check import Premises, SecurityCheck, Seen
from pocketpaw.actors.audit.trail import AuditVerdict, VerifyAudit
from pocketpaw.actors.settings import ChangeSettings, LiveSettings
from pocketpaw.config import VaultError
from pocketpaw.runtime import Message
from pocketpaw.storage.api_keys import ApiKey, LoadApiKeys
from pocketpaw.storage.audit import AuditHead
from pocketpaw.storage.soundness import CheckStorage, StorageReport

MakeLive = Callable[..., LiveSettings]
NOW = datetime.now(UTC)


def answering(answers: dict[type[Message[Any]], object]) -> Callable[..., Awaitable[Any]]:
    async def ask(message: Message[Any], *, timeout_s: float = 30.0) -> Any:
        return answers[type(message)]

    return ask


async def look(check: SecurityCheck, live: LiveSettings, **answers: object) -> Seen:
    by_type: dict[type[Message[Any]], object] = {
        LoadApiKeys: answers.get("keys", []),
        VerifyAudit: answers.get("audit", AuditVerdict(3, [], [], AuditHead(3, "h"))),
        CheckStorage: answers.get("storage", StorageReport("sqlite:///x", 1, None)),
    }
    return await check.look(Premises(live, answering(by_type)))


@pytest.mark.parametrize("module", [access_checks, agent_checks, file_checks, upkeep_checks])
def test_every_check_that_is_written_is_run(module: ModuleType) -> None:
    written = [value for value in vars(module).values() if isinstance(value, SecurityCheck)]
    assert written == list(module.CHECKS)
    assert set(written) <= set(auditor.CHECKS)


def test_no_two_checks_have_one_name() -> None:
    names = [check.name for check in auditor.CHECKS]
    assert len(set(names)) == len(names)


async def test_a_new_home_is_safe_but_for_who_runs_it(live: LiveSettings) -> None:
    failed = {check.name for check in auditor.CHECKS if not (await look(check, live)).passed}
    assert failed <= {"User"}


@pytest.mark.parametrize(
    ("check", "settings", "named"),
    [
        (access_checks.encryption, {"web_host": "0.0.0.0"}, "0.0.0.0"),
        (access_checks.localhost_bypass, {"web_host": "::"}, "localhost_auth_bypass"),
        (access_checks.origins, {"api_cors_allowed_origins": ["https://a.example", "*"]}, "*"),
        (access_checks.origins, {"api_cors_allowed_origins": ["null"]}, "null"),
        (access_checks.origins, {"api_cors_allowed_origins": ["http://a.example"]}, "http://a.example"),
        (access_checks.rate_limits, {"auth_rate_limit_per_peer": 0}, "auth_rate_limit_per_peer"),
        (agent_checks.tool_rules, {"tools_allow": ["read_*", "shell"]}, "shell"),
        (agent_checks.tool_rules, {"tools_allow": ["telegram@shell(*)"]}, "telegram@shell(*)"),
        (agent_checks.tool_rules, {"tools_allow": ["*"]}, "*"),
        (agent_checks.injection_scan, {"injection_scan_enabled": False}, "injection_scan_enabled"),
        (agent_checks.file_jail, {"file_jail_path": "/"}, "file_jail_path"),
        (agent_checks.channels, {"discord_bot_token": "abc"}, "discord_allowed_user_ids"),
        (upkeep_checks.log_level, {"log_level": "debug"}, "log_level"),
        (upkeep_checks.self_audit, {"self_audit_enabled": False}, "self_audit_enabled"),
    ],
)
async def test_an_open_setting_is_found_and_named(
    make_live: MakeLive, check: SecurityCheck, settings: dict[str, object], named: str
) -> None:
    seen = await look(check, make_live(**settings))
    assert not seen.passed
    assert named in seen.message


@pytest.mark.parametrize(
    ("check", "settings"),
    [
        (access_checks.encryption, {"web_host": "::1"}),
        (access_checks.localhost_bypass, {"web_host": "::", "localhost_auth_bypass": False}),
        (access_checks.origins, {"api_cors_allowed_origins": ["https://a.example", "http://localhost:5173"]}),
        (agent_checks.tool_rules, {"tools_allow": ["shell(git *)", "read_*", "web_fetch"]}),
        (agent_checks.channels, {"discord_bot_token": "abc", "discord_allowed_user_ids": [42]}),
        (agent_checks.channels, {"telegram_bot_token": "abc"}),
    ],
)
async def test_a_narrow_setting_passes(make_live: MakeLive, check: SecurityCheck, settings: dict[str, object]) -> None:
    assert (await look(check, make_live(**settings))).passed


@pytest.mark.parametrize(
    ("check", "settings", "changes"),
    [
        (
            access_checks.rate_limits,
            {"auth_rate_limit_per_peer": 3, "api_rate_limit_per_key": 0},
            {"api_rate_limit_per_key": None},
        ),
        (
            access_checks.origins,
            {"api_cors_allowed_origins": ["https://a.example", "http://b.example"]},
            {"api_cors_allowed_origins": ["https://a.example"]},
        ),
    ],
)
async def test_a_repair_changes_nothing_that_is_in_order(
    make_live: MakeLive, check: SecurityCheck, settings: dict[str, object], changes: dict[str, object]
) -> None:
    asked: list[Message[Any]] = []

    async def ask(message: Message[Any], *, timeout_s: float = 30.0) -> Any:
        asked.append(message)

    assert check.repair is not None
    await check.repair(Premises(make_live(**settings), ask))
    assert asked == [ChangeSettings(changes=changes)]


async def test_the_bypass_is_told_while_a_tunnel_is_open(live: LiveSettings) -> None:
    live.is_tunnelled = True
    assert not (await look(access_checks.localhost_bypass, live)).passed


async def test_a_token_that_can_be_guessed_or_is_old_is_found(live: LiveSettings) -> None:
    path = live.home.access_token
    for weak in ("password-password", "a" * 43, "abcabcabcabcabcabcabcabcabcabcabcabc"):
        live.access_token = weak
        seen = await look(access_checks.access_token_strength, live)
        assert not seen.passed
        assert weak not in seen.message
    old = (NOW - timedelta(days=400)).timestamp()
    os.utime(path, (old, old))
    seen = await look(access_checks.access_token_age, live)
    assert "400 days old" in seen.message
    assert not seen.passed


def key(**changes: object) -> ApiKey:
    made = ApiKey("k1", "mine", "pp_abcdefghi", ["chat"], NOW, NOW, None, revoked=False)
    return msgspec.structs.replace(made, **changes)


async def test_keys_are_looked_at_while_they_let_somebody_in(live: LiveSettings) -> None:
    past, future = NOW - timedelta(days=100), NOW + timedelta(days=1)
    powerful, unused = access_checks.powerful_keys, access_checks.unused_keys
    assert not (await look(powerful, live, keys=[key(scopes=["admin"])])).passed
    for harmless in ({"expires_at": future}, {"revoked": True}, {"scopes": ["chat"]}):
        assert (await look(powerful, live, keys=[key(**{"scopes": ["admin"], **harmless})])).passed
    for stale in ({"last_used_at": past}, {"last_used_at": None, "created_at": past}):
        seen = await look(unused, live, keys=[key(**stale)])
        assert "mine (pp_abcdefghi…)" in seen.message
        assert not seen.passed
    for fresh in ({}, {"last_used_at": None}, {"last_used_at": past, "revoked": True}, {"created_at": past}):
        assert (await look(unused, live, keys=[key(**fresh)])).passed


async def test_what_others_could_read_is_found_and_mended(live: LiveSettings) -> None:
    root = live.home.root
    for name in ("config.json", "mcp_servers.json", "vault.key", "pocketpaw.db", "pocketpaw.db.backup-1"):
        path = root / name
        path.write_text("{}")
        path.chmod(0o640)
        for check in (file_checks.home_folder, file_checks.secret_files):
            assert check.repair is not None
        seen = await look(file_checks.secret_files, live)
        assert not seen.passed
        assert name in seen.message
        await file_checks.secret_files.repair(Premises(live, answering({})))  # pyright: ignore[reportOptionalCall]
        assert path.stat().st_mode & 0o777 == 0o600
        assert (await look(file_checks.secret_files, live)).passed
    root.chmod(0o770)
    assert not (await look(file_checks.home_folder, live)).passed
    await file_checks.home_folder.repair(Premises(live, answering({})))  # pyright: ignore[reportOptionalCall]
    assert (await look(file_checks.home_folder, live)).passed


async def test_a_secret_in_the_configuration_file_is_found(live: LiveSettings) -> None:
    live.loaded = msgspec.structs.replace(
        live.loaded, sources={**live.loaded.sources, "anthropic_api_key": "config.json", "log_level": "config.json"}
    )
    seen = await look(file_checks.secrets_in_the_clear, live)
    assert "anthropic_api_key" in seen.message
    assert "log_level" not in seen.message
    assert not seen.passed


async def test_a_vault_that_stays_closed_is_found(live: LiveSettings) -> None:
    live.vault.problem = VaultError(live.home.root, "the key does not fit", "Put the right one there.")
    assert "the key does not fit" in (await look(file_checks.vault, live)).message


def put_servers(live: LiveSettings, *servers: dict[str, object]) -> None:
    (live.home.root / "mcp_servers.json").write_text(json.dumps({"servers": servers}))


async def test_a_server_that_is_fetched_without_a_version_is_found(live: LiveSettings) -> None:
    check = agent_checks.mcp_versions
    for command, args in (
        ("npx", ["-y", "some-server"]),
        ("/usr/bin/uvx", ["x"]),
        ("npx", ["@a/b@latest"]),
        ("npx", []),
    ):
        put_servers(live, {"name": "loose", "command": command, "args": args})
        seen = await look(check, live)
        assert not seen.passed, args
        assert "loose" in seen.message
    put_servers(
        live,
        {"name": "a", "command": "npx", "args": ["-y", "@scope/server@1.2.3"]},
        {"name": "b", "command": "uvx", "args": ["server==0.6"]},
        {"name": "c", "command": "/opt/server", "args": []},
        {"name": "d", "url": "https://mcp.example"},
        {"name": "e", "command": "npx", "args": ["x"], "enabled": False},
        {"no": "server"},
    )
    assert (await look(check, live)).passed
    (live.home.root / "mcp_servers.json").write_text("{")
    assert not (await look(check, live)).passed


async def test_what_the_audit_and_the_database_say_is_passed_on(live: LiveSettings) -> None:
    broken = AuditVerdict(3, ["entry 2 was changed"], [], AuditHead(3, "h"))
    seen = await look(upkeep_checks.audit_chain, live, audit=broken)
    assert (seen.passed, "entry 2 was changed" in seen.message) == (False, True)
    away = AuditVerdict(3, [], ["audit-1-5.jsonl"], AuditHead(3, "h"))
    seen = await look(upkeep_checks.audit_chain, live, audit=away)
    assert (seen.passed, "audit-1-5.jsonl" in seen.message) == (True, True)
    damaged = StorageReport("sqlite:///x", 1, "page 7 is torn")
    seen = await look(upkeep_checks.database, live, storage=damaged)
    assert (seen.passed, "page 7 is torn" in seen.message) == (False, True)


async def test_a_database_without_a_copy_is_found_after_a_month(live: LiveSettings) -> None:
    database = live.home.database
    made, copy = database.with_name("pocketpaw.db.made"), database.with_name("pocketpaw.db.backup-1-now")
    made.touch()
    old = (NOW - timedelta(days=31)).timestamp()
    os.utime(made, (old, old))
    assert not (await look(upkeep_checks.backups, live)).passed
    copy.touch()
    assert (await look(upkeep_checks.backups, live)).passed
    os.utime(copy, (old, old))
    assert not (await look(upkeep_checks.backups, live)).passed


@pytest.mark.parametrize("uid", [0, 1000])
async def test_root_is_found(live: LiveSettings, monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert (await look(upkeep_checks.user, live)).passed is (uid != 0)

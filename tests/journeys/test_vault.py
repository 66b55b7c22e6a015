"""Secrets on disk are in the vault and nowhere else, whoever put them where; and what comes of a damaged vault."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from alembic import command
from alembic.config import Config
from pocketpaw.config import SETTINGS, Vault
from pocketpaw.runtime.cli.failure import ExitCode
from pocketpaw.storage.migrate import MIGRATIONS
from sqlalchemy import create_engine

from .conftest import MakeDaemon
from .daemon import Daemon, with_model_server
from .faults import wait_until
from .model_server_process import ModelServerProcess

MCP_SERVER = Path(__file__).parent.parent / "fakes" / "mcp_server.py"
SECRET_SETTINGS = {name: f"canary-{name}-0123456789" for name, row in SETTINGS.items() if row.secret}
IN_ENV, IN_HEADER, IN_WEBHOOK = "canary-in-mcp-env-0123", "canary-in-mcp-header-0123", "canary-in-webhook-0123456789"
CHANNELS = ("telegram", "discord", "slack", "whatsapp", "signal", "matrix", "teams", "google_chat", "gchat")
PLAIN = {
    "channel_autostart": dict.fromkeys(CHANNELS, False),
    "ollama_model": "qwen3",
    "a_key_of_somebody_else": [1, {"x": None}],
}
READ = (
    "settings", "health", "health/errors?limit=500", "runtime/tree", "runtime/dead-letters", "mcp/status", "webhooks",
    "backends", "memory/settings", "agent/status", "sessions", "runtime/actors/mcp/servers/env", "channels/status",
)  # fmt: skip
KILLED_AFTER_S = {"twice": (0.001, 0.02), "often": tuple(number * 0.0015 for number in range(20))}
"""In real time: whenever it comes, all has to be readable. (tests/config/test_vault.py kills at each step.)"""


def answering(model_server: ModelServerProcess) -> dict[str, str]:
    return {**with_model_server(model_server.base_url), "api_rate_limit_per_key": "0"}


def files_with(root: Path, *secrets: str) -> set[str]:
    """The names of the files below `root` in which one of these stands, whatever kind of file it is."""
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return {path.name for path in files if any(secret.encode() in path.read_bytes() for secret in secrets)}


def of_an_older_version(daemon: Daemon) -> None:
    """Make a home in which every secret stands where a version without a vault has put it."""
    root = daemon.home.root
    root.mkdir(parents=True)
    daemon.home.config.write_text(json.dumps({**PLAIN, **SECRET_SETTINGS}))
    daemon.home.last_good.write_text(json.dumps({**PLAIN, **SECRET_SETTINGS, "log_level": "info"}))
    local = {"command": sys.executable, "args": ["-S", str(MCP_SERVER), "--name", "env"], "env": {"KEY": IN_ENV}}
    remote = {"url": "http://127.0.0.1:9/mcp", "headers": {"Authorization": f"Bearer {IN_HEADER}"}, "enabled": False}
    servers = [{"name": "env", "transport": "stdio", **local}, {"name": "remote", "transport": "http", **remote}]
    (root / "mcp_servers.json").write_text(json.dumps({"servers": servers}))
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = create_engine(f"sqlite:///{daemon.home.database}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0009")
    engine.dispose()
    with closing(sqlite3.connect(daemon.home.database)) as database, database:
        database.execute(
            "INSERT INTO webhooks (name, description, secret, created_at) VALUES ('door', '', ?, '2026-01-01 00:00')",
            (IN_WEBHOOK,),
        )


def call_webhook(http: httpx2.Client, secret: str) -> int:
    headers = {"X-Webhook-Secret": secret}
    return http.post("/webhook/inbound/door", content=b"ring", headers=headers).status_code


def of_children(pid: int) -> str:
    """Arguments and environments of the daemon's processes, but of the MCP server that was given its secret."""
    texts = [" ".join(psutil.Process(pid).cmdline()), str(psutil.Process(pid).environ())]
    for process in psutil.Process(pid).children(recursive=True):
        try:
            arguments = process.cmdline()
            texts.append(" ".join(arguments))
            if str(MCP_SERVER) not in arguments and "launcher" not in str(arguments):
                texts.append(str(process.environ()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass  # it has ended meanwhile
    return "\n".join(texts)


def put_settings(http: httpx2.Client, changes: Mapping[str, object]) -> httpx2.Response:
    return http.put("/api/v1/settings", json={"settings": changes})


def test_every_secret_of_an_older_version_moves_into_the_vault_and_stands_nowhere_else(
    make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    daemon = make_daemon(settings=answering(model_server))
    of_an_older_version(daemon)
    root = daemon.home.root
    told: list[str] = []
    expected = dict(SECRET_SETTINGS)
    canaries = [*expected.values(), IN_ENV, IN_HEADER, IN_WEBHOOK]
    for number in range(2):  # as it is moved, and as it is found there
        daemon.start()
        with daemon.http as http:

            def is_connected(http: httpx2.Client = http) -> bool:
                return http.get("/api/v1/mcp/status").json()["env"]["connected"]

            wait_until(is_connected)
            shown = http.get("/api/v1/settings").json()
            for name, secret in expected.items():
                assert shown[name] == f"{secret[:3]}…{secret[-4:]}", name
            assert shown["ollama_model"] == "qwen3"
            assert call_webhook(http, IN_WEBHOOK) == 202
            assert call_webhook(http, "wrong") == 401
            new = f"canary-new-{number}-0123456789"
            canaries.append(new)
            assert put_settings(http, {"telegram_bot_token": new}).json()["updated"] == ["telegram_bot_token"]
            server = {"name": "new", "transport": "stdio", "command": "true", "env": {"KEY": new}, "enabled": False}
            http.post("/api/v1/mcp/add", json=server).raise_for_status()
            made = http.post("/api/v1/webhooks/add", json={"name": f"new-{number}"}).raise_for_status().json()
            canaries.append(made["webhook"]["secret"])
            told += [http.get(f"/api/v1/{path}").text for path in READ]
            with http.stream("GET", "/api/v1/events/stream", headers={"Last-Event-ID": "0"}) as response:
                told.append(next(response.iter_text()))
            told.append(of_children(daemon.pid))
        (daemon.kill if number == 0 else daemon.stop)()
        in_clear = files_with(root, *canaries)
        assert {name.partition(".backup-")[0] for name in in_clear} <= {"pocketpaw.db"}
        assert all(".backup-0009-" in name for name in in_clear), "the copy from before the migration, which is told"
        expected["telegram_bot_token"] = new
        kept = Vault(daemon.home).read()
        assert {name: kept[f"settings/{name}"] for name in expected} == expected
    assert json.loads(daemon.home.config.read_text()) == PLAIN
    assert [canary for canary in canaries if canary in "\n".join([*told, daemon.log])] == []
    assert daemon.log.count("a secret was moved from the configuration file to the vault") >= 1
    assert "a backup of the database from before still holds" in daemon.log


def issue(http: httpx2.Client) -> dict[str, Any]:
    """What the health engine says of the vault, as soon as it has looked."""
    found: list[dict[str, Any]] = []

    def is_told() -> bool:
        issues = http.get("/api/v1/health").raise_for_status().json()["issues"]
        found[:] = [one for one in issues if one["check_id"] == "vault"]
        return bool(found)

    wait_until(is_told)
    return found[0]


def another_key(daemon: Daemon) -> None:
    Vault(daemon.home).rotate()
    shutil.copy2(daemon.folder / "vault", daemon.home.vault)


DAMAGES: dict[str, tuple[Callable[[Daemon], object], str]] = {
    "another key": (another_key, "vault.key"),
    "no key": (lambda daemon: daemon.home.vault_key.unlink(), "vault.key"),
    "a key that others may read": (lambda daemon: daemon.home.vault_key.chmod(0o644), "vault.key"),
    "a vault that was cut off": (lambda daemon: daemon.home.vault.write_bytes(b'{"version": 1, "ent'), "vault"),
}


@pytest.fixture(scope="module")
def home_with_secrets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The home of a daemon that has a few secrets, and one of its webhooks' secrets."""
    daemon = Daemon(tmp_path_factory.mktemp("secrets"))
    daemon.start()
    with daemon.http as http:
        put_settings(http, {"matrix_access_token": "canary-matrix-0123456789"}).raise_for_status()
        made = http.post("/api/v1/webhooks/add", json={"name": "door"}).raise_for_status().json()
    assert daemon.stop() == 0
    return daemon.home.root, made["webhook"]["secret"]


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        pytest.param(*case, id=name, marks=() if name == "another key" else pytest.mark.soak)
        for name, case in DAMAGES.items()
    ],
)
def test_a_vault_that_cannot_be_opened_is_told_and_left_as_it_is_and_the_rest_works(
    damage: Callable[[Daemon], object],
    file: str,
    home_with_secrets: tuple[Path, str],
    make_daemon: MakeDaemon,
    model_server: ModelServerProcess,
) -> None:
    home, secret = home_with_secrets
    daemon = make_daemon(settings=answering(model_server))
    shutil.copytree(home, daemon.home.root)
    files = (daemon.home.vault, daemon.home.vault_key)
    for path in files:
        shutil.copy2(path, daemon.folder / path.name)
    damage(daemon)
    before = [path.read_bytes() if path.exists() else None for path in files]
    daemon.start()
    with daemon.http as http:
        found = issue(http)
        assert found["status"] == "critical"
        assert f"{daemon.home.root / file}: " in found["message"]
        assert str(daemon.home.root) in found["fix_hint"]
        assert http.post("/api/v1/chat", json={"content": "hello"}).status_code == 200
        assert put_settings(http, {"ollama_model": "qwen3"}).json()["updated"] == ["ollama_model"]
        for refused in (
            put_settings(http, {"telegram_bot_token": "canary-telegram-0123456789"}),
            put_settings(http, {"matrix_access_token": None}),
            http.post("/api/v1/webhooks/add", json={"name": "new"}),
            http.post("/api/v1/vault/rotate"),
        ):
            assert refused.status_code == 503, refused.text
            assert f"the vault cannot be opened: {daemon.home.root / file}" in refused.json()["detail"]
        assert call_webhook(http, secret) == 503
    assert f"the vault cannot be opened: {daemon.home.root / file}" in daemon.log, "it is said at the start, too"
    daemon.stop()
    offline = daemon.run("vault", "rotate")
    assert (offline.returncode, str(daemon.home.root / file) in offline.stderr) == (ExitCode.FAILED, True)
    assert [path.read_bytes() if path.exists() else None for path in files] == before
    for path in files:
        shutil.copy2(daemon.folder / path.name, path)
    daemon.start()
    with daemon.http as http:
        assert http.get("/api/v1/settings").json()["matrix_access_token"] == "can…6789"
        assert call_webhook(http, secret) == 202


@pytest.mark.parametrize("kills", ["twice", pytest.param("often", marks=pytest.mark.soak)])
def test_the_key_is_renewed_by_the_command_with_a_daemon_and_without_and_by_a_daemon_that_is_killed(
    kills: str, home_with_secrets: tuple[Path, str], make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    home, secret = home_with_secrets
    daemon = make_daemon(settings=answering(model_server))
    shutil.copytree(home, daemon.home.root)
    keys = [daemon.home.vault_key.read_bytes()]

    def rotate() -> None:
        done = daemon.run("vault", "rotate")
        assert (done.returncode, done.stdout) == (0, "the vault has a new key: 2 secrets sealed anew\n"), done.stderr
        keys.append(daemon.home.vault_key.read_bytes())

    rotate()
    assert daemon.run("vault", "list").stdout == "settings/matrix_access_token\nwebhooks/door\n"
    daemon.start()
    rotate()
    with daemon.http as http:
        assert call_webhook(http, secret) == 202
    assert len(set(keys)) == 3
    for pause_s in KILLED_AFTER_S[kills]:
        renewing = threading.Thread(target=renew_until_it_is_gone, args=(daemon,))
        renewing.start()
        time.sleep(pause_s)
        daemon.kill()
        renewing.join()
        assert set(Vault(daemon.home).read()) == {"settings/matrix_access_token", "webhooks/door"}
        daemon.start()
    with daemon.http as http:
        assert http.get("/api/v1/settings").json()["matrix_access_token"] == "can…6789"
        assert call_webhook(http, secret) == 202
    rotate()
    assert len(keys[-1].splitlines()) == 1, "nothing is left of the keys that were on their way"


def renew_until_it_is_gone(daemon: Daemon) -> None:
    with daemon.http as http, suppress(httpx2.TransportError):
        while True:
            http.post("/api/v1/vault/rotate").raise_for_status()

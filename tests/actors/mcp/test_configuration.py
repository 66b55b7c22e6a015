from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from pocketpaw.actors.mcp import configuration
from pocketpaw.actors.mcp.configuration import Entries, ServerConfig, change, is_secret, load, put
from pocketpaw.config import Home, UnreadableFileError, Vault, VaultError
from pocketpaw.runtime.errors import InvalidInput

TIME = {"name": "time", "transport": "stdio", "command": "uvx", "args": ["mcp-server-time"], "timeout": 30}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mcp_servers.json"


def vault_of(path: Path) -> Vault:
    return Vault(Home(path.parent))


def write(path: Path, *servers: object, **others: object) -> None:
    path.write_text(json.dumps({"servers": servers, **others}))


def test_no_file_holds_no_server(path: Path) -> None:
    assert load(path, vault_of(path)).by_name == {}
    assert not path.exists()


def test_the_file_of_pocketpaw_04_is_read(path: Path) -> None:
    write(path, {**TIME, "url": "", "env": {"A": "b"}, "enabled": False, "registry_ref": "@cmd8/x", "oauth": True})
    config = load(path, vault_of(path)).by_name["time"]
    assert (config.command, config.args, config.env, config.enabled) == ("uvx", ("mcp-server-time",), {"A": "b"}, False)
    assert config.timeout == 30
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_change_keeps_what_it_does_not_know_and_is_for_the_owner_only(path: Path) -> None:
    write(path, {**TIME, "note": "mine"}, {"name": "broken", "transport": "pigeon"}, version=7)
    servers = change(path, vault_of(path), lambda entries: put(entries, ServerConfig(name="git", command="uvx")))
    assert list(servers.by_name) == ["time", "git"]
    written = json.loads(path.read_text())
    assert written["version"] == 7
    assert [server["name"] for server in written["servers"]] == ["time", "broken", "git"]
    assert written["servers"][0]["note"] == "mine"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


HALF = '{"servers": [{"name": "time", "command": "uvx", "env": {"KEY": "\\ud83d"}}]}'


@pytest.mark.parametrize("text", ["{ broken", "[]", '{"servers": {}}', '{"servers": ["time"]}', "", HALF])
def test_a_file_that_cannot_be_read_is_not_empty_and_is_never_written_over(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(UnreadableFileError):
        load(path, vault_of(path))
    with pytest.raises(UnreadableFileError):
        change(path, vault_of(path), lambda entries: put(entries, ServerConfig(name="git", command="uvx")))
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        ({"name": "a b", "command": "x"}, "server 1 (a b): Expected `str` matching regex"),
        ({"command": "x"}, "server 1 (without a name): Object missing required field `name`"),
        ({"name": "a"}, "server 1 (a): command: a stdio server needs the program to run"),
        ({"name": "a", "transport": "sse"}, "server 1 (a): url: a server over sse needs an address"),
        ({"name": "a", "transport": "http", "url": "ftp://x"}, "server 1 (a): Expected `str` matching regex"),
        ({"name": "a", "transport": "http", "url": "http://[x"}, "server 1 (a): url: Invalid IPv6 URL"),
        ({"name": "a", "transport": "http", "url": "http://x:99999"}, "server 1 (a): url: Port out of range 0-65535"),
        ({"name": "a", "transport": "pigeon"}, "server 1 (a): Invalid enum value 'pigeon'"),
        (
            {"name": "a", "transport": "http", "url": "http://x/${KEY}"},
            "server 1 (a): env: KEY is used but has no value",
        ),
        ({"name": "a", "command": "x", "headers": {"A": "b\r\nc"}}, "server 1 (a): Expected `str` matching regex"),
    ],
)
def test_what_is_wrong_is_named_and_the_others_are_used(path: Path, server: object, problem: str) -> None:
    write(path, server, TIME)
    servers = load(path, vault_of(path))
    assert list(servers.by_name) == ["time"]
    assert servers.problems[0].startswith(problem)


def test_of_two_servers_of_one_name_the_first_is_used(path: Path) -> None:
    write(path, TIME, {**TIME, "command": "npx"})
    servers = load(path, vault_of(path))
    assert servers.by_name["time"].command == "uvx"
    assert servers.problems == ("server 2 (time): there is one of that name already",)


def test_a_masked_value_that_is_written_back_stays() -> None:
    entries: Entries = []
    put(entries, ServerConfig(name="a", command="x", env={"API_KEY": "sk-old", "MODE": "slow"}))
    put(entries, ServerConfig(name="a", command="x", env={"API_KEY": "sk-…old", "MODE": "fast"}))
    assert entries[0]["env"] == {"API_KEY": "sk-old", "MODE": "fast"}
    assert len(entries) == 1


def test_what_could_not_work_is_not_saved() -> None:
    with pytest.raises(InvalidInput, match="command"):
        put([], ServerConfig(name="a"))


def test_variables_are_filled_into_headers_and_address() -> None:
    config = ServerConfig(
        name="a",
        transport="http",
        url="https://example.org/${TENANT}/mcp",
        env={"TENANT": "t-1", "TOKEN": "secret-123"},
        headers={"Authorization": "Bearer ${TOKEN}"},
    )
    assert config.filled(config.check().url) == "https://example.org/t-1/mcp"
    assert config.filled(config.headers["Authorization"]) == "Bearer secret-123"
    assert set(config.secrets()) == {"secret-123"}
    assert "secret" not in repr(config)


def test_a_header_is_secret_with_and_without_its_scheme() -> None:
    config = ServerConfig(name="a", transport="http", url="https://x", headers={"Authorization": "Bearer abc-123456"})
    assert set(config.secrets()) == {"Bearer abc-123456", "abc-123456"}


def test_a_password_in_the_address_is_secret() -> None:
    config = ServerConfig(name="a", transport="sse", url="https://ann:pass-word-1@example.org/sse")
    assert set(config.secrets()) == {"pass-word-1"}


@pytest.mark.parametrize(
    "address", ["https://example.org/mcp?mode=fast&api_key=canary-01234", "https://canary-01234@example.org/mcp"]
)
def test_a_key_in_the_address_is_secret(address: str) -> None:
    config = ServerConfig(name="a", transport="http", url=address)
    assert list(config.secrets()) == ["canary-01234"]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("GITHUB_TOKEN", "x", True),
        ("Authorization", "Bearer x", True),
        ("CANARY", "sk-canary-0123456789", True),
        ("NODE_ENV", "production", False),
        ("LOG_LEVEL", "warning", False),
        ("DATA_DIR", "/home/ann/data-2026", False),
    ],
)
def test_what_looks_like_a_credential_is_hidden_and_an_ordinary_word_is_not(
    name: str, value: str, expected: bool
) -> None:
    assert is_secret(name, value) is expected


def test_a_failed_write_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write(path, TIME)
    before = path.read_text()
    monkeypatch.setattr(configuration, "write_private", full)
    with pytest.raises(OSError, match="No space"):
        change(path, vault_of(path), lambda entries: put(entries, ServerConfig(name="git", command="uvx")))
    assert path.read_text() == before


# Secrets --------------------------------------------------------------------------------------------------------------

SERVER = {
    "name": "remote",
    "transport": "http",
    "url": "https://ann:canary-in-url@example.org/mcp",
    "env": {"TOKEN": "canary-token", "EMPTY": ""},
    "headers": {"Authorization": "Bearer ${TOKEN}", "X-Key": "canary-header"},
}
SEALED = {
    "mcp/remote/env/TOKEN": "canary-token",
    "mcp/remote/headers/X-Key": "canary-header",
    "mcp/remote/url": "https://ann:canary-in-url@example.org/mcp",
}


def servers_in(path: Path) -> list[dict[str, object]]:
    return json.loads(path.read_text())["servers"]


def test_secrets_in_the_file_are_moved_to_the_vault_and_used_from_there(path: Path) -> None:
    write(path, SERVER, {**TIME, "env": {}}, version=7)
    loaded = load(path, vault_of(path))
    assert vault_of(path).read() == SEALED
    assert "canary" not in path.read_text()
    expected = {**SERVER, "url": "…", "env": {"TOKEN": "…", "EMPTY": ""}}
    assert servers_in(path) == [
        {**expected, "headers": {"Authorization": "Bearer ${TOKEN}", "X-Key": "…"}},
        {**TIME, "env": {}},
    ]
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert load(path, vault_of(path)) == loaded
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    config = loaded.by_name["remote"]
    assert (config.env["TOKEN"], config.headers["X-Key"]) == ("canary-token", "canary-header")
    assert config.url == SERVER["url"]


@pytest.mark.parametrize(
    ("url", "is_sealed"),
    [
        ("https://example.org/mcp?key=abc", True),
        ("https://token@example.org/mcp", True),
        ("https://example.org/mcp", False),
        ("https://example.org/@ann/mcp", False),
    ],
)
def test_an_address_is_sealed_if_it_may_hold_a_secret(path: Path, url: str, is_sealed: bool) -> None:
    write(path, {"name": "a", "transport": "http", "url": url})
    assert load(path, vault_of(path)).by_name["a"].url == url
    assert (servers_in(path)[0]["url"] == "…") is is_sealed


def test_a_change_puts_secrets_into_the_vault_and_takes_those_out_that_nobody_needs(path: Path) -> None:
    vault = vault_of(path)
    first = ServerConfig(name="a", command="x", env={"KEY": "canary-1", "OTHER": "canary-2"})
    change(path, vault, lambda entries: put(entries, first))
    assert vault.read() == {"mcp/a/env/KEY": "canary-1", "mcp/a/env/OTHER": "canary-2"}
    masked = ServerConfig(name="a", command="y", env={"KEY": "can…1"})
    servers = change(path, vault, lambda entries: put(entries, masked))
    assert servers.by_name["a"].env == {"KEY": "canary-1"}
    assert vault.read() == {"mcp/a/env/KEY": "canary-1"}
    change(path, vault, lambda entries: put(entries, ServerConfig(name="a", command="y", env={"KEY": "canary-3"})))
    assert load(path, vault).by_name["a"].env == {"KEY": "canary-3"}
    assert "canary" not in path.read_text()
    change(path, vault, lambda entries: entries.clear())
    assert vault.read() == {}


def test_what_somebody_writes_over_a_mark_is_taken_in(path: Path) -> None:
    write(path, {**TIME, "env": {"KEY": "canary-1", "OTHER": "canary-2"}})
    load(path, vault_of(path))
    path.write_text(path.read_text().replace('"KEY": "…"', '"KEY": "canary-3"'))
    assert load(path, vault_of(path)).by_name["time"].env == {"KEY": "canary-3", "OTHER": "canary-2"}
    assert "canary" not in path.read_text()


def remove_the_first(entries: Entries) -> None:
    del entries[0]


def test_of_two_servers_of_one_name_each_keeps_its_own_secrets(path: Path) -> None:
    write(path, {**TIME, "env": {"KEY": "canary-1"}}, {**TIME, "env": {"KEY": "canary-2"}})
    for _ in range(2):
        assert load(path, vault_of(path)).by_name["time"].env == {"KEY": "canary-1"}
    change(path, vault_of(path), remove_the_first)
    assert load(path, vault_of(path)).by_name["time"].env == {"KEY": "canary-2"}


def test_while_the_vault_cannot_be_opened_its_servers_say_so_and_nothing_is_overwritten(path: Path) -> None:
    write(path, SERVER, TIME)
    load(path, vault_of(path))
    key = Home(path.parent).vault_key
    key.chmod(0o644)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    servers = load(path, vault_of(path))
    assert list(servers.by_name) == ["time"]
    (problem,) = servers.problems
    assert problem.startswith("server 1 (remote): env/TOKEN, headers/X-Key, url cannot be had from the vault")
    with pytest.raises(VaultError, match="may read it"):
        change(path, vault_of(path), lambda entries: put(entries, ServerConfig(name="b", command="x", env={"A": "b"})))
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
    servers = change(path, vault_of(path), lambda entries: put(entries, ServerConfig(name="git", command="uvx")))
    assert list(servers.by_name) == ["time", "git"]
    key.chmod(0o600)
    assert list(load(path, vault_of(path)).by_name) == ["remote", "time", "git"]


def test_a_change_while_the_vault_is_lost_puts_nothing_into_the_file_that_was_in_the_vault(path: Path) -> None:
    write(path, SERVER)
    vault = vault_of(path)
    load(path, vault)
    before = servers_in(path)
    Home(path.parent).vault_key.unlink()
    servers = change(path, vault, lambda entries: entries[0].update(enabled=False))
    assert servers.by_name["remote"].env["TOKEN"] == "canary-token"
    assert "canary" not in path.read_text()
    assert servers_in(path) == [{**before[0], "enabled": False}]


def test_secrets_in_the_clear_are_used_while_the_vault_cannot_be_opened(path: Path) -> None:
    Home(path.parent).vault.write_text("{")
    write(path, {**TIME, "env": {"KEY": "canary-1"}})
    before = path.read_bytes()
    assert load(path, vault_of(path)).by_name["time"].env == {"KEY": "canary-1"}
    assert path.read_bytes() == before
    change(path, vault_of(path), lambda entries: entries[0].update(enabled=False))
    assert servers_in(path)[0]["env"] == {"KEY": "canary-1"}


def test_a_failed_write_leaves_the_vault_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    vault = vault_of(path)
    change(path, vault, lambda entries: put(entries, ServerConfig(name="a", command="x", env={"KEY": "canary-1"})))
    monkeypatch.setattr(configuration, "write_private", full)
    new = ServerConfig(name="a", command="x", env={"KEY": "canary-2", "MORE": "canary-3"})
    with pytest.raises(OSError, match="No space"):
        change(path, vault, lambda entries: put(entries, new))
    assert vault.read() == {"mcp/a/env/KEY": "canary-1"}

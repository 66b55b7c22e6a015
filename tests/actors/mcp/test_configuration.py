from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from pocketpaw.actors.mcp import configuration
from pocketpaw.actors.mcp.configuration import Entries, ServerConfig, change, is_secret, load, put
from pocketpaw.config import UnreadableFileError
from pocketpaw.runtime.errors import InvalidInput

TIME = {"name": "time", "transport": "stdio", "command": "uvx", "args": ["mcp-server-time"], "timeout": 30}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mcp_servers.json"


def write(path: Path, *servers: object, **others: object) -> None:
    path.write_text(json.dumps({"servers": servers, **others}))


def test_no_file_holds_no_server(path: Path) -> None:
    assert load(path).by_name == {}
    assert not path.exists()


def test_the_file_of_pocketpaw_04_is_read(path: Path) -> None:
    write(path, {**TIME, "url": "", "env": {"A": "b"}, "enabled": False, "registry_ref": "@cmd8/x", "oauth": True})
    config = load(path).by_name["time"]
    assert (config.command, config.args, config.env, config.enabled) == ("uvx", ("mcp-server-time",), {"A": "b"}, False)
    assert config.timeout == 30
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_change_keeps_what_it_does_not_know_and_is_for_the_owner_only(path: Path) -> None:
    write(path, {**TIME, "note": "mine"}, {"name": "broken", "transport": "pigeon"}, version=7)
    servers = change(path, lambda entries: put(entries, ServerConfig(name="git", command="uvx")))
    assert list(servers.by_name) == ["time", "git"]
    written = json.loads(path.read_text())
    assert written["version"] == 7
    assert [server["name"] for server in written["servers"]] == ["time", "broken", "git"]
    assert written["servers"][0]["note"] == "mine"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["{ broken", "[]", '{"servers": {}}', '{"servers": ["time"]}', ""])
def test_a_file_that_cannot_be_read_is_not_empty_and_is_never_written_over(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(UnreadableFileError):
        load(path)
    with pytest.raises(UnreadableFileError):
        change(path, lambda entries: put(entries, ServerConfig(name="git", command="uvx")))
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
    servers = load(path)
    assert list(servers.by_name) == ["time"]
    assert servers.problems[0].startswith(problem)


def test_of_two_servers_of_one_name_the_first_is_used(path: Path) -> None:
    write(path, TIME, {**TIME, "command": "npx"})
    servers = load(path)
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
        change(path, lambda entries: put(entries, ServerConfig(name="git", command="uvx")))
    assert path.read_text() == before

"""API keys, MCP servers and identity texts of PocketPaw 0.4 as its files have them, in good order and in bad."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pocketpaw.actors.identity import DEFAULTS, LIMIT_BYTES, IdentityTexts
from pocketpaw.actors.importing.old_access import IDENTITY_FILES, read_identity, read_keys, read_servers
from pocketpaw.actors.importing.old_files import Remark

KEY = {
    "id": "k-1",
    "name": "panel",
    "key_hash": "0a" * 32,
    "prefix": "pp_abcdefghi",
    "scopes": ["chat"],
    "created_at": "2026-01-01T10:00:00+00:00",
    "last_used_at": None,
    "expires_at": None,
    "revoked": False,
}
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat()


@pytest.mark.parametrize("change", [{}, {"expires_at": TOMORROW}, {"last_used_at": "2026-01-02T10:00:00+00:00"}])
def test_a_key_that_opens_something_is_taken(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / "api_keys.json").write_text(json.dumps([{**KEY, **change}]))
    left: list[Remark] = []
    (key,) = read_keys(tmp_path, left)
    assert (key.id, key.key_hash, key.times()[0]) == ("k-1", "0a" * 32, datetime(2026, 1, 1, 10, tzinfo=UTC))
    assert left == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"revoked": True}, "revoked"),
        ({"expires_at": "2026-01-02T10:00:00+00:00"}, "expired"),
        ({"scopes": ["chat", "moon"]}, "'moon'"),
        ({"key_hash": "plain"}, "SHA-256"),
        ({"created_at": "then"}, "times"),
        ({"name": ""}, "cannot be read"),
        ({"id": "a\0"}, "cannot be read"),
    ],
)
def test_a_key_that_opens_nothing_or_nothing_known_is_told(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    (tmp_path / "api_keys.json").write_text(json.dumps([{**KEY, **change}]))
    left: list[Remark] = []
    assert list(read_keys(tmp_path, left)) == []
    (remark,) = left
    assert reason in remark.reason


def test_servers_are_taken_and_a_login_that_is_not_is_told(tmp_path: Path) -> None:
    one = {"name": "one", "transport": "stdio", "command": "x", "args": ["y"], "env": {"A": "b"}, "timeout": 30}
    two = {"name": "two", "transport": "http", "url": "https://mcp.example/x", "oauth": True, "registry_ref": "r"}
    (tmp_path / "mcp_servers.json").write_text(json.dumps({"servers": [one, two, {"name": "no/name"}]}))
    left: list[Remark] = []
    assert [(server.name, server.env, server.timeout) for server in read_servers(tmp_path, left)] == [
        ("one", {"A": "b"}, 30),
        ("two", {}, 15),
    ]
    assert [remark.name for remark in left] == ["entry 3", "two"]


def test_only_texts_that_somebody_wrote_and_that_a_model_can_read_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / "identity"
    folder.mkdir()
    (folder / "USER.md").write_text("Ann")
    (folder / "SOUL.md").write_text("x" * (LIMIT_BYTES + 1))
    (folder / "STYLE.md").mkdir()
    its_own = (
        "# User Profile\nName: (your name)\nTimezone: UTC\nPreferences: (describe your communication preferences)\n"
    )
    left: list[Remark] = []
    assert read_identity(tmp_path, left) == {"user_file": "Ann"}
    assert [remark.name for remark in left] == ["SOUL.md", "STYLE.md"]
    (folder / "USER.md").write_text(its_own)
    left.clear()
    assert read_identity(tmp_path, left) == {}
    assert "nobody has changed it" in left[-1].reason


def test_each_text_has_its_field_here() -> None:
    assert dict(zip(IdentityTexts.__struct_fields__, DEFAULTS, strict=True)) == IDENTITY_FILES

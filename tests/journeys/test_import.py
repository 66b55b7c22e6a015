"""`pocketpaw import`: a home of the real PocketPaw 0.4.18 comes over whole, and a second time nothing changes."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from .conftest import MakeDaemon
from .daemon import Daemon, free_port
from .model_server_process import ModelServerProcess
from .older_pocketpaw import SECRET, USER, USER_TEXT, VARIABLE, OlderPocketPaw, recorded_home

READS = (
    "sessions",
    "memory/long_term",
    "identity",
    "reminders",
    "intentions",
    "mcp/status",
    "auth/api-keys",
    "settings",
)
TAKEN = {"sessions": 2, "memories": 4, "identity": 1, "reminders": 2, "intentions": 2, "mcp_servers": 1, "api_keys": 1}


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def take(daemon: Daemon, home: Path, user: str = "") -> dict[str, dict[str, Any]]:
    done = daemon.run("import", str(home), "--json", USER=user)
    assert done.returncode == 0, done.stderr
    kinds: dict[str, dict[str, Any]] = json.loads(done.stdout)["kinds"]
    return kinds


def counts(kinds: dict[str, dict[str, Any]]) -> dict[str, int]:
    return {kind: len(found["taken"]) for kind, found in kinds.items() if kind != "settings" and found["taken"]}


def everything(daemon: Daemon) -> dict[str, Any]:
    """What the API shows of all that an import may bring, but for how long it is until something."""
    with daemon.http as http:
        shown = {path: http.get(f"/api/v1/{path}").raise_for_status().json() for path in READS}
        for session in shown["sessions"]["sessions"]:
            place = f"/api/v1/sessions/{session['id']}/history"
            shown[place] = http.get(place).raise_for_status().json()
    for reminder in shown["reminders"]["reminders"]:
        del reminder["time_remaining"]
    return shown


def test_a_recorded_home_arrives_without_a_daemon_and_a_second_time_nothing_changes(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    home = recorded_home(tmp_path / "ann")
    before = contents(home)
    daemon = make_daemon(settings={"api_rate_limit_per_key": "0"})
    first = take(daemon, home)
    assert counts(first) == TAKEN
    assert "media_max_file_size_mb" in first["settings"]["taken"]
    daemon.start()
    here = everything(daemon)
    talk, short = sorted(here["sessions"]["sessions"], key=lambda session: -session["message_count"])
    assert (talk["title"], talk["message_count"], short["title"]) == (
        "hello from the old home",
        4,
        "another conversation",
    )
    roles = [message["role"] for message in here[f"/api/v1/sessions/{talk['id']}/history"]]
    assert roles == ["user", "assistant"] * 2
    assert here["identity"]["user_file"] == USER_TEXT
    assert here["settings"]["media_max_file_size_mb"] == 77
    assert not any(len(found["taken"]) for found in take(daemon, home).values())
    assert everything(daemon) == here
    assert contents(home) == before
    refused = daemon.run("import", str(tmp_path / "nowhere"))
    assert refused.returncode != 0
    assert refused.stderr.count("\n") == 1
    assert "there is no PocketPaw home" in refused.stderr


@pytest.mark.soak
def test_a_home_that_the_real_package_makes_now_arrives_with_its_secrets(
    make_daemon: MakeDaemon, model_server: ModelServerProcess, tmp_path: Path
) -> None:
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.skip(f"{VARIABLE} names no Python with PocketPaw 0.4.18: see tests/data/pocketpaw-0.4.18/README.md")
    folder = tmp_path / "ann"
    folder.mkdir()
    older = OlderPocketPaw(python, folder, model_server.base_url)
    older.fill(free_port())
    before = contents(older.home)
    daemon = make_daemon(settings={"api_rate_limit_per_key": "0"})
    first = take(daemon, older.home, USER)
    assert counts(first) == TAKEN
    assert "openai_compatible_api_key" in first["settings"]["taken"]
    daemon.start()
    here = everything(daemon)
    second = take(daemon, older.home)
    assert not any(len(found["taken"]) for found in second.values())
    assert everything(daemon) == here
    assert contents(older.home) == before
    assert SECRET not in json.dumps([first, here])
    with daemon.http as http:
        body = {"session_id": here["sessions"]["sessions"][0]["id"], "content": "go on"}
        reply = http.post("/api/v1/chat", json=body).raise_for_status().json()
    assert "go on" in json.dumps(reply)

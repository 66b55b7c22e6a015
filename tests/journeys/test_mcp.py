"""MCP servers of the real daemon: over its API, through a SIGKILL, and with its secrets."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import psutil
import pytest

from .conftest import MakeDaemon
from .daemon import Daemon

PROGRAM = str(Path(__file__).parents[1] / "fakes" / "mcp_server.py")
WITHIN_S = 20.0
UNLIMITED = {"api_rate_limit_per_key": "0"}
SECRET = "sk-canary-0123456789"


def server(name: str, *options: str, **fields: object) -> dict[str, object]:
    return {"name": name, "command": sys.executable, "args": ["-S", PROGRAM, "--name", name, *options], **fields}


def status(client: httpx2.Client) -> dict[str, dict[str, object]]:
    return client.get("/api/v1/mcp/status").raise_for_status().json()


def wait_for(condition: Callable[[], object], within_s: float = WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def servers_of(daemon: Daemon) -> list[psutil.Process]:
    return psutil.Process(daemon.pid).children()


def test_a_server_is_tried_added_turned_off_and_removed(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(settings=UNLIMITED)
    daemon.start()
    with daemon.http as client:
        tried = client.post("/api/v1/mcp/test", json=server("fake")).raise_for_status().json()
        assert tried["connected"] is True
        assert {"name": "mcp__fake__echo", "description": "To echo"} in tried["tools"]
        assert status(client) == {}

        added = client.post("/api/v1/mcp/add", json=server("fake", env={"TOKEN": SECRET}))
        assert added.raise_for_status().json() == {"status": "ok"}
        wait_for(lambda: status(client)["fake"]["connected"])
        found = status(client)["fake"]
        assert {"enabled": True, "transport": "stdio", "error": "", "restarts": 0}.items() <= found.items()
        assert isinstance(found["tool_count"], int)
        assert found["tool_count"] >= 12

        toggled = client.post("/api/v1/mcp/toggle", json={"name": "fake"}).raise_for_status().json()
        assert toggled == {"status": "ok", "enabled": False}
        wait_for(lambda: status(client)["fake"]["state"] == "disabled")
        assert servers_of(daemon) == []
        client.post("/api/v1/mcp/remove", json={"name": "fake"}).raise_for_status()
        assert status(client) == {}
        assert client.post("/api/v1/mcp/remove", json={"name": "fake"}).status_code == 404

        refused = client.post("/api/v1/mcp/add", json={"name": "bad name", "command": "x"})
        assert refused.status_code == 422
        lacking = client.post("/api/v1/mcp/add", json={"name": "a"})
        assert lacking.status_code == 422
        assert lacking.json()["detail"][0]["loc"] == ["body", "command"]
        presets = client.get("/api/v1/mcp/presets").raise_for_status().json()
        assert len(presets) >= 10
        assert all(not preset["installed"] for preset in presets)
        assert client.post("/api/v1/mcp/presets/install", json={"preset_id": "x"}).status_code == 404
    assert SECRET not in daemon.log


def test_a_daemon_that_is_killed_leaves_no_server_and_has_them_again_when_it_is_back(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(settings=UNLIMITED)
    daemon.home.root.mkdir(parents=True)
    servers = [
        server("fake", "--child", "600", env={"API_KEY": SECRET}),
        server("stubborn", "--stay", "--child", "600"),
        server("hangs", "--hang-in-initialize", "--stay", timeout=60),
        {"name": "missing", "command": "no-such-program"},
    ]
    (daemon.home.root / "mcp_servers.json").write_text(json.dumps({"servers": servers}))
    for _ in range(2):
        daemon.start()
        with daemon.http as client:
            wait_for(lambda: status(client)["fake"]["connected"] and status(client)["stubborn"]["connected"])
            wait_for(lambda: status(client)["missing"]["state"] == "parked")
            wait_for(lambda: len(servers_of(daemon)) == 3)
            assert status(client)["hangs"]["state"] == "connecting"
            issues = client.get("/api/v1/health").json()["issues"]
            assert any("mcp/servers/missing" in issue["message"] for issue in issues), issues
        assert not any(SECRET in " ".join(process.cmdline()) for process in daemon.processes())
        daemon.kill()
        wait_for(lambda: daemon.processes() == [])
    assert SECRET not in daemon.log


@pytest.mark.soak
def test_a_server_that_is_killed_again_and_again_costs_nothing_else(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(settings=UNLIMITED)
    daemon.start()
    with daemon.http as client:
        client.post("/api/v1/mcp/add", json=server("fake", "--child", "600")).raise_for_status()
        client.post("/api/v1/mcp/add", json=server("other")).raise_for_status()
        wait_for(lambda: all(found["connected"] for found in status(client).values()))
        before = daemon.open_files()
        for restarts in (1, 2):
            fake = next(process for process in servers_of(daemon) if "--child" in process.cmdline())
            os.kill(fake.pid, 9)
            wait_for(lambda restarts=restarts: status(client)["fake"]["restarts"] == restarts)
            wait_for(lambda: status(client)["fake"]["connected"])
        assert status(client)["other"]["restarts"] == 0
        assert len(servers_of(daemon)) == 2
        assert all(process.status() != psutil.STATUS_ZOMBIE for process in daemon.processes())
        assert daemon.open_files() == before

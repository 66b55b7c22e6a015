"""Secrets planted as canaries come up nowhere, through a whole scenario with tools, servers that fail and processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx2
import psutil

from ..fakes.model_server import Reply, ToolCall
from .conftest import MakeDaemon
from .daemon import with_model_server
from .faults import wait_until
from .model_server_process import ModelServerProcess

MCP_SERVER = Path(__file__).parent.parent / "fakes" / "mcp_server.py"
BROKEN_SERVER = "import os; raise SystemExit(os.environ['KEY'])"
KEYS = {
    "openai_compatible_api_key": "sk-canary-model-0123456789",
    "telegram_bot_token": "4711:canary-telegram-0123456789",
    "slack_bot_token": "xoxb-canary-slack-0123456789",
}
FROM_FILE = "canary-from-the-file-0123456789"
FOR_SERVER = "canary-for-the-server-0123456789"
CANARIES = [*KEYS.values(), FROM_FILE, FOR_SERVER]
PATHS = (
    "settings", "health", "health/errors?limit=500", "runtime/tree", "runtime/dead-letters", "agent/status",
    "mcp/status", "chat/approvals", "sessions", "backends", "memory/long_term", "runtime/actors/mcp/servers/env",
    "openapi.json",
    "sessions/s-canary/history", "sessions/s-canary/export?format=json", "sessions/search?q=canary", "version",
)  # fmt: skip


def call(name: str, **arguments: object) -> Reply:
    return Reply(text="I try.", tool_calls=(ToolCall(name, json.dumps(arguments)),))


def found_in(text: str) -> list[str]:
    return [canary for canary in CANARIES if canary in text]


def test_no_secret_comes_up_anywhere(make_daemon: MakeDaemon, model_server: ModelServerProcess) -> None:
    daemon = make_daemon(settings={**with_model_server(model_server.base_url), "tools_allow": "*"})
    daemon.settings |= KEYS
    root = daemon.home.root
    root.mkdir(parents=True)
    (root / "config.json").write_text(json.dumps({"discord_bot_token": FROM_FILE}))
    server = {"command": sys.executable, "args": ["-S", str(MCP_SERVER), "--name", "env"], "env": {"KEY": FOR_SERVER}}
    broken = {"command": sys.executable, "args": ["-c", BROKEN_SERVER]}
    servers = [
        {"name": "env", "transport": "stdio", **server},
        {"name": "broken", "transport": "stdio", **broken, "env": {"KEY": FOR_SERVER}},
    ]
    (root / "mcp_servers.json").write_text(json.dumps({"servers": servers}))
    daemon.start()

    def is_connected() -> bool:
        with daemon.http as http:
            return http.get("/api/v1/mcp/status").json()["env"]["connected"]

    wait_until(is_connected)
    model_server.script(
        call(
            "shell", command="env; cat /proc/$PPID/environ ~/.pocketpaw/config.json; tr '\\0' ' ' < /proc/$PPID/cmdline"
        ),
        call("read_file", path=str(root / "config.json")),
        call("search_files", path="~", text="canary"),
        call("mcp__env__environment"),
        call("mcp__env__fail"),
        call("web_fetch", url=f"http://user:{FROM_FILE}@127.0.0.1:1/{KEYS['slack_bot_token']}"),
        Reply(text="Done."),
        Reply(status=401, error={"message": f"Incorrect API key: {KEYS['openai_compatible_api_key']}"}),
    )
    told: list[str] = []
    children = ""
    with daemon.http as http:
        for content in ("Find the keys.", "Again."):
            body = {"content": content, "session_id": "s-canary"}
            with http.stream("POST", "/api/v1/chat/stream", json=body) as response:
                for line in response.iter_lines():
                    told.append(line)
                    if line.startswith("event: approval_required"):
                        children += arguments_and_environments(daemon.pid)
                    if line.startswith("data: ") and "request_id" in line:
                        decision = {"request_id": json.loads(line[6:])["request_id"], "approved": True, "scope": "once"}
                        httpx2.post(f"{daemon.url}/api/v1/chat/approve", json=decision, trust_env=False)
        bodies = {path: http.get(f"/api/v1/{path}").text for path in PATHS}
        events = read_some(http, "/api/v1/events/stream")
    outputs = "\n".join(told)
    assert outputs.count("event: tool_result") == 6
    assert found_in(outputs) == []
    for path, text in {**bodies, "events": events}.items():
        assert found_in(text) == [], path
    assert found_in(daemon.log) == []
    assert found_in(children + arguments_and_environments(daemon.pid)) == []
    assert model_server.stats().chats == 8
    its_own_words = (FROM_FILE, KEYS["slack_bot_token"])  # the scripted model wrote these two itself
    assert set(found_in(model_server.bodies())) <= set(its_own_words)
    daemon.stop()
    for path in (path for path in root.rglob("*") if path.is_file()):
        allowed = its_own_words if path.name.startswith("pocketpaw.db") else ()
        assert set(found_in(path.read_bytes().decode(errors="replace"))) <= set(allowed), path


def read_some(http: httpx2.Client, path: str) -> str:
    with http.stream("GET", path, headers={"Last-Event-ID": "0"}) as response:
        return next(response.iter_text())


def arguments_and_environments(pid: int) -> str:
    """Of all processes below the daemon but the MCP servers, which were given theirs."""
    texts = [" ".join(psutil.Process(pid).cmdline())]
    for process in psutil.Process(pid).children(recursive=True):
        try:
            arguments = process.cmdline()
            texts.append(" ".join(arguments))
            if not {str(MCP_SERVER), BROKEN_SERVER} & {*arguments} and "launcher" not in str(arguments):
                texts.append(str(process.environ()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass  # it has ended meanwhile
    return "\n".join(texts)

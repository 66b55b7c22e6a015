"""A daemon with something of everything in it: what requests need to be there is made over the API."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ..fakes.model_server import Reply, ToolCall
from ..http.consent import Form
from ..journeys.daemon import Daemon, with_model_server
from ..journeys.model_server_process import ModelServerProcess

CLIENT = "pocketpaw-desktop"
REDIRECT = "http://localhost:49152/oauth-callback"
VERIFIER = "a-verifier-that-is-long-enough-to-be-one-43-characters"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()

SETTINGS = {
    "api_rate_limit_per_key": "0",
    "auth_rate_limit_per_peer": "0",
    "ws_rate_limit_per_peer": "0",
    "localhost_auth_bypass": "false",
    "skills_git_base": "http://127.0.0.1:9",  # so that nothing is asked for outside of this machine
    "telegram_api_url": "http://127.0.0.1:9",
    "cloudflared_path": "/no/such/cloudflared",  # so that no tunnel is opened
}
MCP_SERVER = Path(__file__).parents[1] / "fakes" / "mcp_server.py"


SETTLED_S = 20.0

Stream = tuple[httpx2.Response, Iterator[tuple[str, Any]]]
"""A response's head, and the names and data of its events."""


class World:
    def __init__(self, daemon: Daemon, model: ModelServerProcess) -> None:
        self.daemon = daemon
        self.model = model
        self.http = daemon.http
        self._numbers = count(1)
        self._keys: dict[str, str] = {}

    @property
    def token(self) -> str:
        """The access token as it is now: one exchange replaces it."""
        return self.daemon.token

    def fresh(self, noun: str) -> str:
        """A name that nothing has yet."""
        return f"{noun}-{next(self._numbers)}"

    def send(self, method: str, url: str, *, token: str | None = None, **request: Any) -> httpx2.Response:
        """Send a request, with the access token unless another is given; "" is none."""
        credential = self.token if token is None else token
        headers = {"Authorization": f"Bearer {credential}"} if credential else {}
        return self.http.request(method, url, headers={**headers, **request.pop("headers", {})}, **request)

    def ask(self, method: str, url: str, **request: Any) -> Any:
        """As `send`; it has to succeed, and its JSON is returned."""
        return self.send(method, url, **request).raise_for_status().json()

    @contextmanager
    def stream(self, method: str, url: str, **request: Any) -> Generator[Stream]:
        """Follow a stream of events."""
        headers = {"Authorization": f"Bearer {self.token}"}
        with self.http.stream(method, url, headers=headers, **request) as response:
            yield response, ((event.event, json.loads(event.data)) for event in httpx2.EventSource(response))

    def form(self, url: str, query: dict[str, str]) -> dict[str, str]:
        """The hidden fields of a page's form."""
        return Form(self.send("GET", url, params=query).raise_for_status().text).fields

    def key(self, *scopes: str) -> str:
        """An API key that may do so much."""
        return self.ask("POST", "/api/v1/auth/api-keys", json={"name": "narrow", "scopes": list(scopes)})["key"]

    def key_with(self, scope: str) -> str:
        """An API key that has this scope only."""
        if scope not in self._keys:
            self._keys[scope] = self.key(scope)
        return self._keys[scope]

    def key_without(self, scope: str) -> str:
        return self.key_with("chat" if scope != "chat" else "skills")

    # What requests need to be there -----------------------------------------------------------------------------------

    def begin(self, session_id: str, *, until: str) -> Any:
        """Begin a turn, and leave when such an event comes; returns its data."""
        body = {"content": "hello", "session_id": session_id}
        with self.stream("POST", "/api/v1/chat/stream", json=body) as (_, events):
            return next(data for name, data in events if name == until)

    def new_session(self) -> str:
        """A session in which something was said, and used."""
        return self.ask("POST", "/api/v1/chat", json={"content": "hello"})["session_id"]

    @cached_property
    def _session(self) -> str:
        return self.new_session()

    def session(self) -> str:
        """A session that stays."""
        return self._session

    def script(self, *replies: Reply) -> None:
        """Have the model answer the next turn so; turns that still wait for something are stopped first."""
        until = time.monotonic() + SETTLED_S
        while busy := [one for one in self._sessions() if one["state"] != "idle"]:
            assert time.monotonic() < until, busy
            for one in busy:
                self.send("POST", "/api/v1/chat/stop", params={"session_id": one["session_id"]})
        self.model.script(*replies)

    def _sessions(self) -> list[dict[str, Any]]:
        return self.ask("GET", "/api/v1/agent/status")["sessions"]

    def memory(self) -> str:
        """A memory, made as they all are: by the agent's tool."""
        content = self.fresh("Ann likes number")
        call = ToolCall("remember", json.dumps({"content": content}))
        self.script(Reply(tool_calls=(call,)), Reply())
        self.new_session()
        listed = self.ask("GET", "/api/v1/memory/long_term")
        return next(one["id"] for one in listed if one["content"] == content)

    def approval(self) -> str:
        """A request for approval that waits for its answer."""
        return self._held()["request_id"]

    def plan(self) -> str:
        """A session whose agent wants to do something, and waits with it."""
        session_id = self.fresh("plan")
        self._held(session_id)
        return f"api:{session_id}"

    def _held(self, session_id: str = "held") -> dict[str, Any]:
        call = ToolCall("shell", json.dumps({"command": "true"}))
        self.script(Reply(tool_calls=(call,)))
        return self.begin(session_id, until="approval_required")

    def file(self, name: str, text: str) -> Path:
        """A file in the user's home."""
        path = self.daemon.home.root.parent / name
        path.write_text(text)
        return path

    def skill(self) -> str:
        """An installed skill."""
        name = self.fresh("poems")
        folder = self.daemon.home.skills / name
        folder.mkdir()
        (folder / "SKILL.md").write_text(f"---\nname: {name}\ndescription: Writes poems.\n---\nRhyme.\n")
        self.ask("POST", "/api/v1/skills/reload")
        return name

    @cached_property
    def _hook(self) -> dict[str, str]:
        return self.ask("POST", "/api/v1/webhooks/add", json={"name": self.fresh("hook")})["webhook"]

    def hook(self) -> dict[str, str]:
        """A webhook that stays."""
        return self._hook


@contextmanager
def world_in(folder: Path) -> Generator[World]:
    """Start a daemon whose lists are not empty, and a model server for it."""
    model = ModelServerProcess()
    daemon = Daemon(folder, settings={**with_model_server(model.base_url), **SETTINGS})
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", str(_programs(folder)), prepend=":")
            daemon.start()
        world = World(daemon, model)
        _furnish(world)
        yield world
        world.http.close()
    finally:
        daemon.close()
        model.close()


def _programs(folder: Path) -> Path:
    """An npx that fetches nothing: it is the fake MCP server."""
    program = folder / "programs" / "npx"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{MCP_SERVER}"\n')
    program.chmod(0o755)
    return program.parent


def _furnish(world: World) -> None:
    world.file("x.txt", "hello")
    world.session()
    world.memory()
    world.skill()
    world.hook()
    world.key("chat", "sessions")
    world.ask("POST", "/api/v1/files/write", json={"path": "~/y.txt", "content": "hello"})
    world.ask("POST", "/api/v1/reminders", json={"message": "in 3 hours to feed the cat"})
    trigger = {"type": "cron", "schedule": "0 9 * * *"}
    world.ask("POST", "/api/v1/intentions", json={"name": "Daily", "prompt": "hi", "trigger": trigger})
    server = {"name": "m1", "transport": "stdio", "command": "false", "enabled": False}
    world.ask("POST", "/api/v1/mcp/add", json=server)
    world.send("GET", "/api/v1/no/such")

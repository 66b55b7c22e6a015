"""For each endpoint that is asked for: a request that succeeds, one for what is not there, and the scope.

Written by hand, from the contract: what the tables name is generated (`endpoints.json`), and a test holds this to it.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from ..fakes.model_server import Reply
from .world import CHALLENGE, CLIENT, REDIRECT, VERIFIER, World

Made = Callable[[World], Any]
"""Makes what a request needs to be there, and returns what names it."""

MCP_SERVER = str(Path(__file__).parents[1] / "fakes" / "mcp_server.py")


class Exchange(msgspec.Struct, frozen=True):
    """What is callable is made anew for each request.

    Args:
        scope: what a credential needs; None where any will do, or none.
        values: for the path's parameters, in order.
        status: the success's.
        absent: an id that nothing has.
        unknown: a body that names what is not there. Where the path names it, that is known by itself.
        known_missing: with an unknown id in its path it does not answer 404, and why.
    """

    scope: str | None = None
    values: tuple[str | Made, ...] = ()
    query: Mapping[str, str] | Made = {}
    body: dict[str, Any] | Made | None = None
    headers: Made | None = None
    files: Made | None = None
    status: int = 200
    absent: str = "nosuch"
    unknown: dict[str, Any] | None = None
    known_missing: str = ""
    is_exempt: bool = False
    is_stream: bool = False


def zipped_skill(world: World) -> dict[str, Any]:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        name = world.fresh("skill")
        archive.writestr(f"{name}/SKILL.md", f"---\nname: {name}\ndescription: Writes poems.\n---\nRhyme.\n")
    return {"file": ("skills.zip", data.getvalue(), "application/zip")}


def mcp_server(world: World) -> dict[str, Any]:
    return {
        "name": world.fresh("server"),
        "transport": "stdio",
        "command": sys.executable,
        "args": ["-S", MCP_SERVER],
        "url": "",
        "env": {"GREETING": "hello"},
        "enabled": False,
    }


def preset(world: World) -> dict[str, Any]:
    world.send("POST", "/api/v1/mcp/remove", json={"name": "memory"})
    return {"preset_id": "memory", "env": {}, "extra_args": []}


def added_mcp_server(world: World) -> dict[str, Any]:
    body = mcp_server(world)
    world.ask("POST", "/api/v1/mcp/add", json=body)
    return {"name": body["name"]}


def text_file(world: World) -> dict[str, str]:
    return {"path": str(world.file("notes.txt", "milk\n"))}


def new_intention(world: World) -> dict[str, Any]:
    return {
        "name": world.fresh("intention"),
        "prompt": "Say good morning.",
        "trigger": {"type": "cron", "schedule": "0 9 * * *"},
        "context_sources": [],
        "enabled": True,
    }


def intention(world: World) -> str:
    made = world.ask("POST", "/api/v1/intentions", json=new_intention(world))
    return made["intention"]["id"]


def reminder(world: World) -> str:
    return world.ask("POST", "/api/v1/reminders", json={"message": "in 2 hours to stretch"})["reminder"]["id"]


def api_key(world: World) -> str:
    return world.ask("POST", "/api/v1/auth/api-keys", json={"name": "contract"})["id"]


def webhook(world: World) -> dict[str, str]:
    made = world.ask("POST", "/api/v1/webhooks/add", json={"name": world.fresh("hook"), "description": "d"})
    return made["webhook"]


def webhook_name(world: World) -> dict[str, str]:
    return {"name": webhook(world)["name"]}


def skill_name(world: World) -> dict[str, str]:
    return {"name": world.skill()}


def kit(world: World) -> str:
    """An installed kit, not yet active."""
    name = kit_of_catalogue(world)
    world.ask("POST", f"/api/v1/kits/catalog/{name}/install")
    return name


def kit_of_catalogue(world: World) -> str:
    """A kit that is not installed."""
    name: str = world.ask("GET", "/api/v1/kits/catalog")["catalog"][0]["id"]
    world.send("DELETE", f"/api/v1/kits/{name}")
    return name


def report_date(world: World) -> str:
    world.ask("POST", "/api/v1/self-audit/run")
    return world.ask("GET", "/api/v1/self-audit/reports")[0]["date"]


def oauth_wish(_: World) -> dict[str, str]:
    return {
        "client_id": CLIENT,
        "redirect_uri": REDIRECT,
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        "scope": "chat sessions",
        "state": "xyz",
    }


def consent(world: World) -> dict[str, str]:
    return {**world.form("/api/v1/oauth/authorize", oauth_wish(world)), "action": "allow"}


def oauth_code(world: World) -> dict[str, str]:
    led = world.send("POST", "/api/v1/oauth/authorize/consent", json=consent(world))
    (code,) = parse_qs(urlsplit(led.headers["location"]).query)["code"]
    return {
        "grant_type": "authorization_code",
        "code": code,
        "code_verifier": VERIFIER,
        "client_id": CLIENT,
        "redirect_uri": REDIRECT,
    }


def running_turn(world: World) -> dict[str, str]:
    """A session whose model has said one word, and says nothing more."""
    world.script(Reply(hang_after=1))
    session_id = world.fresh("running")
    world.begin(session_id, until="chunk")
    return {"session_id": session_id}


def approval(world: World) -> dict[str, Any]:
    return {"request_id": world.approval(), "approved": True, "scope": "once"}


EXCHANGES: Mapping[str, Exchange] = {
    # Access
    "POST /api/v1/auth/session": Exchange("admin"),
    "POST /api/v1/auth/login": Exchange(body=lambda world: {"token": world.token}, is_exempt=True),
    "POST /api/v1/auth/logout": Exchange(),
    "GET /api/v1/auth/api-keys": Exchange("admin"),
    "POST /api/v1/auth/api-keys": Exchange(
        "admin", body={"name": "script", "scopes": ["chat"], "expires_at": "2099-01-01T00:00:00Z"}
    ),
    "DELETE /api/v1/auth/api-keys/{}": Exchange("admin", values=(api_key,)),
    "POST /api/v1/auth/api-keys/{}/rotate": Exchange("admin", values=(api_key,)),
    "GET /api/v1/oauth/authorize": Exchange("admin", query=oauth_wish),
    "POST /api/v1/oauth/authorize/consent": Exchange("admin", body=consent, status=302),
    "POST /api/v1/oauth/token": Exchange(body=oauth_code, is_exempt=True),
    "POST /api/v1/oauth/revoke": Exchange(body={"token": "ppat_unknown"}, is_exempt=True),
    "GET /api/v1/qr": Exchange("admin"),
    "POST /api/v1/token/regenerate": Exchange("admin"),
    # Chat and sessions
    "POST /api/v1/chat": Exchange("chat", body=lambda world: {"content": "hello", "session_id": world.fresh("chat")}),
    "POST /api/v1/chat/stream": Exchange("chat", body={"content": "hello"}, is_stream=True),
    "POST /api/v1/chat/stop": Exchange("chat", query=running_turn, unknown={"session_id": "nosuch"}),
    "POST /api/v1/chat/approve": Exchange("chat", body=approval, unknown={"request_id": "nosuch", "approved": True}),
    "POST /api/v1/sessions": Exchange("sessions", body={}),
    "GET /api/v1/sessions": Exchange("sessions"),
    "GET /api/v1/sessions/{}": Exchange("sessions", values=(World.session,)),
    "DELETE /api/v1/sessions/{}": Exchange("sessions", values=(World.new_session,)),
    "POST /api/v1/sessions/{}/title": Exchange("sessions", values=(World.session,), body={"title": "Renamed"}),
    "GET /api/v1/sessions/search": Exchange("sessions", query={"q": "hello"}),
    "GET /api/v1/sessions/{}/history": Exchange("sessions", values=(World.session,)),
    "GET /api/v1/sessions/{}/messages": Exchange("sessions", values=(World.session,)),
    "GET /api/v1/sessions/{}/export": Exchange("sessions", values=(World.session,), query={"format": "json"}),
    "GET /api/v1/memory/session": Exchange("sessions", query=lambda world: {"id": world.session()}),
    # Health, events, runtime, figures
    "GET /api/v1/version": Exchange(),
    "GET /api/v1/health": Exchange(),
    "GET /api/v1/health/errors": Exchange("metrics"),
    "DELETE /api/v1/health/errors": Exchange("admin"),
    "POST /api/v1/health/check": Exchange("metrics"),
    "GET /health": Exchange(is_exempt=True),
    "GET /health/detailed": Exchange(is_exempt=True),
    "GET /health/ready": Exchange(is_exempt=True),
    "GET /health/live": Exchange(is_exempt=True),
    "GET /api/v1/events/stream": Exchange("metrics", is_stream=True),
    "GET /api/v1/agent/status": Exchange("sessions"),
    "GET /api/v1/agent/status/stream": Exchange("sessions", is_stream=True),
    "GET /api/v1/runtime/tree": Exchange("metrics"),
    "GET /api/v1/runtime/actors/{}": Exchange("metrics", values=("models/router",)),
    "POST /api/v1/runtime/actors/{}/restart": Exchange("admin", values=("models/router",)),
    "GET /api/v1/runtime/dead-letters": Exchange("metrics"),
    "GET /api/v1/metrics/system": Exchange("metrics"),
    "GET /api/v1/metrics/usage": Exchange("metrics"),
    "GET /api/v1/metrics/usage/recent": Exchange("metrics"),
    "DELETE /api/v1/metrics/usage": Exchange("admin"),
    "GET /metrics": Exchange("metrics"),
    # Audit
    "GET /api/v1/audit": Exchange("admin"),
    "GET /api/v1/audit/export": Exchange("admin", query={"format": "json"}),
    "DELETE /api/v1/audit": Exchange("admin"),
    "POST /api/v1/security-audit": Exchange("admin", body={}),
    "GET /api/v1/self-audit/reports": Exchange("admin"),
    "GET /api/v1/self-audit/reports/{}": Exchange("admin", values=(report_date,), absent="1999-01-01"),
    "POST /api/v1/self-audit/run": Exchange("admin"),
    # Settings, identity, memory, files
    "GET /api/v1/settings": Exchange("settings:read"),
    "PUT /api/v1/settings": Exchange("settings:write", body={"settings": {"tool_profile": "full"}}),
    "GET /api/v1/identity": Exchange("settings:read"),
    "PUT /api/v1/identity": Exchange("settings:write", body={"user_file": "# User\nName: Ann\n"}),
    "GET /api/v1/memory/long_term": Exchange("memory"),
    "DELETE /api/v1/memory/long_term/{}": Exchange("memory", values=(World.memory,)),
    "GET /api/v1/memory/settings": Exchange("memory"),
    "POST /api/v1/memory/settings": Exchange("memory", body={"auto_learn": False}),
    "GET /api/v1/memory/stats": Exchange("memory"),
    "GET /api/v1/files/browse": Exchange("files:read", query={"path": "~"}),
    "GET /api/v1/files/content": Exchange("files:read", query=text_file),
    "GET /api/v1/files/download": Exchange("files:read", query=text_file),
    "GET /api/v1/files/download-zip": Exchange("files:read", query={"path": "~"}),
    "GET /api/v1/files/recent": Exchange("files:read"),
    "POST /api/v1/files/write": Exchange("files:write", body={"path": "~/written.txt", "content": "hello"}),
    "POST /api/v1/files/upload": Exchange(
        "files:write", files=lambda world: {"file": (world.fresh("upload"), b"hello", "text/plain")}
    ),
    # Channels, webhooks, MCP, skills, kits, backends, remote
    "GET /api/v1/channels/status": Exchange("channels"),
    "POST /api/v1/channels/save": Exchange(
        "channels", body={"channel": "telegram", "config": {"bot_token": "123:abc", "allowed_user_id": 7}}
    ),
    "POST /api/v1/channels/toggle": Exchange("channels", body={"channel": "telegram", "action": "stop"}),
    "GET /api/v1/webhooks": Exchange("channels"),
    "POST /api/v1/webhooks/add": Exchange(
        "channels", body=lambda world: {"name": world.fresh("hook"), "description": "d", "sync_timeout": 30}
    ),
    "POST /api/v1/webhooks/remove": Exchange("channels", body=webhook_name, unknown={"name": "nosuch"}),
    "POST /api/v1/webhooks/regenerate-secret": Exchange("channels", body=webhook_name, unknown={"name": "nosuch"}),
    "POST /webhook/inbound/{}": Exchange(
        values=(lambda world: world.hook()["name"],),
        body={"text": "a parcel has come"},
        headers=lambda world: {"X-Webhook-Secret": world.hook()["secret"]},
        status=202,
        is_exempt=True,
        known_missing="a stranger does not learn which webhooks there are: 401",
    ),
    "GET /api/v1/mcp/status": Exchange("mcp"),
    "POST /api/v1/mcp/add": Exchange("mcp", body=mcp_server),
    "POST /api/v1/mcp/remove": Exchange("mcp", body=added_mcp_server, unknown={"name": "nosuch"}),
    "POST /api/v1/mcp/toggle": Exchange("mcp", body=added_mcp_server, unknown={"name": "nosuch"}),
    "POST /api/v1/mcp/test": Exchange("mcp", body=mcp_server),
    "GET /api/v1/mcp/presets": Exchange("mcp"),
    "POST /api/v1/mcp/presets/install": Exchange("mcp", body=preset, unknown={"preset_id": "nosuch"}),
    "GET /api/v1/skills": Exchange("skills"),
    "GET /api/v1/skills/search": Exchange("skills", query={"q": "poems"}),
    "POST /api/v1/skills/install": Exchange("skills", files=zipped_skill),
    "POST /api/v1/skills/remove": Exchange("skills", body=skill_name, unknown={"name": "nosuch"}),
    "POST /api/v1/skills/reload": Exchange("skills"),
    "GET /api/v1/kits/catalog": Exchange("kits"),
    "POST /api/v1/kits/catalog/{}/install": Exchange("kits", values=(kit_of_catalogue,)),
    "GET /api/v1/kits": Exchange("kits"),
    "GET /api/v1/kits/{}": Exchange("kits", values=(kit,)),
    "DELETE /api/v1/kits/{}": Exchange("kits", values=(kit,)),
    "POST /api/v1/kits/{}/activate": Exchange("kits", values=(kit,)),
    "GET /api/v1/backends": Exchange("settings:read"),
    "POST /api/v1/backends/install": Exchange(
        "admin", body={"backend": "openai_compatible"}, unknown={"backend": "nosuch"}
    ),
    "GET /api/v1/remote/status": Exchange("remote"),
    "POST /api/v1/remote/start": Exchange("remote"),
    "POST /api/v1/remote/stop": Exchange("remote"),
    # Reminders and intentions
    "GET /api/v1/reminders": Exchange("reminders"),
    "POST /api/v1/reminders": Exchange("reminders", body={"message": "in 2 hours to stretch"}),
    "DELETE /api/v1/reminders/{}": Exchange("reminders", values=(reminder,)),
    "GET /api/v1/intentions": Exchange("reminders"),
    "POST /api/v1/intentions": Exchange("reminders", body=new_intention),
    "PATCH /api/v1/intentions/{}": Exchange("reminders", values=(intention,), body={"name": "Evening"}),
    "DELETE /api/v1/intentions/{}": Exchange("reminders", values=(intention,)),
    "POST /api/v1/intentions/{}/toggle": Exchange("reminders", values=(intention,)),
    "POST /api/v1/intentions/{}/run": Exchange("reminders", values=(intention,)),
    # Documentation
    "GET /api/v1/openapi.json": Exchange(is_exempt=True),
    "GET /api/v1/docs": Exchange(is_exempt=True),
    "GET /api/v1/redoc": Exchange(is_exempt=True),
    "GET /swagger": Exchange(is_exempt=True),
    "GET /favicon.ico": Exchange(is_exempt=True, status=204),
}

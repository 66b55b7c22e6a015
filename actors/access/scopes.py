"""The scopes that a credential may have, with what each lets its holder do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from ...runtime import Principal
from ...runtime.errors import Forbidden

Scope = Literal[
    "chat",
    "sessions",
    "settings:read",
    "settings:write",
    "memory",
    "channels",
    "mcp",
    "skills",
    "reminders",
    "files:read",
    "files:write",
    "remote",
    "kits",
    "metrics",
    "admin",
]
"""`admin` implies all others."""

SCOPES: tuple[Scope, ...] = get_args(Scope)
MEANING: Mapping[Scope, str] = {
    "chat": "Talk to the agent",
    "sessions": "Read, rename and delete conversations",
    "settings:read": "See the settings",
    "settings:write": "Change the settings",
    "memory": "Read and delete what the agent remembers",
    "channels": "Manage channels and webhooks",
    "mcp": "Manage MCP servers and use their tools",
    "skills": "Manage skills",
    "reminders": "Manage reminders and intentions",
    "files:read": "Read files",
    "files:write": "Write files",
    "remote": "Open and close the tunnel",
    "kits": "Manage kits",
    "metrics": "See usage and load",
    "admin": "Do everything, without any limit",
}


def refuse_wider(principal: Principal, scopes: Sequence[str]) -> None:
    """Raise Forbidden, naming what is missing, if `principal` does not have each of `scopes` to give away."""
    if missing := [scope for scope in scopes if not principal.may(scope)]:
        raise Forbidden(f"nobody can give what they do not have: {', '.join(missing)}", scope=missing[0])

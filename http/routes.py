"""Every endpoint there is, in one list."""

from __future__ import annotations

from . import (
    auth,
    backends,
    chat,
    documentation,
    events,
    health,
    identity,
    mcp,
    mcp_server,
    memory,
    runtime,
    sessions,
    settings,
    skills,
    unbuilt,
)
from .route import Route

_API = [
    *auth.ROUTES,
    *chat.ROUTES,
    *sessions.ROUTES,
    *health.ROUTES,
    *events.ROUTES,
    *runtime.ROUTES,
    *backends.ROUTES,
    *mcp.ROUTES,
    *mcp_server.ROUTES,
    *identity.ROUTES,
    *memory.ROUTES,
    *skills.ROUTES,
    *settings.ROUTES,
    *unbuilt.ROUTES,
]
ROUTES: list[Route] = [*_API, *documentation.routes(_API)]

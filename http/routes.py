"""Every endpoint there is, in one list."""

from __future__ import annotations

from . import (
    api_keys,
    auth,
    backends,
    chat,
    documentation,
    events,
    files,
    health,
    identity,
    intentions,
    mcp,
    mcp_server,
    memory,
    metrics,
    oauth,
    qr,
    reminders,
    runtime,
    sessions,
    settings,
    skills,
    unbuilt,
    webhooks,
)
from .route import Route

_API = [
    *auth.ROUTES,
    *api_keys.ROUTES,
    *oauth.ROUTES,
    *qr.ROUTES,
    *chat.ROUTES,
    *sessions.ROUTES,
    *health.ROUTES,
    *events.ROUTES,
    *runtime.ROUTES,
    *reminders.ROUTES,
    *intentions.ROUTES,
    *backends.ROUTES,
    *mcp.ROUTES,
    *mcp_server.ROUTES,
    *identity.ROUTES,
    *memory.ROUTES,
    *files.ROUTES,
    *metrics.ROUTES,
    *skills.ROUTES,
    *settings.ROUTES,
    *webhooks.ROUTES,
    *unbuilt.ROUTES,
]
ROUTES: list[Route] = [*_API, *documentation.routes(_API)]

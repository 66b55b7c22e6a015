"""Every endpoint there is, in one list."""

from __future__ import annotations

from . import auth, chat, documentation, events, health, runtime, sessions, settings, unbuilt
from .route import Route

_API = [
    *auth.ROUTES,
    *chat.ROUTES,
    *sessions.ROUTES,
    *health.ROUTES,
    *events.ROUTES,
    *runtime.ROUTES,
    *settings.ROUTES,
    *unbuilt.ROUTES,
]
ROUTES: list[Route] = [*_API, *documentation.routes(_API)]

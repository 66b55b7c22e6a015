"""Who the agent is."""

from __future__ import annotations

from ..actors.identity import ChangeIdentity, GetIdentity
from .route import get, put

ROUTES = [
    get("/identity", GetIdentity, scope="settings:read"),
    put("/identity", ChangeIdentity, scope="settings:write"),
]

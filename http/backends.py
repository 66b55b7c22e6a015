"""The model backends: which there are, and how to get what they need."""

from __future__ import annotations

from ..actors.models.installer import InstallBackend, ListBackends
from .route import get, post

ROUTES = [
    get("/backends", ListBackends, scope="settings:read"),
    post("/backends/install", InstallBackend, scope="admin"),
]

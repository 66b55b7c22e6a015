"""The supervision tree as it is at this moment."""

from __future__ import annotations

from ..actors.inspector import GetActor, GetTree, ListDeadLetters, RestartActor
from .route import get, post

SCOPE = "metrics"
ROUTES = [
    get("/runtime/tree", GetTree, scope=SCOPE),
    get("/runtime/actors/{path}", GetActor, scope=SCOPE),
    post("/runtime/actors/{path}/restart", RestartActor, scope="admin"),
    get("/runtime/dead-letters", ListDeadLetters, scope=SCOPE),
]

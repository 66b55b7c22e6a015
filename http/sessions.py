"""Sessions: what people see in their list of chats."""

from __future__ import annotations

from quart import Response

from ..storage.export import ExportSession
from ..storage.history import GetHistory
from ..storage.search import SearchSessions
from ..storage.sessions import CreateSession, DeleteSession, GetSession, ListSessions, RenameSession
from .call import Call
from .route import delete, get, post


async def export_session(call: Call, message: ExportSession) -> Response:
    """Download a whole session as JSON or Markdown."""
    exported = await call.ask(message)
    headers = {
        "Content-Type": exported.content_type,
        "Content-Disposition": f'attachment; filename="{exported.filename}"',
    }
    return Response(exported.content, 200, headers)


SCOPE = "sessions"
ROUTES = [
    post("/sessions", CreateSession, scope=SCOPE, only=("title",), audit=False),
    get("/sessions", ListSessions, scope=SCOPE),
    get("/sessions/search", SearchSessions, scope=SCOPE),
    get("/sessions/{session_id}", GetSession, scope=SCOPE),
    delete("/sessions/{session_id}", DeleteSession, scope=SCOPE),
    post("/sessions/{session_id}/title", RenameSession, scope=SCOPE, audit=False),
    get("/sessions/{session_id}/history", GetHistory, scope=SCOPE),
    get("/sessions/{session_id}/messages", GetHistory, scope=SCOPE),
    get("/sessions/{session_id}/export", export_session, scope=SCOPE, produces="application/json, text/markdown"),
    get("/memory/session", GetHistory, scope=SCOPE, wire={"session_id": "id"}),
]

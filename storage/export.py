"""A session as a file to keep: JSON for programs, Markdown for people."""

from __future__ import annotations

from typing import Literal

import msgspec
from sqlalchemy import Connection, bindparam, select

from ..runtime.message import Message
from .registry import query
from .sessions import GetSession, Session, SessionId, get_session
from .tables import JsonObject, messages, utc_now

CONTENT_TYPES = {"json": "application/json", "md": "text/markdown; charset=utf-8"}


class ExportedSession(msgspec.Struct, frozen=True):
    filename: str
    content_type: str
    content: str


class ExportSession(Message[ExportedSession], to="store/reader"):
    """Write a whole session out, oldest message first."""

    session_id: SessionId
    format: Literal["json", "md"] = "json"


_ALL = (
    select(messages.c.id, messages.c.role, messages.c.content, messages.c.created_at, messages.c.metadata)
    .where(messages.c.session_id == bindparam("session_id"))
    .order_by(messages.c.id)
)


@query
def export_session(connection: Connection, message: ExportSession) -> ExportedSession:
    session = get_session(connection, GetSession(session_id=message.session_id))
    said: list[JsonObject] = [
        {"id": str(message_id), "role": role, "content": content, "timestamp": created_at, "metadata": metadata or {}}
        for message_id, role, content, created_at, metadata in connection.execute(_ALL, {"session_id": session.id})
    ]
    content = _as_json(session, said) if message.format == "json" else _as_markdown(session, said)
    filename = f"pocketpaw-session-{session.id.replace(':', '_')[:40]}.{message.format}"
    return ExportedSession(filename, CONTENT_TYPES[message.format], content)


def _as_json(session: Session, said: list[JsonObject]) -> str:
    document: JsonObject = {
        "export_version": "1.0",
        "exported_at": utc_now(),
        "session_id": session.id,
        "title": session.title,
        "message_count": len(said),
        "messages": said,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def _as_markdown(session: Session, said: list[JsonObject]) -> str:
    title = " ".join(session.title.split())
    facts = f"**Session**: `{session.id}` | **Messages**: {len(said)} | **Exported**: {utc_now():%Y-%m-%d %H:%M} UTC"
    parts = [f"# {title}\n\n{facts}"]
    parts += [
        f"**{str(message['role']).capitalize()}** ({message['timestamp']:%Y-%m-%d %H:%M}):\n\n{message['content']}"
        for message in said
    ]
    return "\n\n---\n\n".join(parts) + "\n"

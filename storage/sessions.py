"""Sessions: what people see in their list of chats."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Annotated

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from ..runtime.errors import Conflict, NotFound
from ..runtime.message import Message
from .registry import command, query, recurring_query
from .tables import PlainText, sessions, utc_now

UNTITLED = "New Chat"
TITLE_LENGTH = 60  # of a title taken from the first message

# The look-ahead keeps out the trailing line break that `$` alone lets pass.
SessionId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9:._-]{1,128}$(?!\n)")]
Title = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Ok(msgspec.Struct, frozen=True):
    status: str = "ok"


class SessionCreated(msgspec.Struct, frozen=True):
    id: str
    title: str


class Session(msgspec.Struct, frozen=True):
    id: str
    title: str
    channel: str
    created_at: datetime
    updated_at: datetime
    last_activity: datetime
    message_count: int


class SessionPage(msgspec.Struct, frozen=True):
    sessions: list[Session]
    total: int


class CreateSession(Message[SessionCreated], to="store/writer"):
    """Make a session; without a title it is called "New Chat" until its first message names it."""

    title: Title | None = None
    channel: str = "api"
    session_id: SessionId | None = None


class ListSessions(Message[SessionPage], to="store/reader"):
    """List sessions, newest activity first."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 50
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0


class GetSession(Message[Session], to="store/reader"):
    """Show one session."""

    session_id: SessionId


class RenameSession(Message[Ok], to="store/writer"):
    """Give a session a title."""

    session_id: SessionId
    title: Title


class DeleteSession(Message[Ok], to="store/writer"):
    """Delete a session with its messages and turns; what it cost stays in the usage."""

    session_id: SessionId


_INSERT = insert(sessions)
_COLUMNS = (
    sessions.c.id,
    func.coalesce(sessions.c.title, UNTITLED).label("title"),
    sessions.c.channel,
    sessions.c.created_at,
    sessions.c.updated_at,
    sessions.c.last_activity,
    sessions.c.message_count,
)
_PAGE = (
    select(*_COLUMNS)
    .order_by(sessions.c.last_activity.desc(), sessions.c.id.desc())
    .limit(bindparam("limit"))
    .offset(bindparam("offset"))
)
_COUNT = select(func.count()).select_from(sessions)
_ONE = select(*_COLUMNS).where(sessions.c.id == bindparam("session_id"))
_EXISTS = select(sessions.c.id).where(sessions.c.id == bindparam("session_id"))
_RENAME = (
    update(sessions)
    .where(sessions.c.id == bindparam("session_id"))
    .values(title=bindparam("new_title"), updated_at=bindparam("now"))
)
_DELETE = delete(sessions).where(sessions.c.id == bindparam("session_id"))
_TOUCH = (
    update(sessions)
    .where(sessions.c.id == bindparam("session_id"))
    .values(
        title=func.coalesce(sessions.c.title, bindparam("new_title", type_=PlainText)),
        updated_at=bindparam("now"),
        last_activity=bindparam("now"),
        message_count=sessions.c.message_count + 1,
    )
)


@command
def create_session(connection: Connection, message: CreateSession) -> SessionCreated:
    session_id = message.session_id or f"s-{secrets.token_hex(6)}"
    try:
        _insert(connection, session_id, message.title, message.channel, utc_now(), message_count=0)
    except IntegrityError as error:
        raise Conflict(f"there is a session {session_id!r} already", session_id=session_id) from error
    return SessionCreated(session_id, message.title or UNTITLED)


@recurring_query
def list_sessions(connection: Connection, message: ListSessions) -> SessionPage:
    rows = connection.execute(_PAGE, {"limit": message.limit, "offset": message.offset})
    return SessionPage([Session(*row) for row in rows], connection.execute(_COUNT).scalar_one())


@query
def get_session(connection: Connection, message: GetSession) -> Session:
    row = connection.execute(_ONE, {"session_id": message.session_id}).first()
    if row is None:
        raise no_session(message.session_id)
    return Session(*row)


@command
def rename_session(connection: Connection, message: RenameSession) -> Ok:
    changes = {"session_id": message.session_id, "new_title": message.title, "now": utc_now()}
    if connection.execute(_RENAME, changes).rowcount == 0:
        raise no_session(message.session_id)
    return Ok()


@command
def delete_session(connection: Connection, message: DeleteSession) -> Ok:
    if connection.execute(_DELETE, {"session_id": message.session_id}).rowcount == 0:
        raise no_session(message.session_id)
    return Ok()


def count_message(connection: Connection, session_id: str, now: datetime, *, first_content: str | None = None) -> bool:
    """Note a new message in its session; False if there is none. `first_content` names one that has no title."""
    title = _title_from(first_content) if first_content is not None else None
    return connection.execute(_TOUCH, {"session_id": session_id, "new_title": title, "now": now}).rowcount == 1


def open_session(connection: Connection, session_id: str, channel: str, content: str, now: datetime) -> bool:
    """Note a first or further message of a person, making its session if need be; True if it was made."""
    if count_message(connection, session_id, now, first_content=content):
        return False
    _insert(connection, session_id, _title_from(content), channel, now, message_count=1)
    return True


def require_session(connection: Connection, session_id: str) -> None:
    if connection.execute(_EXISTS, {"session_id": session_id}).first() is None:
        raise no_session(session_id)


def no_session(session_id: str) -> NotFound:
    return NotFound(f"there is no session {session_id!r}", session_id=session_id)


def _insert(
    connection: Connection, session_id: str, title: str | None, channel: str, now: datetime, *, message_count: int
) -> None:
    times = {"created_at": now, "updated_at": now, "last_activity": now}
    row = {"id": session_id, "title": title, "channel": channel, "message_count": message_count}
    connection.execute(_INSERT, {**row, **times})


def _title_from(content: str) -> str | None:
    """The first line that says something, cut; None if none does."""
    for line in content[:1000].splitlines():
        if words := " ".join(line.split()):
            return words if len(words) <= TITLE_LENGTH else words[: TITLE_LENGTH - 1].rstrip() + "…"
    return None

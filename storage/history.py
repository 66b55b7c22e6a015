"""The messages of a session, as people and models read them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from sqlalchemy import BigInteger, Connection, bindparam, or_, select

from ..runtime.errors import NotFound
from ..runtime.message import Message
from .registry import query
from .sessions import SessionId, require_session
from .tables import AnyRow, JsonObject, messages, turns

NEWEST = 2**63 - 1  # above every message id


class HistoryMessage(msgspec.Struct, frozen=True):
    """One message; `metadata` always has `message_id`, which is also the cursor, and `turn_id` if it came in a turn."""

    role: str
    content: str
    timestamp: datetime
    metadata: JsonObject


class ContextMessage(msgspec.Struct, frozen=True):
    """One message as a model's context has it, under the id of the question that it is or answers.

    `principal` and `scopes` are those of who asked, both None where it came in no turn; `provenance` names the outside
    content that went into it.
    """

    question_id: int
    role: str
    content: str
    provenance: list[str]
    principal: str | None = None
    scopes: list[str] | None = None


class GetHistory(Message[list[HistoryMessage]], to="store/reader"):
    """Read the newest messages of a session, oldest first; `before` is a `message_id`, to page backwards."""

    session_id: SessionId
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 50
    before: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,18}$")] | None = None


class GetTurnHistory(Message[list[ContextMessage]], to="store/reader"):
    """Read what was said before a turn, oldest first, each reply behind its question.

    Unlike GetHistory with `before`, it has the replies that came while the turn was waiting in the queue, and not the
    questions behind it.
    """

    turn_id: str
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 50


_COLUMNS = (
    messages.c.id,
    messages.c.reply_to,
    messages.c.turn_id,
    messages.c.role,
    messages.c.content,
    messages.c.created_at,
    messages.c.metadata,
)
_IN_SESSION = messages.c.session_id == bindparam("session_id")
_BEFORE = bindparam("before", type_=BigInteger)
_NEWEST_FIRST = select(*_COLUMNS).where(_IN_SESSION).order_by(messages.c.id.desc()).limit(bindparam("limit"))
_PAGE = _NEWEST_FIRST.where(messages.c.id < _BEFORE)
_CONTEXT = (
    select(
        messages.c.id,
        messages.c.reply_to,
        messages.c.role,
        messages.c.content,
        messages.c.metadata,
        turns.c.principal,
        turns.c.scopes,
    )
    .join_from(messages, turns, messages.c.turn_id == turns.c.id, isouter=True)
    .where(_IN_SESSION, or_(messages.c.id < _BEFORE, messages.c.reply_to < _BEFORE))
    .order_by(messages.c.id.desc())
    .limit(bindparam("limit"))
)
_QUESTION = select(messages.c.id, messages.c.session_id).where(
    messages.c.turn_id == bindparam("turn_id"), messages.c.role == "user"
)


@query
def get_history(connection: Connection, message: GetHistory) -> list[HistoryMessage]:
    require_session(connection, message.session_id)
    page = {"session_id": message.session_id, "before": _cursor(message.before), "limit": message.limit}
    rows = connection.execute(_PAGE, page).all()
    return [_read(row) for row in reversed(rows)]


@query
def get_turn_history(connection: Connection, message: GetTurnHistory) -> list[ContextMessage]:
    question = connection.execute(_QUESTION, {"turn_id": message.turn_id}).first()
    if question is None:
        raise NotFound(f"there is no turn {message.turn_id!r}", turn_id=message.turn_id)
    return read_context(connection, question.session_id, question.id, message.limit)


def read_context(connection: Connection, session_id: str, question_id: int, limit: int) -> list[ContextMessage]:
    """What was said before the question, oldest first, each reply behind its own question."""
    rows = connection.execute(_CONTEXT, {"session_id": session_id, "before": question_id, "limit": limit}).all()
    return [_in_context(row) for row in sorted(rows, key=_place)]


def _place(row: AnyRow) -> tuple[int, int]:
    return (row[0] if row[1] is None else row[1], row[0])


def _in_context(row: AnyRow) -> ContextMessage:
    message_id, reply_to, role, content, metadata, principal, scopes = row
    known: dict[str, list[str]] = metadata or {}
    provenance = known.get("provenance", [])
    may: list[str] | None = None if principal is None else scopes or []
    return ContextMessage(reply_to or message_id, role, content, provenance, principal, may)


def _read(row: AnyRow) -> HistoryMessage:
    message_id, _, turn_id, role, content, created_at, metadata = row
    known: JsonObject = {"message_id": str(message_id)}
    if turn_id is not None:
        known["turn_id"] = turn_id
    return HistoryMessage(role, content, created_at, {**metadata, **known} if metadata else known)


def _cursor(before: str | None) -> int:
    return NEWEST if before is None else int(before)

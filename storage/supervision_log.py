"""What supervisors did: starts, exits, restarts, parkings, escalations; the newest 10,000 are kept."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, insert, select

from ..runtime.message import Done, Message
from .registry import command, query
from .tables import supervision_events

KEPT = 10_000


class SupervisionEvent(msgspec.Struct, frozen=True):
    """`path` is the child's place in the tree, `event` what happened, in the past tense ("restarted")."""

    timestamp: datetime
    path: str
    event: str
    incarnation: int
    reason: str | None = None


class RecordSupervisionEvents(Message[Done], to="store/writer"):
    """Keep events, in the order in which they happened."""

    events: list[SupervisionEvent]


class ListSupervisionEvents(Message[list[SupervisionEvent]], to="store/reader"):
    """List events, newest first; with `path`, only those of that child."""

    path: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 100
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0


_INSERT = insert(supervision_events)
_NEWEST_ID = select(func.max(supervision_events.c.id))
_DELETE_OLD = delete(supervision_events).where(supervision_events.c.id <= bindparam("through"))
_NEWEST = (
    select(
        supervision_events.c.timestamp,
        supervision_events.c.path,
        supervision_events.c.event,
        supervision_events.c.incarnation,
        supervision_events.c.reason,
    )
    .order_by(supervision_events.c.id.desc())
    .limit(bindparam("limit"))
    .offset(bindparam("offset"))
)


@command
def record_supervision_events(connection: Connection, message: RecordSupervisionEvents) -> Done:
    if message.events:
        connection.execute(_INSERT, [msgspec.structs.asdict(happened) for happened in message.events])
        newest = connection.execute(_NEWEST_ID).scalar_one()
        connection.execute(_DELETE_OLD, {"through": newest - KEPT})
    return Done()


@query
def list_supervision_events(connection: Connection, message: ListSupervisionEvents) -> list[SupervisionEvent]:
    statement = _NEWEST if message.path is None else _NEWEST.where(supervision_events.c.path == message.path)
    rows = connection.execute(statement, {"limit": message.limit, "offset": message.offset})
    return [SupervisionEvent(*row) for row in rows]

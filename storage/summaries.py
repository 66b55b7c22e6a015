"""Summaries: what stands for the older part of a long session when a model is asked; the store keeps the whole."""

from __future__ import annotations

from typing import Annotated

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select

from ..runtime.message import Done, Message
from .registry import command, query
from .sessions import SessionId, require_session
from .tables import summaries, utc_now


class Summary(msgspec.Struct, frozen=True):
    """`up_to` is the `message_id` of the last message that it sums up; `provenance` that of what it was made from."""

    up_to: str
    content: str
    provenance: list[str]


class KeepSummary(Message[Done], to="store/writer"):
    """Keep the summary of a session in the place of an older one."""

    session_id: SessionId
    up_to: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,18}$")]
    content: str
    provenance: list[str]


class GetSummary(Message[Summary | None], to="store/reader"):
    """Read the summary of a session, if it has one."""

    session_id: SessionId


_SUMMARY = select(summaries.c.up_to, summaries.c.content, summaries.c.provenance).where(
    summaries.c.session_id == bindparam("session_id")
)
_DELETE = delete(summaries).where(summaries.c.session_id == bindparam("session_id"))
_INSERT = insert(summaries)


@command
def keep_summary(connection: Connection, message: KeepSummary) -> Done:
    require_session(connection, message.session_id)
    connection.execute(_DELETE, {"session_id": message.session_id})
    connection.execute(
        _INSERT, {**msgspec.structs.asdict(message), "up_to": int(message.up_to), "updated_at": utc_now()}
    )
    return Done()


@query
def get_summary(connection: Connection, message: GetSummary) -> Summary | None:
    row = connection.execute(_SUMMARY, {"session_id": message.session_id}).first()
    return None if row is None else Summary(str(row.up_to), row.content, row.provenance)

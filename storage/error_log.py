"""The health engine's errors: the newest 10,000 are kept."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, or_, select

from ..runtime.message import Done, Message
from .registry import command, recurring_query
from .tables import AnyRow, JsonObject, errors, plain, utc_now

KEPT = 10_000

Severity = Literal["warning", "error", "critical"]


class ErrorRecord(msgspec.Struct, frozen=True):
    id: str
    timestamp: datetime
    source: str
    severity: Severity
    message: str
    traceback: str | None
    context: JsonObject


class RecordError(Message[ErrorRecord], to="store/writer"):
    """Keep an error; `source` is the path of the actor or the name of the check that it comes from."""

    source: str
    severity: Severity = "error"
    message: str
    traceback: str | None = None
    context: JsonObject = msgspec.field(default_factory=JsonObject)
    timestamp: datetime | None = None


class ListErrors(Message[list[ErrorRecord]], to="store/reader"):
    """List errors, newest first; `search` is looked for in source and message, whatever its case."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 20
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    search: str = ""


class ClearErrors(Message[Done], to="store/writer"):
    """Forget all errors."""


_INSERT = insert(errors)
_DELETE_OLD = delete(errors).where(errors.c.id <= bindparam("through"))
_DELETE_ALL = delete(errors)
_COLUMNS = (
    errors.c.id,
    errors.c.timestamp,
    errors.c.source,
    errors.c.severity,
    errors.c.message,
    errors.c.traceback,
    errors.c.context,
)
_NEWEST = select(*_COLUMNS).order_by(errors.c.id.desc()).limit(bindparam("limit")).offset(bindparam("offset"))


@command
def record_error(connection: Connection, message: RecordError) -> ErrorRecord:
    timestamp = message.timestamp or utc_now()
    row = {**msgspec.structs.asdict(message), "timestamp": timestamp, "context": message.context or None}
    inserted = connection.execute(_INSERT, row).inserted_primary_key
    assert inserted is not None
    connection.execute(_DELETE_OLD, {"through": inserted[0] - KEPT})
    return ErrorRecord(
        str(inserted[0]),
        timestamp,
        message.source,
        message.severity,
        message.message,
        message.traceback,
        message.context,
    )


@recurring_query
def list_errors(connection: Connection, message: ListErrors) -> list[ErrorRecord]:
    statement = _NEWEST
    if message.search:
        wanted = plain(message.search)
        statement = statement.where(
            or_(errors.c.source.icontains(wanted, autoescape=True), errors.c.message.icontains(wanted, autoescape=True))
        )
    rows = connection.execute(statement, {"limit": message.limit, "offset": message.offset})
    return [_read(row) for row in rows]


@command
def clear_errors(connection: Connection, _message: ClearErrors) -> Done:
    connection.execute(_DELETE_ALL)
    return Done()


def _read(row: AnyRow) -> ErrorRecord:
    error_id, timestamp, source, severity, text, traceback, context = row
    return ErrorRecord(str(error_id), timestamp, source, severity, text, traceback, context or {})

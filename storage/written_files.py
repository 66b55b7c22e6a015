"""Which files tools have written, as the record of their calls says."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from sqlalchemy import Connection, bindparam, func, select

from ..runtime.message import Message
from .registry import recurring_query
from .tables import tool_calls

TOOLS = ("write_file", "edit_file")
CALLS_LOOKED_AT = 20_000
"""The latest: so that a long record is not read to its beginning for files that were never written."""


class WrittenFile(msgspec.Struct, frozen=True):
    """`path` is as the tool was told it."""

    path: str
    tool: str
    timestamp: datetime


class ListWrittenFiles(Message[list[WrittenFile]], to="store/reader"):
    """List what tools have written, newest first; a file that was written twice is there twice."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 500


_NEWEST = select(func.coalesce(func.max(tool_calls.c.id), 0)).scalar_subquery()
_WRITTEN = (
    select(tool_calls.c.arguments["path"].as_string(), tool_calls.c.tool, tool_calls.c.ended_at)
    .where(
        tool_calls.c.id > _NEWEST - CALLS_LOOKED_AT,
        tool_calls.c.tool.in_(TOOLS),
        tool_calls.c.state == "done",
        tool_calls.c.ended_at.is_not(None),
    )
    .order_by(tool_calls.c.id.desc())
    .limit(bindparam("limit"))
)


@recurring_query
def list_written_files(connection: Connection, message: ListWrittenFiles) -> list[WrittenFile]:
    rows = connection.execute(_WRITTEN, {"limit": message.limit})
    return [WrittenFile(path, tool, timestamp) for path, tool, timestamp in rows if path is not None]

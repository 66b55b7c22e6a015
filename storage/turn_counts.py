"""How many turns there are in each state."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from ..runtime.message import Message
from .registry import query
from .tables import turns


class CountTurns(Message[dict[str, int]], to="store/reader"):
    """Count the turns by state."""


_BY_STATE = select(turns.c.state, func.count()).group_by(turns.c.state)


@query
def count_turns(connection: Connection, _message: CountTurns) -> dict[str, int]:
    return {state: int(count) for state, count in connection.execute(_BY_STATE)}

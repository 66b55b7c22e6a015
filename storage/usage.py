"""What models cost: a row for each that had a part in a finished turn, kept when the session is deleted.

A reset forgets these rows and nothing else: turns go on, and those that end later are counted anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, insert, literal_column, select

from ..runtime.message import Done, Message
from .registry import command, recurring_query
from .tables import UtcDateTime, turns, usage, utc_now

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class Usage(msgspec.Struct, frozen=True):
    """What one reply took, and who answered; `cost_usd` is None where the price is not known."""

    input_tokens: Tokens
    output_tokens: Tokens
    total_tokens: Tokens
    model: str
    backend: str
    cost_usd: float | None = None


class UsageShare(msgspec.Struct, frozen=True):
    """The part of one model or one backend."""

    total_tokens: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    requests: int


class UsageSummary(UsageShare, frozen=True):
    by_model: dict[str, UsageShare]
    by_backend: dict[str, UsageShare]


class GetUsage(Message[UsageSummary], to="store/reader"):
    """Sum up the usage since a time, by default of all time; replies of unknown price count as 0 in `cost_usd`."""

    since: Annotated[datetime, msgspec.Meta(tz=True)] = EARLIEST


class UsageRecord(msgspec.Struct, frozen=True):
    """One model's part in one reply; `session_id` is null once the session is deleted."""

    timestamp: datetime
    backend: str
    model: str
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost_usd: float | None
    session_id: str | None


class ListRecentUsage(Message[list[UsageRecord]], to="store/reader"):
    """List what the latest replies took, newest first."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 50


class ResetUsage(Message[Done], to="store/writer"):
    """Forget what all replies so far have taken."""


_INSERT = insert(usage)
_BY_MODEL_AND_BACKEND = (
    select(
        usage.c.model,
        usage.c.backend,
        func.sum(usage.c.total_tokens).label("total_tokens"),
        func.sum(usage.c.input_tokens).label("input_tokens"),
        func.sum(usage.c.output_tokens).label("output_tokens"),
        func.coalesce(func.sum(usage.c.cost_usd), literal_column("0.0")).label("cost_usd"),
        func.count().label("requests"),
    )
    .where(usage.c.created_at >= bindparam("since", type_=UtcDateTime))
    .group_by(usage.c.model, usage.c.backend)
)
_RECENT = (
    select(
        usage.c.created_at,
        usage.c.backend,
        usage.c.model,
        usage.c.input_tokens,
        usage.c.output_tokens,
        usage.c.total_tokens,
        usage.c.cost_usd,
        turns.c.session_id,
    )
    .outerjoin(turns, turns.c.id == usage.c.turn_id)
    .order_by(usage.c.id.desc())
    .limit(bindparam("limit"))
)


def add_usage(connection: Connection, turn_id: str, spent: Usage) -> None:
    connection.execute(_INSERT, {**msgspec.structs.asdict(spent), "turn_id": turn_id, "created_at": utc_now()})


def sum_of(parts: Sequence[Usage]) -> Usage | None:
    """What a turn took in all, under the name of the model that answered last; None if nothing is known."""
    if not parts:
        return None
    prices = [part.cost_usd for part in parts if part.cost_usd is not None]
    return Usage(
        sum(part.input_tokens for part in parts),
        sum(part.output_tokens for part in parts),
        sum(part.total_tokens for part in parts),
        parts[-1].model,
        parts[-1].backend,
        sum(prices) if len(prices) == len(parts) else None,
    )


@recurring_query
def get_usage(connection: Connection, message: GetUsage) -> UsageSummary:
    by_model: dict[str, UsageShare] = {}
    by_backend: dict[str, UsageShare] = {}
    total = UsageShare(0, 0, 0, 0.0, 0)
    for model, backend, *sums in connection.execute(_BY_MODEL_AND_BACKEND, {"since": message.since}):
        share = UsageShare(*sums)
        by_model[model] = _plus(by_model.get(model), share)
        by_backend[backend] = _plus(by_backend.get(backend), share)
        total = _plus(total, share)
    return UsageSummary(**msgspec.structs.asdict(total), by_model=by_model, by_backend=by_backend)


@recurring_query
def list_recent_usage(connection: Connection, message: ListRecentUsage) -> list[UsageRecord]:
    return [UsageRecord(*row) for row in connection.execute(_RECENT, {"limit": message.limit})]


@command
def reset_usage(connection: Connection, _message: ResetUsage) -> Done:
    connection.execute(delete(usage))
    return Done()


def _plus(one: UsageShare | None, other: UsageShare) -> UsageShare:
    if one is None:
        return other
    return UsageShare(
        *(a + b for a, b in zip(msgspec.structs.astuple(one), msgspec.structs.astuple(other), strict=True))
    )

"""What models cost: a row for each that had a part in a finished turn, kept when the session is deleted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from sqlalchemy import Connection, bindparam, func, insert, literal_column, or_, select

from ..runtime.message import Message
from .registry import query
from .tables import UtcDateTime, usage, utc_now

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
    """Sum up the usage since a time, or of all time; replies of unknown price count as 0 in `cost_usd`."""

    since: datetime | None = None


_INSERT = insert(usage)
_SINCE = bindparam("since", type_=UtcDateTime)
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
    .where(or_(_SINCE.is_(None), usage.c.created_at >= _SINCE))
    .group_by(usage.c.model, usage.c.backend)
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


@query
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


def _plus(one: UsageShare | None, other: UsageShare) -> UsageShare:
    if one is None:
        return other
    return UsageShare(
        *(a + b for a, b in zip(msgspec.structs.astuple(one), msgspec.structs.astuple(other), strict=True))
    )

"""The outbox: what is to be said on a chat platform, until it is known what became of it.

Invariant: an attempt is on disk before it is made. So what was being tried when the daemon died is known, and tried
again as a repeat; what is `sent` is never tried again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

import msgspec
from sqlalchemy import Boolean, Connection, bindparam, case, func, insert, select, update

from ..runtime.message import Done, Message
from .registry import command, query
from .tables import outbox

KEPT = timedelta(hours=24)
"""What could not be said for so long is not said any more: nobody waits for it."""

UNSURE_LIMIT = 5
"""A message that was being tried so often when all broke is left alone: it may be what breaks it."""

REPORTED = timedelta(hours=24)


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is to be said. `is_repeat`: it may have arrived before. With a `ref` it is said by editing."""

    id: int
    key: str
    channel: str
    chat: str
    thread: str
    reply_to: str | None
    text: str
    ref: str | None
    attempts: int
    is_repeat: bool


class NextDelivery(msgspec.Struct, frozen=True):
    """What to say now; else when something will be due, if something waits."""

    outgoing: Outgoing | None
    due_at: datetime | None


class RecoverOutbox(Message[Done], to="store/writer"):
    """Take over from the former lives of a channel: what they were trying has to be tried again.

    Where a platform knows a repeat by its key (`is_idempotent`), that is no repeat to anybody.
    """

    channel: str
    claim: str
    is_idempotent: bool
    now: datetime


class ClaimDelivery(Message[NextDelivery], to="store/writer"):
    """Take the next message that is due, oldest first, and none before those that wait ahead of it in its chat."""

    channel: str
    claim: str
    now: datetime


class EndDelivery(Message[Done], to="store/writer"):
    """Say what came of an attempt.

    `retry`: it has not arrived, and is due again at `retry_at`. `unsure`: nobody knows, and so it is tried again as a
    repeat. `dead`: it never will. Only the life that claimed it may say so; again the same is the same.
    """

    outgoing_id: int
    claim: str
    outcome: Literal["sent", "retry", "unsure", "dead"]
    is_idempotent: bool = False
    ref: str | None = None
    error: str | None = None
    retry_at: datetime | None = None
    now: datetime


class BeginDraft(Message[Outgoing | None], to="store/writer"):
    """Keep that the first words of an answer are being said, before they are; None if that was tried before."""

    key: str
    channel: str
    chat: str
    thread: str
    reply_to: str | None
    claim: str
    now: datetime


class EndDraft(Message[Done], to="store/writer"):
    """Say what came of the first words: with a `ref` they stand in the chat, to be edited. `is_unsure`: who knows."""

    outgoing_id: int
    claim: str
    ref: str | None
    is_unsure: bool = False


class Line(msgspec.Struct, frozen=True):
    """One message of the outbox, as whoever adds it says it."""

    key: str
    channel: str
    chat: str
    thread: str
    text: str
    reply_to: str | None = None


class AddOutgoing(Message[Done], to="store/writer"):
    """Have something said. What has the key of an earlier one is that one, and not said again."""

    line: Line
    now: datetime


class OutboxSum(msgspec.Struct, frozen=True):
    """A channel's outbox: what waits, since when, and what was given up in the last 24 hours."""

    channel: str
    waiting: int
    oldest: datetime | None
    given_up: int


class SumUpOutbox(Message[list[OutboxSum]], to="store/reader"):
    """Say how the outbox of each channel is."""

    now: datetime


_NAMES = Outgoing.__struct_fields__
_ROW_ID = outbox.c.id == bindparam("row_id")
_MINE = outbox.c.claim == bindparam("by_claim")
_OF_CHANNEL = outbox.c.channel == bindparam("of_channel")
_ahead = outbox.alias("ahead")
_HAS_AHEAD = (
    select(_ahead.c.id)
    .where(
        _ahead.c.channel == outbox.c.channel,
        _ahead.c.chat == outbox.c.chat,
        _ahead.c.state.in_(("pending", "sending")),
        _ahead.c.id < outbox.c.id,
        _ahead.c.text != "",  # the first words of an answer keep nobody waiting
    )
    .exists()
)
_COLUMNS = tuple(outbox.c[name] for name in _NAMES)
_IS_DUE = (outbox.c.due_at <= bindparam("now")) | (outbox.c.created_at > bindparam("now"))  # or the clock was wrong
_NEXT = (
    select(*_COLUMNS, outbox.c.created_at)
    .where(_OF_CHANNEL, outbox.c.state == "pending", _IS_DUE, ~_HAS_AHEAD)
    .order_by(outbox.c.id)
    .limit(1)
)
_NEXT_DUE = select(func.min(outbox.c.due_at)).where(
    _OF_CHANNEL, outbox.c.state == "pending", outbox.c.due_at > bindparam("now")
)
_CLAIM = (
    update(outbox).where(_ROW_ID).values(state="sending", claim=bindparam("by_claim"), attempts=outbox.c.attempts + 1)
)
_EXPIRE = update(outbox).where(_ROW_ID).values(state="expired", text="", error=bindparam("new_error"))
_BY_KEY = select(*_COLUMNS, outbox.c.state).where(outbox.c.key == bindparam("row_key"))
_LEFT = _OF_CHANNEL, outbox.c.state == "sending", outbox.c.claim != bindparam("by_claim")
_IS_POISON = outbox.c.unsure + 1 >= UNSURE_LIMIT
_IS_DRAFT = outbox.c.text == ""
_MAY_REPEAT = bindparam("may_repeat", type_=Boolean)
_GAVE_UP = f"given up: {UNSURE_LIMIT} attempts ended without anybody knowing how"
_TAKE_OVER = (
    update(outbox)
    .where(*_LEFT)
    .values(
        state=case((_IS_DRAFT, "draft"), (_IS_POISON, "dead"), else_="pending"),
        error=case((_IS_POISON, _GAVE_UP), else_=outbox.c.error),
        unsure=outbox.c.unsure + 1,
        is_repeat=case((_IS_DRAFT, True), (outbox.c.ref.is_(None), _MAY_REPEAT), else_=outbox.c.is_repeat),
        due_at=bindparam("now"),
    )
)
_SENT = (
    update(outbox)
    .where(_ROW_ID, _MINE, outbox.c.state == "sending")
    .values(state="sent", text="", error=None, ref=bindparam("new_ref"), sent_at=bindparam("now"))
)
_RETRY = (
    update(outbox)
    .where(_ROW_ID, _MINE, outbox.c.state == "sending")
    .values(state="pending", error=bindparam("new_error"), due_at=bindparam("retry_at"), ref=bindparam("new_ref"))
)
_UNSURE = (
    update(outbox)
    .where(_ROW_ID, _MINE, outbox.c.state == "sending")
    .values(
        state=case((_IS_POISON, "dead"), else_="pending"),
        unsure=outbox.c.unsure + 1,
        is_repeat=case((outbox.c.ref.is_(None), _MAY_REPEAT), else_=outbox.c.is_repeat),
        error=bindparam("new_error"),
        due_at=bindparam("retry_at"),
    )
)
_DEAD = (
    update(outbox).where(_ROW_ID, _MINE, outbox.c.state == "sending").values(state="dead", error=bindparam("new_error"))
)
_DRAFTED = (
    update(outbox)
    .where(_ROW_ID, _MINE, outbox.c.state == "sending")
    .values(
        state="draft",
        ref=bindparam("new_ref"),
        unsure=outbox.c.unsure + bindparam("more_unsure"),
        is_repeat=_MAY_REPEAT,
    )
)
_FINAL = (
    update(outbox)
    .where(_ROW_ID)
    .values(
        state="pending",
        text=bindparam("new_text"),
        is_repeat=case((outbox.c.state == "sending", True), else_=outbox.c.is_repeat),
        due_at=bindparam("now"),
        created_at=bindparam("now"),
    )
)
_INSERT = insert(outbox)
_UNSENT = outbox.c.state.in_(("pending", "sending"))
_SUMS = (
    select(
        outbox.c.channel,
        func.sum(case((_UNSENT, 1), else_=0)),
        func.min(case((_UNSENT, outbox.c.created_at), else_=None)),
        func.sum(case((outbox.c.state.in_(("dead", "expired")), 1), else_=0)),
    )
    .where(_UNSENT | (outbox.c.state.in_(("dead", "expired")) & (outbox.c.due_at > bindparam("since"))))
    .group_by(outbox.c.channel)
    .order_by(outbox.c.channel)
)


@command
def recover_outbox(connection: Connection, message: RecoverOutbox) -> Done:
    left = {"of_channel": message.channel, "by_claim": message.claim, "now": message.now}
    connection.execute(_TAKE_OVER, {**left, "may_repeat": not message.is_idempotent})
    return Done()


@command
def claim_delivery(connection: Connection, message: ClaimDelivery) -> NextDelivery:
    at = {"of_channel": message.channel, "now": message.now}
    while (row := connection.execute(_NEXT, at).first()) is not None:
        *facts, created_at = row
        outgoing = _outgoing(facts)
        if created_at <= message.now - KEPT:
            why = f"could not be said for {KEPT.total_seconds() / 3600:g} h"
            connection.execute(_EXPIRE, {"row_id": outgoing.id, "new_error": why})
            continue
        connection.execute(_CLAIM, {"row_id": outgoing.id, "by_claim": message.claim})
        return NextDelivery(msgspec.structs.replace(outgoing, attempts=outgoing.attempts + 1), None)
    return NextDelivery(None, connection.execute(_NEXT_DUE, at).scalar_one())


@command
def end_delivery(connection: Connection, message: EndDelivery) -> Done:
    about: dict[str, object] = {"row_id": message.outgoing_id, "by_claim": message.claim}
    retry = {"new_error": message.error, "retry_at": message.retry_at or message.now}
    match message.outcome:
        case "sent":
            connection.execute(_SENT, {**about, "new_ref": message.ref, "now": message.now})
        case "retry":
            connection.execute(_RETRY, {**about, **retry, "new_ref": message.ref})
        case "unsure":
            connection.execute(_UNSURE, {**about, **retry, "may_repeat": not message.is_idempotent})
        case "dead":
            connection.execute(_DEAD, {**about, "new_error": message.error})
    return Done()


@command
def begin_draft(connection: Connection, message: BeginDraft) -> Outgoing | None:
    if connection.execute(_BY_KEY, {"row_key": message.key}).first() is not None:
        return None
    line = Line(message.key, message.channel, message.chat, message.thread, "", message.reply_to)
    row = {**_row(line, message.now), "state": "sending", "attempts": 1, "claim": message.claim}
    connection.execute(_INSERT, row)
    *facts, _ = connection.execute(_BY_KEY, {"row_key": message.key}).one()
    return _outgoing(facts)


@command
def end_draft(connection: Connection, message: EndDraft) -> Done:
    about = {"row_id": message.outgoing_id, "by_claim": message.claim, "new_ref": message.ref}
    connection.execute(_DRAFTED, {**about, "more_unsure": int(message.is_unsure), "may_repeat": message.is_unsure})
    return Done()


@command
def add_outgoing(connection: Connection, message: AddOutgoing) -> Done:
    add_line(connection, message.line, message.now)
    return Done()


@query
def sum_up_outbox(connection: Connection, message: SumUpOutbox) -> list[OutboxSum]:
    return [OutboxSum(*row) for row in connection.execute(_SUMS, {"since": message.now - REPORTED})]


def add_line(connection: Connection, line: Line, now: datetime) -> None:
    """Add what is to be said, in the transaction of what makes it so; a draft of it becomes it."""
    known = connection.execute(_BY_KEY, {"row_key": line.key}).first()
    if known is None:
        connection.execute(_INSERT, _row(line, now))
    elif known.state in ("draft", "sending") and not known.text:
        connection.execute(_FINAL, {"row_id": known.id, "new_text": line.text, "now": now})


def _row(line: Line, now: datetime) -> dict[str, object]:
    fresh = {"state": "pending", "attempts": 0, "unsure": 0, "is_repeat": False, "due_at": now, "created_at": now}
    return {**msgspec.structs.asdict(line), **fresh}


def _outgoing(facts: Sequence[object]) -> Outgoing:
    return msgspec.convert(dict(zip(_NAMES, facts, strict=True)), Outgoing)

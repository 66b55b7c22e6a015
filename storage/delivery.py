"""Reminders that come: given to their sessions, and told to whoever has to be told."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from sqlalchemy import Connection, bindparam, func, insert, select, update

from ..runtime.message import Message
from .outbox import Line, add_line
from .registry import command
from .schedule import RAN
from .sessions import count_message
from .tables import JsonObject, conversations, jobs, messages, runs, sessions

SENT_CHARS = 1_500
"""Of a reminder that goes to a chat: one message on every platform."""


class Notice(msgspec.Struct, frozen=True):
    """A reminder that has come. `session_id` is None where it has none any more; `channel` is the session's."""

    job_id: str
    text: str
    slot: datetime
    is_late: bool
    session_id: str | None
    channel: str
    principal: str
    recurrence: str | None


class DeliverReminders(Message[list[Notice]], to="store/writer"):
    """Give the reminders that are pending to their sessions, oldest first: the note and the run's end are one.

    So is what goes to the chat that a session is of, on whichever platform, and to each of `chats`, named by channel
    and chat.
    """

    claim: str
    now: datetime
    chats: list[tuple[str, str]] = msgspec.field(default_factory=list[tuple[str, str]])
    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 100


_PENDING_REMINDERS = (
    select(
        runs.c.id,
        jobs.c.id,
        jobs.c.name,
        runs.c.slot,
        runs.c.is_late,
        jobs.c.session_id,
        func.coalesce(sessions.c.channel, jobs.c.channel),
        jobs.c.principal,
        jobs.c.recurrence,
        jobs.c.provenance,
        sessions.c.id,
    )
    .join_from(runs, jobs)
    .outerjoin(sessions, sessions.c.id == jobs.c.session_id)
    .where(runs.c.state == "pending", jobs.c.kind == "reminder")
    .order_by(runs.c.id)
    .limit(bindparam("limit"))
)
_INSERT_NOTE = insert(messages)
_CHAT_OF = select(conversations.c.channel, conversations.c.chat, conversations.c.thread).where(
    conversations.c.session_id == bindparam("of_session")
)
_DELIVERED = (
    update(runs)
    .where(runs.c.id == bindparam("run_id"))
    .values(
        state="done",
        attempts=runs.c.attempts + 1,
        claim=bindparam("by_claim"),
        started_at=bindparam("now"),
        ended_at=bindparam("now"),
    )
)


@command
def deliver_reminders(connection: Connection, message: DeliverReminders) -> list[Notice]:
    notices: list[Notice] = []
    for run_id, *told, provenance, known_session in connection.execute(
        _PENDING_REMINDERS, {"limit": message.limit}
    ).all():
        notice = Notice(*told)
        _send(connection, notice, run_id, message)
        if known_session is None:
            notice = msgspec.structs.replace(notice, session_id=None)
        else:
            _note(connection, notice, provenance, message.now)
        connection.execute(_DELIVERED, {"run_id": run_id, "by_claim": message.claim, "now": message.now})
        connection.execute(RAN, {"job_id": notice.job_id, "now": message.now})
        notices.append(notice)
    return notices


def _send(connection: Connection, notice: Notice, run_id: int, message: DeliverReminders) -> None:
    """Say it in the chat that it was made in, if it was, also where its session was deleted; and where else, once."""
    text = f"Reminder: {notice.text[:SENT_CHARS]}"
    own = connection.execute(_CHAT_OF, {"of_session": notice.session_id}).first()
    if own is not None:
        add_line(connection, Line(f"reminder:{run_id}", *own, text=text), message.now)
    for channel, chat in message.chats:
        if own is None or (channel, chat) != (own.channel, own.chat):
            add_line(connection, Line(f"reminder:{run_id}:{channel}:{chat}", channel, chat, "", text), message.now)


def _note(connection: Connection, notice: Notice, provenance: list[str] | None, now: datetime) -> None:
    """Say it in the session, where a person sees it later and the model knows of it."""
    assert notice.session_id is not None
    metadata: JsonObject = {"reminder_id": notice.job_id, "due_at": notice.slot.isoformat(), "late": notice.is_late}
    if provenance:
        metadata["provenance"] = provenance
    row = {
        "session_id": notice.session_id,
        "role": "assistant",
        "content": f"Reminder: {notice.text}",
        "created_at": now,
        "metadata": metadata,
    }
    connection.execute(_INSERT_NOTE, row)
    count_message(connection, notice.session_id, now)

"""Reminders, as people see them: what they ask for, and what they are shown."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import msgspec

from ...runtime import Message
from ...storage.jobs import Job
from ...storage.sessions import SessionId


class Reminder(msgspec.Struct, frozen=True, omit_defaults=True):
    """`trigger_at` is when it comes (next); `original` are the words that it was made of.

    `provenance` names what an agent had read that made it; none if a person asked for it.
    """

    id: str
    text: str
    trigger_at: datetime
    created_at: datetime
    time_remaining: str
    original: str
    recurrence: str | None = None
    session_id: str | None = None
    provenance: list[str] = []


class ReminderAdded(msgspec.Struct, frozen=True):
    reminder: Reminder


class ReminderList(msgspec.Struct, frozen=True):
    reminders: list[Reminder]


class ReminderDeleted(msgspec.Struct, frozen=True):
    id: str
    deleted: bool = True


class Remind(Message[ReminderAdded], to="scheduler"):
    """Make a reminder from plain words, such as "in 10 minutes to stretch" or "every weekday at 9 stand-up".

    With a session it is also said there when it comes.
    """

    message: Annotated[str, msgspec.Meta(min_length=1, max_length=5000)]
    session_id: SessionId | None = None


class ListReminders(Message[ReminderList], to="scheduler"):
    """List the reminders that are still to come, soonest first."""


class DeleteReminder(Message[ReminderDeleted], to="scheduler"):
    """Delete a reminder; one that recurs comes no more."""

    reminder_id: str


def shown_reminder(job: Job, now: datetime) -> Reminder:
    """A reminder that is still to come, as it is shown."""
    assert job.next_slot is not None
    remaining = time_remaining(job.next_slot - now)
    facts = job.id, job.name, job.next_slot, job.created_at, remaining, job.prompt
    return Reminder(*facts, job.recurrence, job.session_id, job.provenance)


def time_remaining(left: timedelta) -> str:
    """How long it is until then, by its two largest units: `in 1h 59m`."""
    seconds = int(left.total_seconds())
    if seconds <= 0:
        return "now"
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count or parts:
            parts.append(f"{count}{unit}")
    return f"in {' '.join(part for part in parts[:2] if not part.startswith('0'))}"

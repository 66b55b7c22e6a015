"""The reminders and intentions of a home of PocketPaw 0.4, as jobs of the scheduler here."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, tzinfo
from pathlib import Path

import msgspec

from ...runtime.envelope import Principal
from ...runtime.errors import InvalidInput
from ...storage.jobs import Job
from ..scheduler.planning import next_slot
from ..scheduler.slots import read_cron
from .old_files import Remark, Unreadable, read_entries, read_json, read_time

PRESETS = {
    "every_minute": "* * * * *",
    "every_5_minutes": "*/5 * * * *",
    "every_15_minutes": "*/15 * * * *",
    "every_30_minutes": "*/30 * * * *",
    "every_hour": "0 * * * *",
    "every_morning_8am": "0 8 * * *",
    "every_morning_9am": "0 9 * * *",
    "weekday_morning_8am": "0 8 * * 1-5",
    "weekday_morning_9am": "0 9 * * 1-5",
    "every_evening_6pm": "0 18 * * *",
    "every_night_10pm": "0 22 * * *",
    "daily_noon": "0 12 * * *",
    "weekly_monday_9am": "0 9 * * 1",
    "monthly_first_9am": "0 9 1 * *",
}
"""PocketPaw 0.4's names for cron lines: `CRON_PRESETS` in its `daemon/triggers.py`."""

TEXT_LIMIT = 5_000
NAME_LIMIT = 200
PROMPT_LIMIT = 100_000
SOURCES_LIMIT = 20


class _Reminder(msgspec.Struct, frozen=True):
    id: str
    text: str
    trigger_at: str
    created_at: str
    original: str = ""
    type: str = "one-shot"
    schedule: str = ""


class _Trigger(msgspec.Struct, frozen=True):
    type: str
    schedule: str = ""


class _Intention(msgspec.Struct, frozen=True):
    id: str
    name: str
    prompt: str
    trigger: _Trigger
    created_at: str
    context_sources: list[str] = []
    enabled: bool = True
    last_run: str | None = None


class _Reminders(msgspec.Struct, frozen=True):
    reminders: list[msgspec.Raw] = []


class _Intentions(msgspec.Struct, frozen=True):
    intentions: list[msgspec.Raw] = []


class Plan(msgspec.Struct, frozen=True):
    """For whom the jobs are made, and by which clock."""

    owner: Principal
    now: datetime
    zone: tzinfo


def read_reminders(home: Path, plan: Plan, left: list[Remark]) -> Iterator[Job]:
    """Yield those that are still to come. Raises: Unreadable."""
    found = read_json(home / "reminders.json", _Reminders) or _Reminders()
    for reminder in read_entries(found.reminders, _Reminder, left):
        try:
            yield _reminder_job(reminder, plan)
        except (Unreadable, InvalidInput, ValueError) as error:
            left.append(Remark(reminder.text[:NAME_LIMIT], _reason(error)))


def read_intentions(home: Path, plan: Plan, left: list[Remark]) -> Iterator[Job]:
    """Yield the intentions, those that are switched off too. Raises: Unreadable."""
    found = read_json(home / "intentions.json", _Intentions) or _Intentions()
    for intention in read_entries(found.intentions, _Intention, left):
        try:
            yield _intention_job(intention, plan)
        except (Unreadable, InvalidInput, ValueError) as error:
            left.append(Remark(intention.name[:NAME_LIMIT], _reason(error)))


def _reminder_job(reminder: _Reminder, plan: Plan) -> Job:
    is_recurring = reminder.type == "recurring"
    schedule = _cron(reminder.schedule, plan.zone) if is_recurring else ""
    slot = next_slot(schedule, plan.now, plan.zone) if is_recurring else read_time(reminder.trigger_at)
    if slot <= plan.now:
        raise Unreadable(f"its time, {slot:%Y-%m-%d %H:%M}, has passed")
    return Job(
        id=_checked_id(reminder.id),
        kind="reminder",
        name=reminder.text[:TEXT_LIMIT],
        prompt=(reminder.original or reminder.text)[:TEXT_LIMIT],
        schedule=schedule,
        recurrence=reminder.schedule.replace("_", " ") if is_recurring else None,
        next_slot=slot,
        principal=plan.owner.name,
        scopes=sorted(plan.owner.scopes),
        created_at=read_time(reminder.created_at),
    )


def _intention_job(intention: _Intention, plan: Plan) -> Job:
    if intention.trigger.type != "cron":
        raise Unreadable(f"its trigger is a {intention.trigger.type[:40]!r}: here only schedules start intentions")
    if not intention.name or not 0 < len(intention.prompt) <= PROMPT_LIMIT:
        raise Unreadable(f"expected a name, and a prompt of up to {PROMPT_LIMIT:,} characters")
    schedule = _cron(intention.trigger.schedule, plan.zone)
    return Job(
        id=_checked_id(intention.id),
        kind="intention",
        name=intention.name[:NAME_LIMIT],
        prompt=intention.prompt,
        schedule=schedule,
        next_slot=next_slot(schedule, plan.now, plan.zone) if intention.enabled else None,
        enabled=intention.enabled,
        channel="intention",
        principal=plan.owner.name,
        scopes=sorted(plan.owner.scopes),
        context_sources=[source for source in intention.context_sources if 0 < len(source) <= 100][:SOURCES_LIMIT],
        created_at=read_time(intention.created_at),
        last_run=read_time(intention.last_run) if intention.last_run else None,
    )


def _cron(written: str, zone: tzinfo) -> str:
    """The cron line of a schedule or of a name for one. Raises: InvalidInput."""
    line = " ".join(PRESETS.get(written, written).split())
    read_cron(line, zone)
    return line


def _checked_id(written: str) -> str:
    if not 0 < len(written) <= 100 or not written.isprintable() or "/" in written:
        raise Unreadable("its id is none")
    return written


def _reason(error: Exception) -> str:
    return error.detail if isinstance(error, InvalidInput) else str(error)

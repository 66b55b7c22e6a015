"""What to do about a job whose time has come, or has passed while nobody looked. Pure functions.

The policy is the same for all kinds: a job runs once for all that it missed.

- A reminder for one time is given as soon as can be, and marked late.
- Of the missed slots of what recurs the latest runs, marked late; the ones before it are kept as skipped. So after a
  week away the daily reminder comes once and the daily intention runs once.
- An intention or a task that is due again while its last run goes on is skipped (the ledger sees to that): slow runs
  never pile up. A reminder takes no time, so none is lost.
"""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo

from ...storage.jobs import Job
from ...storage.schedule import Claim, Skipped
from .slots import Schedule, read_schedule

LATE_AFTER = timedelta(minutes=2)
"""Nobody is told of less."""

KEPT_SINGLY = 100
"""Missed slots of one job that get a row each; those in between the first ones and the latest share one."""


def plan(job: Job, now: datetime, zone: tzinfo) -> Claim:
    """The slots of a due job: which one runs, which are skipped, and which comes next.

    Raises:
        InvalidInput: its schedule cannot be read, or has come to its end.
    """
    assert job.next_slot is not None
    if not job.schedule:
        return Claim(job.id, job.next_slot, job.next_slot, _is_late(job.next_slot, now), [], None)
    schedule = read_schedule(job.schedule, zone)
    skipped, slot, following = _missed(schedule, job.next_slot, now)
    return Claim(job.id, job.next_slot, slot, _is_late(slot, now) or bool(skipped), skipped, following)


def replanned(job: Job, now: datetime, zone: tzinfo) -> datetime | None:
    """The next slot of a job as it should be, after the clock or the time zone was set; None if it is right.

    What is due already is left to `plan`.
    """
    if not job.schedule or job.next_slot is None or job.next_slot <= now:
        return None
    schedule = read_schedule(job.schedule, zone)
    following = schedule.after(now)
    if schedule.is_tied_to_clocks:
        return following if following != job.next_slot else None
    return following if following < job.next_slot else None


def _missed(schedule: Schedule, first: datetime, now: datetime) -> tuple[list[Skipped], datetime, datetime]:
    """The slots from `first` to `now`: all but the latest as skipped, the latest, and the one that follows."""
    skipped: list[Skipped] = []
    slot, following = first, schedule.after(first)
    while following <= now and len(skipped) < KEPT_SINGLY:
        skipped.append(Skipped(slot))
        slot, following = following, schedule.after(following)
    if following > now:
        return skipped, slot, following
    latest = schedule.latest(following, now)
    skipped.append(Skipped(slot, until=latest))
    return skipped, latest, schedule.after(latest)


def _is_late(slot: datetime, now: datetime) -> bool:
    return now - slot > LATE_AFTER


def next_slot(schedule: str, now: datetime, zone: tzinfo) -> datetime:
    """The first slot of a schedule after `now`.

    Raises:
        InvalidInput: the schedule cannot be read, or has none.
    """
    return read_schedule(schedule, zone).after(now)

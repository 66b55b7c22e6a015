"""When a job is due: its schedule as text, and the slots that follow from it.

    0 9 * * 1-5     five cron fields, in local time, with Debian cron's ways about daylight saving: what falls into the
                    hour left out runs once at its end, what names a time in the hour doubled runs once, and what says
                    every hour or minute (a `*` in those fields) goes by the hours that really pass
    PT120M          every 120 minutes that really pass
    P3D 09:00       every third day, at this local time

A slot is a point in time, in UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Protocol

from ...runtime.errors import InvalidInput
from .clock import at_wall_time

CRON_FIELDS = 5
MINUTES = re.compile(r"PT([1-9][0-9]{0,6})M")
DAYS = re.compile(r"P([1-9][0-9]{0,3})D ([01][0-9]|2[0-3]):([0-5][0-9])")
LOOK_BACK = timedelta(hours=3)
"""How far before a slot to start, so that the way forward to it sees any change of the clocks in between."""


class Schedule(Protocol):
    """Slots without an end."""

    is_tied_to_clocks: bool
    """Whether the slots stand fixed by the local time alone, whatever slot came before."""

    def after(self, slot: datetime) -> datetime:
        """The slot that follows `slot`.

        Raises:
            InvalidInput: there is none.
        """
        ...

    def latest(self, slot: datetime, now: datetime) -> datetime:
        """The last slot that is not after `now`, where `slot` is one that is not."""
        ...


class Elapsed:
    """Every so many minutes, whatever the clocks show."""

    is_tied_to_clocks = False

    def __init__(self, minutes: int) -> None:
        self._every = timedelta(minutes=minutes)

    def after(self, slot: datetime) -> datetime:
        return slot + self._every

    def latest(self, slot: datetime, now: datetime) -> datetime:
        return slot + (now - slot) // self._every * self._every


class Days:
    """Every so many days, at one local time."""

    is_tied_to_clocks = False

    def __init__(self, days: int, at: time, zone: tzinfo) -> None:
        self._days, self._at, self._zone = days, at, zone

    def after(self, slot: datetime) -> datetime:
        return self._on(slot, self._days)

    def latest(self, slot: datetime, now: datetime) -> datetime:
        days = (now.astimezone(self._zone).date() - slot.astimezone(self._zone).date()).days
        days -= days % self._days
        latest = self._on(slot, days) if days else slot
        return latest if latest <= now else self._on(slot, days - self._days)

    def _on(self, slot: datetime, days: int) -> datetime:
        day = slot.astimezone(self._zone).date() + timedelta(days=days)
        return at_wall_time(datetime.combine(day, self._at), self._zone)


class Cron:
    """A cron line. cronsim reads it, and is imported when the first one is."""

    is_tied_to_clocks = True

    def __init__(self, line: str, zone: tzinfo) -> None:
        self._line, self._zone = line, zone
        self._walk(datetime(2026, 1, 1, tzinfo=UTC))

    def after(self, slot: datetime) -> datetime:
        following = next((found for found in self._walk(slot) if found > slot), None)
        if following is None:
            raise InvalidInput(f"the cron line {self._line!r} names no day that there is in the next 50 years")
        return following

    def latest(self, slot: datetime, now: datetime) -> datetime:
        found = next((found for found in self._walk(now + timedelta(seconds=1), is_back=True) if found <= now), slot)
        # Backwards, cronsim has other ways about daylight saving than forwards.
        for later in self._walk(max(slot, found - LOOK_BACK)):
            if later > now:
                break
            found = max(found, later)
        return max(slot, found)

    def _walk(self, start: datetime, *, is_back: bool = False) -> Iterator[datetime]:
        from cronsim import CronSim, CronSimError

        try:
            found = CronSim(self._line, start.astimezone(self._zone), reverse=is_back)
        except CronSimError as error:
            raise InvalidInput(f"{error} in the cron line {self._line!r}: {EXPECTED}") from None
        return (slot.astimezone(UTC) for slot in found)


EXPECTED = "expected five fields, minute hour day month weekday, such as 0 9 * * 1-5"


@lru_cache(maxsize=1024)
def read_schedule(text: str, zone: tzinfo) -> Schedule:
    """The schedule that a job's text means.

    Raises:
        InvalidInput: it means none.
    """
    if minutes := MINUTES.fullmatch(text):
        return Elapsed(int(minutes[1]))
    if days := DAYS.fullmatch(text):
        return Days(int(days[1]), time(int(days[2]), int(days[3])), zone)
    return read_cron(text, zone)


def read_cron(line: str, zone: tzinfo) -> Cron:
    """The schedule of a cron line.

    Raises:
        InvalidInput: it is none.
    """
    if len(line.split()) != CRON_FIELDS or not line.isascii():
        raise InvalidInput(f"{line!r} is no cron line: {EXPECTED}")
    return Cron(" ".join(line.split()), zone)

"""The time of day, and the time zone that people mean when they say one."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from pathlib import Path
from typing import Protocol
from zoneinfo import ZoneInfo

LOCALTIME = Path("/etc/localtime")


class Clock(Protocol):
    """Tells the time of day, which may be set, and so jump; pauses are measured by trio's clock, which never does."""

    def now(self) -> datetime:
        """The time in UTC, aware."""
        ...


class SystemClock:
    """This machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


def zone_named(name: str) -> tzinfo | None:
    """The time zone of that name; None if there is no such zone."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; no name at all; the name of a folder
        return None


def local_zone(name: str) -> tzinfo:
    """The zone of that name, or this machine's if the name is empty or unknown. The same zone is the same object."""
    for wanted in (name, os.environ.get("TZ", "").lstrip(":")):
        zone = zone_named(wanted) if wanted else None
        if zone is not None:
            return zone
    return _machine_zone(LOCALTIME.resolve())


@lru_cache(maxsize=8)
def _machine_zone(path: Path) -> tzinfo:
    try:
        with path.open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError):
        return UTC


def at_wall_time(wall: datetime, zone: tzinfo) -> datetime:
    """When clocks in `zone` show `wall` (which is naive), in UTC.

    The first of the two times where an hour is doubled; where it is left out, the end of the gap.
    """
    moment = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) == wall:
        return moment
    early = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)  # by the offset that holds after the gap
    return _gap_end(early, moment, zone)


def _gap_end(early: datetime, late: datetime, zone: tzinfo) -> datetime:
    """The instant between the two at which clocks in `zone` jump ahead."""
    offset = early.astimezone(zone).utcoffset()
    while late - early > timedelta(seconds=1):
        middle = early + (late - early) / 2
        if middle.astimezone(zone).utcoffset() == offset:
            early = middle
        else:
            late = middle
    return late.replace(microsecond=0)

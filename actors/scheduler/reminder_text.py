"""When and of what a person wants to be reminded: "in 10 minutes to stretch", "tomorrow 5pm call Ann".

English. Where the days are named, dateparser reads them; times of day, spans of time and recurrences are read here,
as it takes "3 March at 10" for the year 2110. It is slow to import, so this runs in a thread.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable
from datetime import MAXYEAR, UTC, datetime, timedelta, tzinfo
from typing import Any, NamedTuple

from ...runtime.errors import InvalidInput
from .clock import at_wall_time
from .phrases import (
    MONTH,
    MORNING,
    NUMBER,
    WEEKDAY,
    WEEKDAY_OR_SHORT,
    Span,
    TimeOfDay,
    blank,
    find_time,
    number,
    without,
)
from .recurrence import find_recurrence
from .slots import read_schedule

EXAMPLES = "'in 10 minutes to stretch', 'tomorrow at 5pm call Ann' or 'every weekday at 9 stand-up'"
FARTHEST = timedelta(days=366 * 50)
NO_TEXT = "Reminder"

UNIT = r"(?:seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|w|months?|years?)(?![a-z])"
AMOUNT = rf"(?:half\s+an?(?=\s)|an?(?=\s)|{NUMBER}(?:[.,]\d{{1,2}})?)"
PART = rf"{AMOUNT}\s*{UNIT}(?:\s+and\s+a\s+half)?"
SPAN_OF_TIME = re.compile(
    rf"(?:\bin\s+(?P<ahead>{PART}(?:\s*(?:,\s*and|,|and)?\s*{PART})*)|\b(?P<from_now>{PART})\s+from\s+now\b)",
    re.IGNORECASE,
)
ONE_PART = re.compile(rf"(?P<amount>{AMOUNT})\s*(?P<unit>{UNIT})(?P<half>\s+and\s+a\s+half)?", re.IGNORECASE)
SECONDS = {"s": 1, "m": 60, "h": 3600}

STAMP = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?", re.IGNORECASE)
DAY = re.compile(
    r"\b(?:on\s+|by\s+)?(?P<day>(?:the\s+)?day\s+after\s+tomorrow|tomorrow|today"
    rf"|(?:next|this)\s+(?:{WEEKDAY_OR_SHORT}|week|month|year)|(?<=on\s){WEEKDAY_OR_SHORT}|{WEEKDAY}"
    r"|\d{4}-\d\d-\d\d|\d{1,2}\.\d{1,2}\.(?:\d{4})?|\d{1,2}/\d{1,2}(?:/\d{2,4})?"
    rf"|(?:the\s+)?\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?{MONTH}(?:,?\s+\d{{4}})?"
    rf"|{MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?(?:,?\s+\d{{4}})?"
    r"|(?<=on\s)the\s+\d{1,2}(?:st|nd|rd|th))(?!\w)",
    re.IGNORECASE,
)
DAY_OF_MONTH = re.compile(r"the (\d{1,2})(?:st|nd|rd|th)")


class Understood(NamedTuple):
    """What a person's words come to; `at` in UTC, the first time where it recurs."""

    text: str
    at: datetime
    schedule: str = ""
    recurrence: str | None = None


def understand(message: str, now: datetime, zone: tzinfo) -> Understood:
    """Read a reminder. `now` is in UTC, `zone` the one that the person lives by.

    Raises:
        InvalidInput: no time can be found in it, or none that is still to come.
    """
    message = " ".join(message.split())  # so that no run of spaces makes the patterns slow
    local = now.astimezone(zone).replace(tzinfo=None)
    try:
        understood = _recurring(message, now, local, zone) or _once(message, now, local, zone)
    except OverflowError:
        raise _too_far() from None
    if understood is None:
        raise InvalidInput(f"there is no time in it: expected something like {EXAMPLES}", field="message")
    if understood.at <= now:
        shown = understood.at.astimezone(zone)
        raise InvalidInput(f"that time has passed: {shown:%Y-%m-%d %H:%M} ({shown.tzname()})", field="message")
    if understood.at - now > FARTHEST:
        raise _too_far()
    return understood


def _recurring(message: str, now: datetime, local: datetime, zone: tzinfo) -> Understood | None:
    found = find_recurrence(message, local)
    if found is None:
        return None
    first = (
        at_wall_time(found.first, zone) if found.first is not None else read_schedule(found.schedule, zone).after(now)
    )
    return Understood(_text(message, found.spans), first, found.schedule, found.words)


def _once(message: str, now: datetime, local: datetime, zone: tzinfo) -> Understood | None:
    if stamp := STAMP.search(message):
        return _stamped(message, stamp, zone)
    if words := SPAN_OF_TIME.search(message):
        return _ahead(message, words, now, zone)
    at = find_time(message)
    rest = message
    for span in at.spans if at else []:
        rest = blank(rest, span)
    day = _find_day(rest, local)
    if day is not None:
        date, span = day
        wall = datetime.combine(date, at.at if at else MORNING)
        spans = [span, *(at.spans if at else [])]
        return Understood(_text(message, spans), at_wall_time(wall, zone))
    if at is not None:
        return Understood(_text(message, at.spans), at_wall_time(_next_time(at, local), zone))
    return None


def _stamped(message: str, stamp: re.Match[str], zone: tzinfo) -> Understood:
    try:
        moment = datetime.fromisoformat(stamp[0].upper())
    except ValueError:
        raise InvalidInput(f"{stamp[0]} is no date and time that there is", field="message") from None
    at = at_wall_time(moment, zone) if moment.tzinfo is None else moment.astimezone(UTC)
    return Understood(_text(message, [stamp.span()]), at)


def _ahead(message: str, words: re.Match[str], now: datetime, zone: tzinfo) -> Understood:
    """Seconds to hours are what really passes; days and more are counted by the calendar, to a time of day if named."""
    seconds, days, months = 0.0, 0.0, 0.0
    for part in ONE_PART.finditer(words["ahead"] or words["from_now"]):
        amount = _amount(part["amount"]) + (0.5 if part["half"] else 0)
        unit = part["unit"].lower()
        if unit.startswith(("mo", "y")):
            months += amount * (12 if unit[0] == "y" else 1)
        elif unit[0] in "dw":
            days += amount * (7 if unit[0] == "w" else 1)
        else:
            seconds += amount * SECONDS[unit[0]]
    spans = [words.span()]
    moment = now
    if days or months:
        wall = _later(now.astimezone(zone).replace(tzinfo=None), days, months)
        at = find_time(blank(message, words.span())) if not seconds else None
        if at is not None:
            wall = datetime.combine(wall.date(), at.at)
            spans += at.spans
        moment = at_wall_time(wall, zone)
    return Understood(_text(message, spans), moment + timedelta(seconds=seconds))


def _amount(word: str) -> float:
    word = " ".join(word.lower().split())
    if word.startswith("half"):
        return 0.5
    if word in ("a", "an"):
        return 1
    return float(word.replace(",", ".")) if word[0].isdigit() else number(word)


def _later(wall: datetime, days: float, months: float) -> datetime:
    """So many months later, on the last day where the month is too short, and so many days."""
    whole = int(months)
    days += (months - whole) * 30
    year, index = divmod(wall.year * 12 + wall.month - 1 + whole, 12)
    if year > MAXYEAR:
        raise OverflowError
    day = min(wall.day, calendar.monthrange(year, index + 1)[1])
    return wall.replace(year=year, month=index + 1, day=day) + timedelta(days=days)


def _next_time(at: TimeOfDay, local: datetime) -> datetime:
    wall = datetime.combine(local.date(), at.at)
    is_after_midnight = at.is_tonight and at.at.hour < 6
    if is_after_midnight or (wall <= local and not at.is_tonight):
        wall += timedelta(days=1)
    return wall


def _find_day(text: str, local: datetime) -> tuple[datetime, Span] | None:
    for words in DAY.finditer(text):
        day = _read_day(" ".join(words["day"].lower().split()), local)
        if day is not None:
            return day, words.span()
    return None


def _read_day(words: str, local: datetime) -> datetime | None:
    if ordinal := DAY_OF_MONTH.fullmatch(words):
        return _next_day_of_month(int(ordinal[1]), local)
    import dateparser

    parse: Callable[..., Any] = dateparser.parse  # pyright: ignore[reportUnknownMemberType] it has no types
    settings = {
        "RELATIVE_BASE": local,
        "PREFER_DATES_FROM": "future",
        "RETURN_AS_TIMEZONE_AWARE": False,
        "DATE_ORDER": "DMY" if "." in words else "MDY",
    }
    found = parse(words.removeprefix("the "), languages=["en"], settings=settings)
    return found if isinstance(found, datetime) else None


def _next_day_of_month(day: int, local: datetime) -> datetime | None:
    """The next date with that day of the month, today left out; None if there is no such day."""
    first = local.replace(day=1)
    for months in range(13):
        month = _later(first, 0, months)
        if 1 <= day <= calendar.monthrange(month.year, month.month)[1] and month.replace(day=day) > local:
            return month.replace(day=day)
    return None


def _text(message: str, spans: list[Span]) -> str:
    return without(message, spans) or NO_TEXT


def _too_far() -> InvalidInput:
    return InvalidInput("that is too far away: expected a time in the next 50 years", field="message")

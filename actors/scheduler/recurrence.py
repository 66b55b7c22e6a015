"""What comes again and again, in words: "every weekday at 9", "every 2 hours", "on the 1st of each month"."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, time, timedelta
from typing import NamedTuple

from ...runtime.errors import InvalidInput
from .phrases import (
    MONTH,
    MORNING,
    NUMBER,
    PARTS_OF_DAY,
    WEEKDAY_OR_SHORT,
    Span,
    blank,
    find_time,
    month,
    number,
    weekday,
)

EVERY = r"(?:every|each)"
ORDINAL = r"(?:\d{1,2}(?:st|nd|rd|th)|first|last\s+day)"
ORDINALS = rf"{ORDINAL}(?:\s*(?:,|and|&)\s*(?:the\s+)?{ORDINAL})*"
DAYS_LISTED = rf"{WEEKDAY_OR_SHORT}s?(?:\s*(?:,\s*and|,|and|&)\s*(?:{EVERY}\s+)?{WEEKDAY_OR_SHORT}s?)*"
NTH = {"first": "#1", "1st": "#1", "second": "#2", "2nd": "#2", "third": "#3", "3rd": "#3", "fourth": "#4", "4th": "#4"}
ADVERBS = {"hourly": "hour", "daily": "day", "weekly": "week", "monthly": "month", "yearly": "year", "annually": "year"}
LONGEST = {"minute": 525_600, "hour": 8_760, "day": 3_650, "week": 520, "month": 12, "year": 1}

Words = re.Match[str]


class Recurrence(NamedTuple):
    """`schedule` is as in slots.py; `first` the first slot in local time where the schedule does not say it.

    `words` are a person's, with the time of day that they come to; `spans` where they stand.
    """

    schedule: str
    words: str
    spans: list[Span]
    first: datetime | None = None


class _Day(NamedTuple):
    """The part of a schedule that is not the time of day: cron's last three fields, or a number of days."""

    cron: str = ""
    days: int = 0
    minutes: int = 0
    weekday: int | None = None


def find_recurrence(text: str, now: datetime) -> Recurrence | None:
    """The recurrence that a text names; None if there is none. `now` is the local time, naive.

    Raises:
        InvalidInput: there is one, but not one that can be kept.
    """
    for pattern, read in PATTERNS:
        if words := pattern.search(text):
            return _timed(text, words, read(words), now)
    words = INTERVAL.search(text)
    return _timed(text, words, _interval(words, now), now) if words else None


def _timed(text: str, words: Words, day: _Day, now: datetime) -> Recurrence:
    """Put the day together with the time that the rest of the text names."""
    phrase = " ".join(words[0].lower().split())
    if day.minutes:
        return Recurrence(f"PT{day.minutes}M", phrase, [words.span()])
    found = find_time(blank(text, words.span()))
    at = found.at if found else PARTS_OF_DAY.get(phrase.split()[-1], MORNING)
    spans = [words.span(), *(found.spans if found else [])]
    said = f"{phrase} at {at:%H:%M}"
    if day.cron:
        return Recurrence(f"{at.minute} {at.hour} {day.cron}", said, spans)
    return Recurrence(f"P{day.days}D {at:%H:%M}", said, spans, _first(day, at, now))


def _first(day: _Day, at: time, now: datetime) -> datetime:
    """The first slot of what comes every so many days: today's time if it is still to come, or that weekday's."""
    first = datetime.combine(now.date(), at)
    while first <= now or (day.weekday is not None and first.isoweekday() % 7 != day.weekday):
        first += timedelta(days=1)
    return first


# What the patterns below say ------------------------------------------------------------------------------------------


def _nth_weekday(words: Words) -> _Day:
    which = words["nth"].lower()
    day = weekday(words["day"])
    return _Day(f"* * {day}L" if which == "last" else f"* * {day}{NTH[which]}")


def _days_of_month(words: Words) -> _Day:
    days = re.findall(ORDINAL, words["days"], re.IGNORECASE)
    return _Day(f"{','.join(map(_day_of_month, days))} * *")


def _date_of_year(words: Words) -> _Day:
    day, name = words["day"] or words["day_after"], words["month"] or words["month_before"]
    return _Day(f"{_checked_day(int(day))} {month(name)} *")


def _weekdays(words: Words) -> _Day:
    is_weekend = "weekend" in words[0].lower()
    return _Day("* * 6,0" if is_weekend else "* * 1-5")


def _day_range(words: Words) -> _Day:
    first, last = weekday(words["first"]), weekday(words["last"])
    days = [str((first + step) % 7) for step in range((last - first) % 7 + 1)]
    return _Day(f"* * {','.join(days)}")


def _listed_days(words: Words) -> _Day:
    names = re.findall(WEEKDAY_OR_SHORT, words["days"], re.IGNORECASE)
    return _Day(f"* * {','.join(str(weekday(name)) for name in dict.fromkeys(names))}")


def _interval(words: Words, now: datetime) -> _Day:
    if adverb := words["adverb"]:
        return _every(1, ADVERBS[adverb.lower()], None, now)
    many, unit = words["many"], words["unit"].lower()
    count = 1 if many is None else 2 if many.lower() == "other" else number(many)
    singular = {"min": "minute", "hr": "hour"}.get(unit, unit)
    return _every(count, singular, words["on"], now)


def _every(count: int, unit: str, on: str | None, now: datetime) -> _Day:
    if not 1 <= count <= LONGEST[unit]:
        raise InvalidInput(f"every {count} {unit}s cannot be kept: expected 1 to {LONGEST[unit]}", field="message")
    if unit in ("minute", "hour"):
        return _Day(minutes=count * (60 if unit == "hour" else 1))
    if unit == "day":
        return _Day("* * *") if count == 1 else _Day(days=count)
    if unit == "week":
        day = weekday(on) if on else now.isoweekday() % 7
        return _Day(f"* * {day}") if count == 1 else _Day(days=7 * count, weekday=day)
    if unit == "month":
        if 12 % count:
            raise InvalidInput(f"every {count} months cannot be kept: expected 1, 2, 3, 4, 6 or 12", field="message")
        months = sorted((now.month - 1 + step) % 12 + 1 for step in range(0, 12, count))
        return _Day(f"{_checked_day(now.day)} {'*' if count == 1 else ','.join(map(str, months))} *")
    return _Day(f"{now.day} {now.month} *")


def _day_of_month(word: str) -> str:
    word = word.lower()
    if word.startswith("last"):
        return "L"
    return _checked_day(1 if word == "first" else int(word.rstrip("stndrh")))


def _checked_day(day: int) -> str:
    """A day of the month in cron's words; the 31st is the last day, so that no month is left out."""
    if not 1 <= day <= 31:
        raise InvalidInput(f"no month has a day {day}", field="message")
    return "L" if day == 31 else str(day)


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{text})\b", re.IGNORECASE)


OF_THE_MONTH = rf"(?:of\s+|in\s+)?(?:{EVERY}|the|a)\s+month"
PATTERNS: tuple[tuple[re.Pattern[str], Callable[[Words], _Day]], ...] = (
    (
        _pattern(
            rf"(?:on\s+)?(?:the\s+|{EVERY}\s+)?(?P<nth>{'|'.join(NTH)}|last)\s+(?P<day>{WEEKDAY_OR_SHORT})\s+{OF_THE_MONTH}"
        ),
        _nth_weekday,
    ),
    (
        _pattern(
            rf"(?:(?:{EVERY}\s+month|monthly)\s+)?(?:on\s+)?(?:the\s+|{EVERY}\s+)?(?P<days>{ORDINALS})\s+{OF_THE_MONTH}"
        ),
        _days_of_month,
    ),
    (_pattern(rf"(?:{EVERY}\s+month|monthly)\s+on\s+(?:the\s+)?(?P<days>{ORDINALS})"), _days_of_month),
    (
        _pattern(
            rf"(?:{EVERY}\s+year\s+on|yearly\s+on|annually\s+on|{EVERY})\s+(?:the\s+)?(?:(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\s+"
            rf"(?:of\s+)?(?P<month>{MONTH})|(?P<month_before>{MONTH})\s+(?P<day_after>\d{{1,2}})(?:st|nd|rd|th)?)"
        ),
        _date_of_year,
    ),
    (_pattern(rf"{EVERY}\s+(?P<days>{ORDINALS})(?!\s+(?:{MONTH}|of))"), _days_of_month),
    (_pattern(rf"{EVERY}\s+(?:week|work)day|(?:on\s+)?(?:week|work)days|{EVERY}\s+weekend|on\s+weekends"), _weekdays),
    (
        _pattern(
            rf"(?:{EVERY}\s+|from\s+)?(?P<first>{WEEKDAY_OR_SHORT})s?\s*(?:[-\u2013]|to|through|until)\s*(?P<last>{WEEKDAY_OR_SHORT})s?"
        ),
        _day_range,
    ),
    (_pattern(rf"{EVERY}\s+(?P<days>{DAYS_LISTED})"), _listed_days),
    (
        _pattern(r"(?:on\s+)?(?P<days>(?:sun|mon|tues|wednes|thurs|fri|satur)days(?:\s*(?:,|and|&)\s*\w+days)*)"),
        _listed_days,
    ),
    (_pattern(rf"{EVERY}\s+(?:morning|afternoon|evening|night)"), lambda _: _Day("* * *")),
)
"""The first that is found counts: those that say more stand before those that say less."""

INTERVAL = _pattern(
    rf"(?P<adverb>{'|'.join(ADVERBS)})|{EVERY}\s+(?:single\s+)?(?:(?P<many>{NUMBER}|other)\s+)?"
    rf"(?P<unit>minute|min|hour|hr|day|week|month|year)s?(?:\s+on\s+(?P<on>{WEEKDAY_OR_SHORT})s?)?"
)

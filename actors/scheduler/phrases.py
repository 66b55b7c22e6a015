"""Words for times in plain English, as patterns, and what is left of a text when they are taken out."""

from __future__ import annotations

import re
from datetime import time
from typing import NamedTuple

Span = tuple[int, int]

MORNING = time(9)
"""When a day is named and no time: also the hour of `morning`."""

PARTS_OF_DAY = {
    "morning": MORNING,
    "noon": time(12),
    "midday": time(12),
    "afternoon": time(15),
    "evening": time(19),
    "night": time(21),
    "tonight": time(20),
    "midnight": time(0),
}
EXACT_PARTS = ("noon", "midday", "midnight")
LATER_HALF = frozenset({"afternoon", "evening", "night", "tonight"})
LAST_HOUR_MEANT_PM = 6
"""`at 3` is in the afternoon, `at 9` in the morning; `at 03:00` says what it says."""

DAY_NAMES = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
"""In cron's order."""

WEEKDAY = r"(?:sun|mon|tues|wednes|thurs|fri|satur)day"
WEEKDAY_OR_SHORT = rf"(?:{WEEKDAY}|sun|mon|tues?|wed|thur?s?|fri|sat)"
MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)"
)
_NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
NUMBERS = {word: number for number, word in enumerate(_NUMBER_WORDS, 1)}
NUMBER = rf"(?:\d{{1,6}}|{'|'.join(NUMBERS)})"

_TIME = re.compile(
    r"(?:(?:\b(?:at|by|around)\s+|@\s*)?(?<![\d:./-])\b(?P<hour12>\d{1,2})(?:[:.](?P<minute12>\d\d))?\s*"
    r"(?P<half>[ap])\.?m\b\.?"
    r"|(?:\b(?:at|by|around)\s+|@\s*)?(?<![\d:./-])\b(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::00)?\b(?!:)"
    r"|(?:\bat\s+|@\s*)(?P<bare>\d{1,2})(?:\s*(?:h|o'?clock)\b)?(?![\w:%/-]|[.,]\d))",
    re.IGNORECASE,
)
_PART_OF_DAY = re.compile(
    r"(?:\b(?:at|by)\s+(?P<at>noon|midday|midnight|night)|\b(?P<word>noon|midnight|tonight)"
    r"|(?:\b(?:in\s+the|this)\s+|(?<=day\s)|(?<=tomorrow\s))(?P<part>morning|afternoon|evening|night))\b",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"^(?:please\s+|can you\s+|could you\s+)*(?:remind\s+me|(?:set|add|make|create)\s+(?:a\s+)?reminder|reminder)\b"
    r"\s*:?\s*",
    re.IGNORECASE,
)
_LINK = re.compile(r"^(?:to|that|about|for|of)\s+", re.IGNORECASE)
_TAIL = re.compile(r"\s+(?:at|on|by|to|in|and|for)$", re.IGNORECASE)


class TimeOfDay(NamedTuple):
    """`spans` are what says it; `is_tonight` that it is of today, or of the night that follows."""

    at: time
    spans: list[Span]
    is_tonight: bool = False


def find_time(text: str) -> TimeOfDay | None:
    """The time of day that a text names, by the clock, by a part of the day, or both (`tomorrow evening at 7`)."""
    parts = {next(filter(None, part.groups())).lower(): part.span() for part in _PART_OF_DAY.finditer(text)}
    is_tonight = "tonight" in parts
    for clock in _TIME.finditer(text):
        at = _read_clock(clock, is_later_half=not LATER_HALF.isdisjoint(parts))
        if at is not None:
            return TimeOfDay(at, [*parts.values(), clock.span()], is_tonight)
    if not parts:
        return None
    name = next((exact for exact in EXACT_PARTS if exact in parts), next(iter(parts)))
    return TimeOfDay(PARTS_OF_DAY[name], [*parts.values()], is_tonight)


def _read_clock(clock: re.Match[str], *, is_later_half: bool) -> time | None:
    hour = int(clock["hour12"] or clock["hour"] or clock["bare"])
    minute = int(clock["minute12"] or clock["minute"] or 0)
    if minute > 59 or hour > (12 if clock["half"] else 23) or (clock["half"] and hour == 0):
        return None
    if clock["half"]:
        return time(hour % 12 + (12 if clock["half"].lower() == "p" else 0), minute)
    is_padded = (clock["hour"] or clock["bare"]).startswith("0")
    is_afternoon = (is_later_half and 0 < hour < 12) or (not is_padded and 1 <= hour <= LAST_HOUR_MEANT_PM)
    return time(hour + 12 if is_afternoon else hour, minute)


def number(word: str) -> int:
    """What a `NUMBER` says."""
    return NUMBERS[word.lower()] if word.lower() in NUMBERS else int(word)


def weekday(word: str) -> int:
    """The number of a `WEEKDAY_OR_SHORT` as in cron: 0 is Sunday."""
    return next(index for index, name in enumerate(DAY_NAMES) if name.startswith(word.lower()[:3]))


def month(word: str) -> int:
    """The number of a `MONTH`."""
    return MONTH_NAMES.index(word.lower()[:3]) + 1


def without(text: str, spans: list[Span]) -> str:
    """What a text says beside the spans, as a sentence of its own: `Stretch` of `in 10 minutes to stretch`."""
    for start, end in sorted(spans, reverse=True):
        text = f"{text[:start]} {text[end:]}"
    text = _trimmed(_LEAD.sub("", _trimmed(text)))
    text = _trimmed(_TAIL.sub("", _LINK.sub("", text)))
    return text[:1].upper() + text[1:]


def blank(text: str, span: Span) -> str:
    """The text with a span made unreadable, so that other places stay where they are."""
    start, end = span
    return f"{text[:start]}{'_' * (end - start)}{text[end:]}"


def _trimmed(text: str) -> str:
    return " ".join(text.split()).strip(" ,;:-\u2013")

"""Plain words, read at ten in the morning of a Sunday, 22 November 2026, in Berlin."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from pocketpaw.actors.scheduler.reminder_text import EXAMPLES, Understood, understand
from pocketpaw.actors.scheduler.reminders import time_remaining
from pocketpaw.runtime.errors import InvalidInput

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)

ONCE = {
    "in 10 minutes to stretch": ("2026-11-22 10:10", "Stretch"),
    "remind me in 10 minutes to stretch": ("2026-11-22 10:10", "Stretch"),
    "remind me to stretch in 10 minutes": ("2026-11-22 10:10", "Stretch"),
    "tomorrow 5pm call Ann": ("2026-11-23 17:00", "Call Ann"),
    "call Ann tomorrow at 5pm": ("2026-11-23 17:00", "Call Ann"),
    "call Ann tomorrow about the meeting at 17:30": ("2026-11-23 17:30", "Call Ann about the meeting"),
    "at 3pm take pills": ("2026-11-22 15:00", "Take pills"),
    "at 3 take pills": ("2026-11-22 15:00", "Take pills"),
    "at 9 take pills": ("2026-11-23 09:00", "Take pills"),
    "take pills at 03:00": ("2026-11-23 03:00", "Take pills"),
    "remind me to march to the store at 5pm": ("2026-11-22 17:00", "March to the store"),
    "on friday at 18:30 dinner": ("2026-11-27 18:30", "Dinner"),
    "next monday 9am standup": ("2026-11-23 09:00", "Standup"),
    "on 3 March at 10 taxes": ("2027-03-03 10:00", "Taxes"),
    "march 3rd pay": ("2027-03-03 09:00", "Pay"),
    "2026-12-01 14:00 dentist": ("2026-12-01 14:00", "Dentist"),
    "2026-12-01T14:00:00Z dentist": ("2026-12-01 15:00", "Dentist"),
    "in half an hour tea": ("2026-11-22 10:30", "Tea"),
    "in an hour and a half tea": ("2026-11-22 11:30", "Tea"),
    "in 1h30m tea": ("2026-11-22 11:30", "Tea"),
    "in 2 hours and 30 minutes x": ("2026-11-22 12:30", "X"),
    "tonight movie": ("2026-11-22 20:00", "Movie"),
    "tonight at 8 movie": ("2026-11-22 20:00", "Movie"),
    "tonight at midnight party": ("2026-11-23 00:00", "Party"),
    "tomorrow morning run": ("2026-11-23 09:00", "Run"),
    "tomorrow evening at 7 run": ("2026-11-23 19:00", "Run"),
    "in 5 minutes buy 2 eggs": ("2026-11-22 10:05", "Buy 2 eggs"),
    "day after tomorrow at noon lunch": ("2026-11-24 12:00", "Lunch"),
    "the day after tomorrow lunch": ("2026-11-24 09:00", "Lunch"),
    "12/24 at 6pm xmas": ("2026-12-24 18:00", "Xmas"),
    "24.12. 18:00 xmas": ("2026-12-24 18:00", "Xmas"),
    "24.12.2026 at 6pm xmas": ("2026-12-24 18:00", "Xmas"),
    "in 3 days at 9 water plants": ("2026-11-25 09:00", "Water plants"),
    "in 2 weeks water plants": ("2026-12-06 10:00", "Water plants"),
    "in 2 months water plants": ("2027-01-22 10:00", "Water plants"),
    "sunday at 9 brunch": ("2026-11-29 09:00", "Brunch"),
    "sunday at 11 brunch": ("2026-11-29 11:00", "Brunch"),
    "today at 11 x": ("2026-11-22 11:00", "X"),
    "on the 5th at 10 rent": ("2026-12-05 10:00", "Rent"),
    "next week clean up": ("2026-11-29 09:00", "Clean up"),
    "pay 12.50 tomorrow": ("2026-11-23 09:00", "Pay 12.50"),
    "in the morning run": ("2026-11-23 09:00", "Run"),
    "remind me at 6 to call the 3 bears": ("2026-11-22 18:00", "Call the 3 bears"),
    "in 2 days": ("2026-11-24 10:00", "Reminder"),
    "tomorrow": ("2026-11-23 09:00", "Reminder"),
    "12:30 lunch": ("2026-11-22 12:30", "Lunch"),
    "call mum @ 4pm": ("2026-11-22 16:00", "Call mum"),
    "in ten minutes x": ("2026-11-22 10:10", "X"),
    "an hour from now check oven": ("2026-11-22 11:00", "Check oven"),
    "in 1.5 hours x": ("2026-11-22 11:30", "X"),
}

RECURRING = {
    "every weekday at 9 stand-up": ("2026-11-23 09:00", "Stand-up", "0 9 * * 1-5", "every weekday at 09:00"),
    "every weekday stand-up": ("2026-11-23 09:00", "Stand-up", "0 9 * * 1-5", "every weekday at 09:00"),
    "every 2 hours drink water": ("2026-11-22 12:00", "Drink water", "PT120M", "every 2 hours"),
    "every hour drink": ("2026-11-22 11:00", "Drink", "PT60M", "every hour"),
    "every 15 minutes check": ("2026-11-22 10:15", "Check", "PT15M", "every 15 minutes"),
    "every monday at 18:30 choir": ("2026-11-23 18:30", "Choir", "30 18 * * 1", "every monday at 18:30"),
    "every monday and thursday at 7am gym": (
        "2026-11-23 07:00",
        "Gym",
        "0 7 * * 1,4",
        "every monday and thursday at 07:00",
    ),
    "on mondays and thursdays at 7am gym": (
        "2026-11-23 07:00",
        "Gym",
        "0 7 * * 1,4",
        "on mondays and thursdays at 07:00",
    ),
    "on the 1st of each month pay rent": (
        "2026-12-01 09:00",
        "Pay rent",
        "0 9 1 * *",
        "on the 1st of each month at 09:00",
    ),
    "on the 1st and 15th of every month at 8 pay rent": (
        "2026-12-01 08:00",
        "Pay rent",
        "0 8 1,15 * *",
        "on the 1st and 15th of every month at 08:00",
    ),
    "every month on the 31st at 8 pay": ("2026-11-30 08:00", "Pay", "0 8 L * *", "every month on the 31st at 08:00"),
    "on the last day of the month count": (
        "2026-11-30 09:00",
        "Count",
        "0 9 L * *",
        "on the last day of the month at 09:00",
    ),
    "on the first monday of each month meet": (
        "2026-12-07 09:00",
        "Meet",
        "0 9 * * 1#1",
        "on the first monday of each month at 09:00",
    ),
    "on the last friday of every month at 5pm beer": (
        "2026-11-27 17:00",
        "Beer",
        "0 17 * * 5L",
        "on the last friday of every month at 17:00",
    ),
    "every other day at 9 water": ("2026-11-23 09:00", "Water", "P2D 09:00", "every other day at 09:00"),
    "every 2 weeks on monday at 9 bins": ("2026-11-23 09:00", "Bins", "P14D 09:00", "every 2 weeks on monday at 09:00"),
    "daily at 7 vitamins": ("2026-11-23 07:00", "Vitamins", "0 7 * * *", "daily at 07:00"),
    "weekly review": ("2026-11-29 09:00", "Review", "0 9 * * 0", "weekly at 09:00"),
    "every evening journal": ("2026-11-22 19:00", "Journal", "0 19 * * *", "every evening at 19:00"),
    "every morning at 7 run": ("2026-11-23 07:00", "Run", "0 7 * * *", "every morning at 07:00"),
    "every year on 24 december xmas": ("2026-12-24 09:00", "Xmas", "0 9 24 12 *", "every year on 24 december at 09:00"),
    "every december 24 xmas": ("2026-12-24 09:00", "Xmas", "0 9 24 12 *", "every december 24 at 09:00"),
    "every monday to friday at 9 work": (
        "2026-11-23 09:00",
        "Work",
        "0 9 * * 1,2,3,4,5",
        "every monday to friday at 09:00",
    ),
    "mon-fri at 8 work": ("2026-11-23 08:00", "Work", "0 8 * * 1,2,3,4,5", "mon-fri at 08:00"),
    "every 3 months file taxes": ("2027-02-22 09:00", "File taxes", "0 9 22 2,5,8,11 *", "every 3 months at 09:00"),
    "every weekend at 10 sleep": ("2026-11-28 10:00", "Sleep", "0 10 * * 6,0", "every weekend at 10:00"),
    "every day at noon eat": ("2026-11-22 12:00", "Eat", "0 12 * * *", "every day at 12:00"),
    "every sunday and tuesday to go": ("2026-11-24 09:00", "Go", "0 9 * * 0,2", "every sunday and tuesday at 09:00"),
}

REFUSED = {
    "no time here": "no time in it",
    "the second sat may come": "no time in it",
    "today at 9 x": "that time has passed",
    "every 5 months x": "every 5 months cannot be kept",
    "every second": "no time in it",
    "every 30 seconds x": "no time in it",
    "every 9999999 minutes x": "no time in it",
    "in 99999999 years x": "no time in it",
    "in 999 years x": "that is too far away",
    "at 25:00 x": "no time in it",
    "at 13pm x": "no time in it",
}


def read(words: str) -> tuple[Understood, str]:
    found = understand(words, NOW, BERLIN)
    return found, f"{found.at.astimezone(BERLIN):%Y-%m-%d %H:%M}"


@pytest.mark.parametrize("words", ONCE)
def test_what_comes_once(words: str) -> None:
    found, shown = read(words)
    assert (shown, found.text) == ONCE[words]
    assert (found.schedule, found.recurrence) == ("", None)


@pytest.mark.parametrize("words", RECURRING)
def test_what_recurs(words: str) -> None:
    found, shown = read(words)
    assert (shown, found.text, found.schedule, found.recurrence) == RECURRING[words]


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_kept_is_refused_with_a_reason(words: str) -> None:
    with pytest.raises(InvalidInput, match=REFUSED[words]) as refused:
        understand(words, NOW, BERLIN)
    assert refused.value.data["field"] == "message"
    if REFUSED[words] == "no time in it":
        assert EXAMPLES in refused.value.detail


def test_capitals_do_not_matter() -> None:
    assert read("TOMORROW AT 5PM Call Ann")[1] == "2026-11-23 17:00"
    assert read("Every Weekday At 9 stand-up")[0].schedule == "0 9 * * 1-5"


def test_a_time_in_the_hour_that_is_left_out_is_at_its_end() -> None:
    assert read("on 2027-03-28 at 02:30 wake up")[1] == "2027-03-28 03:00"


def test_days_are_counted_by_the_calendar_and_hours_by_what_passes() -> None:
    before = datetime(2027, 3, 27, 11, 0, tzinfo=UTC)
    assert understand("in 1 day x", before, BERLIN).at == datetime(2027, 3, 28, 10, 0, tzinfo=UTC)
    assert understand("in 24 hours x", before, BERLIN).at == datetime(2027, 3, 28, 11, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "junk", ["every", "at", "in", "at at at", "every every", "32.13.", "99/99 x", "on the 0th", "\0", "at 5 " * 900]
)
def test_junk_is_read_or_refused_and_never_crashes(junk: str) -> None:
    try:
        found = understand(junk, NOW, BERLIN)
    except InvalidInput:
        return
    assert found.at > NOW


def test_the_time_that_remains_is_shown_by_its_largest_units() -> None:
    def shown(**parts: int) -> str:
        return time_remaining(timedelta(**parts))

    assert shown(hours=1, minutes=59, seconds=59) == "in 1h 59m"
    assert shown(days=2, minutes=5) == "in 2d"
    assert shown(seconds=30) == "in 30s"
    assert shown(seconds=-5) == "now"

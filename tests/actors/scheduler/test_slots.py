from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pocketpaw.actors.scheduler.clock import at_wall_time, local_zone
from pocketpaw.actors.scheduler.planning import plan
from pocketpaw.actors.scheduler.slots import read_cron, read_schedule
from pocketpaw.runtime.errors import InvalidInput

from .virtual import reminder

BERLIN = ZoneInfo("Europe/Berlin")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
"""Where clocks change by half an hour."""

SCHEDULES = [
    "30 2 * * *",
    "*/20 * * * *",
    "0 * * * *",
    "15 1,2,3 * * 0",
    "0 9 1 * *",
    "PT45M",
    "P1D 02:30",
    "P3D 02:30",
]


def slots(schedule: str, after: str, zone: ZoneInfo, many: int) -> list[str]:
    """The slots that follow, as clocks show them."""
    found, shown = datetime.fromisoformat(after), list[str]()
    for _ in range(many):
        found = read_schedule(schedule, zone).after(found.astimezone(UTC))
        shown.append(f"{found.astimezone(zone):%d %H:%M %z}")
    return shown


@pytest.mark.parametrize(
    ("schedule", "after", "expected"),
    [
        ("30 2 * * *", "2027-03-27T12:00+01:00", ["28 03:00 +0200", "29 02:30 +0200"]),
        ("30 2 * * *", "2026-10-24T12:00+02:00", ["25 02:30 +0200", "26 02:30 +0100"]),
        ("30 2 * * *", "2026-10-25T02:10+01:00", ["26 02:30 +0100"]),
        ("0 * * * *", "2026-10-25T01:30+02:00", ["25 02:00 +0200", "25 02:00 +0100", "25 03:00 +0100"]),
        ("0 * * * *", "2027-03-28T00:30+01:00", ["28 01:00 +0100", "28 03:00 +0200"]),
        ("P1D 02:30", "2027-03-27T02:30+01:00", ["28 03:00 +0200", "29 02:30 +0200"]),
        ("P1D 02:30", "2026-10-24T02:30+02:00", ["25 02:30 +0200", "26 02:30 +0100"]),
        ("PT120M", "2026-10-25T01:30+02:00", ["25 02:30 +0100", "25 04:30 +0100"]),
        ("0 8 L * *", "2027-02-01T08:00+01:00", ["28 08:00 +0100", "31 08:00 +0200"]),
    ],
)
def test_slots_over_changes_of_the_clocks(schedule: str, after: str, expected: list[str]) -> None:
    assert slots(schedule, after, BERLIN, len(expected)) == expected


@given(
    schedule=st.sampled_from(SCHEDULES),
    zone=st.sampled_from([BERLIN, LORD_HOWE, ZoneInfo("UTC")]),
    hours=st.integers(0, 24 * 240),
    missed=st.timedeltas(timedelta(0), timedelta(days=10)),
)
def test_the_latest_slot_is_the_one_that_stepping_there_comes_to(
    schedule: str, zone: ZoneInfo, hours: int, missed: timedelta
) -> None:
    read = read_schedule(schedule, zone)
    first = read.after(datetime(2026, 9, 1, tzinfo=UTC) + timedelta(hours=hours))
    now = first + missed
    step = first
    while (following := read.after(step)) <= now:
        assert following > step
        step = following
    assert read.latest(first, now) == step
    claim = plan(reminder("r", first, schedule), now, zone)
    assert (claim.slot, claim.next_slot) == (step, following)
    assert claim.slot not in [skipped.slot for skipped in claim.skipped]
    assert len({skipped.slot for skipped in claim.skipped}) == len(claim.skipped) <= 101


@pytest.mark.parametrize("line", ["", "* * * *", "60 * * * *", "0 0 30 2 *", "* * * * * *", "a b c d e", "0 9 * * ä"])
def test_a_line_that_is_no_cron_is_refused(line: str) -> None:
    with pytest.raises(InvalidInput, match="expected five fields"):
        read_cron(line, BERLIN)


@pytest.mark.parametrize(
    ("wall", "zone", "expected"),
    [
        ("2027-03-28T02:30", BERLIN, "2027-03-28T01:00Z"),
        ("2026-10-25T02:30", BERLIN, "2026-10-25T00:30Z"),
        ("2026-11-22T12:00", BERLIN, "2026-11-22T11:00Z"),
        ("2026-10-04T02:15", LORD_HOWE, "2026-10-03T15:30Z"),
    ],
)
def test_a_time_on_the_wall_is_a_moment(wall: str, zone: ZoneInfo, expected: str) -> None:
    assert at_wall_time(datetime.fromisoformat(wall), zone) == datetime.fromisoformat(expected)


def test_the_zone_is_the_one_named_or_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_zone("Europe/Berlin") is local_zone("Europe/Berlin")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert str(local_zone("")) == str(local_zone("no/such-zone")) == "Asia/Tokyo"
    monkeypatch.delenv("TZ")
    now = datetime.now(UTC)
    assert now.astimezone(local_zone("")).utcoffset() == now.astimezone().utcoffset()

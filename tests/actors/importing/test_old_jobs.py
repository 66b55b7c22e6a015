"""Reminders and intentions of PocketPaw 0.4 as its files have them, in good order and in bad."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from pocketpaw.actors.importing.old_files import Remark, Unreadable
from pocketpaw.actors.importing.old_jobs import PRESETS, Plan, read_intentions, read_reminders
from pocketpaw.actors.scheduler.slots import read_cron
from pocketpaw.runtime import Principal

PLAN = Plan(
    Principal("master", frozenset({"admin"})), datetime(2026, 11, 22, 12, tzinfo=UTC), ZoneInfo("Europe/Berlin")
)
REMINDER = {
    "id": "r-1",
    "text": "Call mum",
    "original": "tomorrow call mum",
    "trigger_at": "2026-11-23T12:00:00+00:00",
    "created_at": "2026-11-21T12:00:00+00:00",
}
INTENTION = {
    "id": "i-1",
    "name": "Morning",
    "prompt": "What is on?",
    "trigger": {"type": "cron", "schedule": "every_morning_8am"},
    "context_sources": ["system_status", ""],
    "enabled": True,
    "created_at": "2026-11-21T12:00:00+00:00",
    "last_run": "2026-11-22T07:00:00",
}


def write(home: Path, name: str, *entries: object) -> None:
    (home / f"{name}.json").write_text(json.dumps({name: entries, "updated_at": "now"}))


def test_a_reminder_keeps_its_id_words_and_time(tmp_path: Path) -> None:
    recurring = {"id": "r-2", "type": "recurring", "schedule": "daily_noon", "original": ""}
    write(tmp_path, "reminders", REMINDER, {**REMINDER, **recurring})
    left: list[Remark] = []
    once, daily = read_reminders(tmp_path, PLAN, left)
    assert (once.id, once.name, once.prompt, once.schedule) == ("r-1", "Call mum", "tomorrow call mum", "")
    assert once.next_slot == datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert (daily.schedule, daily.recurrence, daily.prompt) == ("0 12 * * *", "daily noon", "Call mum")
    assert daily.next_slot == datetime(2026, 11, 23, 11, tzinfo=UTC)
    assert left == []


def test_an_intention_keeps_its_id_schedule_and_whether_it_is_on(tmp_path: Path) -> None:
    write(tmp_path, "intentions", INTENTION, {**INTENTION, "id": "i-2", "enabled": False, "last_run": None})
    on, off = read_intentions(tmp_path, PLAN, [])
    assert (on.id, on.schedule, on.context_sources, on.channel) == ("i-1", "0 8 * * *", ["system_status"], "intention")
    assert on.next_slot == datetime(2026, 11, 23, 7, tzinfo=UTC)
    assert on.last_run == datetime(2026, 11, 22, 7).astimezone()
    assert (off.enabled, off.next_slot, off.last_run) == (False, None, None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"trigger_at": "2026-11-22T11:59:00+00:00"}, "has passed"),
        ({"trigger_at": "soon"}, "isoformat"),
        ({"type": "recurring", "schedule": "now and then"}, "no cron line"),
        ({"type": "recurring"}, "no cron line"),
        ({"id": ""}, "its id"),
        ({"id": "a/b"}, "its id"),
        ({"text": 7}, "cannot be read"),
    ],
)
def test_a_reminder_that_cannot_come_is_told(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    write(tmp_path, "reminders", {**REMINDER, **change}, REMINDER)
    left: list[Remark] = []
    assert [job.id for job in read_reminders(tmp_path, PLAN, left)] == ["r-1"]
    (remark,) = left
    assert reason in remark.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"trigger": {"type": "webhook"}}, "only schedules"),
        ({"trigger": {"type": "cron", "schedule": "0 9 31 2 *"}}, "Bad day-of-month"),
        ({"trigger": None}, "cannot be read"),
        ({"prompt": ""}, "expected a name"),
        ({"name": ""}, "expected a name"),
        ({"created_at": ""}, "isoformat"),
    ],
)
def test_an_intention_that_cannot_run_is_told(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    write(tmp_path, "intentions", {**INTENTION, **change}, INTENTION)
    left: list[Remark] = []
    assert [job.id for job in read_intentions(tmp_path, PLAN, left)] == ["i-1"]
    (remark,) = left
    assert reason in remark.reason


def test_files_that_are_not_there_hold_none_and_damaged_ones_are_told(tmp_path: Path) -> None:
    assert list(read_reminders(tmp_path, PLAN, [])) == list(read_intentions(tmp_path, PLAN, [])) == []
    for text in ("{", "[]", '{"reminders": 7}'):
        (tmp_path / "reminders.json").write_text(text)
        with pytest.raises(Unreadable, match="cannot be read"):
            list(read_reminders(tmp_path, PLAN, []))


@pytest.mark.parametrize("name", PRESETS)
def test_each_of_its_names_for_schedules_is_a_cron_line(name: str) -> None:
    assert read_cron(PRESETS[name], UTC).after(PLAN.now) > PLAN.now

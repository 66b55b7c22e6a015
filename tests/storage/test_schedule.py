"""Jobs and the ledger of their slots."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pocketpaw.runtime.errors import Conflict, NotFound
from pocketpaw.storage.delivery import DeliverReminders
from pocketpaw.storage.history import GetHistory
from pocketpaw.storage.jobs import (
    AddJob,
    ChangeJob,
    DeleteJob,
    DeleteJobsOf,
    GetJob,
    Job,
    JobKind,
    ListDueJobs,
    ListJobs,
    ListRecurring,
    PutJob,
    ReplanJobs,
    Replanned,
)
from pocketpaw.storage.schedule import (
    AddRun,
    Claim,
    ClaimSlots,
    FinishRun,
    ListRuns,
    PruneRuns,
    Skipped,
    StartRuns,
    TakeOverRuns,
)
from pocketpaw.storage.sessions import CreateSession, DeleteSession

from .conftest import Ask

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def job(job_id: str, kind: JobKind = "reminder", *, schedule: str = "", owner: str = "", session: str = "s-1") -> Job:
    return Job(
        id=job_id,
        kind=kind,
        name=f"the {job_id}",
        prompt="words",
        schedule=schedule,
        next_slot=NOON,
        session_id=session,
        principal="ann",
        scopes=["chat"],
        owner=owner,
        created_at=NOON - HOUR,
    )


def claim(
    job_id: str, *, at: datetime = NOON, then: datetime | None = None, skipped: tuple[datetime, ...] = ()
) -> Claim:
    return Claim(job_id, min((at, *skipped)), at, False, [Skipped(slot) for slot in skipped], then)


def test_a_job_is_what_was_added(write: Ask, read: Ask) -> None:
    added = write(AddJob(job=job("r-1")))
    assert added == job("r-1") == read(GetJob(job_id="r-1", kind="reminder"))
    with pytest.raises(Conflict, match="there is a job 'r-1' already"):
        write(AddJob(job=job("r-1")))
    with pytest.raises(NotFound, match="there is no intention 'r-1'"):
        read(GetJob(job_id="r-1", kind="intention"))
    with pytest.raises(NotFound):
        write(DeleteJob(job_id="r-1", kind="intention"))
    with pytest.raises(NotFound):
        write(ChangeJob(job_id="r-1", kind="intention", name="x"))


def test_due_jobs_come_with_the_time_of_the_next_one(write: Ask, read: Ask) -> None:
    for number in range(3):
        write(AddJob(job=job(f"r-{number}")))
    write(ChangeJob(job_id="r-2", kind="reminder", next_slot=NOON + HOUR))
    assert read(ListDueJobs(at=NOON - HOUR)).next_slot == NOON
    due = read(ListDueJobs(at=NOON, limit=5))
    assert ([one.id for one in due.jobs], due.next_slot) == (["r-0", "r-1"], NOON + HOUR)
    assert len(read(ListDueJobs(at=NOON, limit=1)).jobs) == 1


def test_a_slot_is_entered_once_however_often_it_is_claimed(write: Ask, read: Ask) -> None:
    write(AddJob(job=job("r-1", schedule="PT60M")))
    write(ChangeJob(job_id="r-1", kind="reminder", next_slot=NOON - HOUR))
    planned = claim("r-1", then=NOON + HOUR, skipped=(NOON - HOUR,))
    write(ClaimSlots(claims=[planned], now=NOON))
    write(ClaimSlots(claims=[planned], now=NOON))  # by a life that did not hear of the first time
    write(ReplanJobs(changes=[Replanned("r-1", NOON + HOUR, NOON - HOUR)]))
    write(ClaimSlots(claims=[planned], now=NOON))  # after the clock went back
    assert [(run.slot, run.state) for run in read(ListRuns(job_id="r-1"))] == [
        (NOON, "pending"),
        (NOON - HOUR, "skipped"),
    ]
    assert read(GetJob(job_id="r-1", kind="reminder")).next_slot == NOON + HOUR


def test_a_job_that_was_changed_meanwhile_is_not_claimed(write: Ask, read: Ask) -> None:
    write(AddJob(job=job("r-1")))
    write(ChangeJob(job_id="r-1", kind="reminder", next_slot=NOON + HOUR))
    write(ClaimSlots(claims=[claim("r-1")], now=NOON))
    assert read(ListRuns()) == []
    assert read(GetJob(job_id="r-1", kind="reminder")).next_slot == NOON + HOUR


def test_a_reminder_and_its_note_are_one(write: Ask, read: Ask) -> None:
    write(CreateSession(session_id="s-1", channel="telegram"))
    write(CreateSession(session_id="gone"))
    write(AddJob(job=job("r-1")))
    write(AddJob(job=job("r-2", session="gone")))
    write(DeleteSession(session_id="gone"))
    write(ClaimSlots(claims=[claim("r-1"), claim("r-2")], now=NOON))
    notices = write(DeliverReminders(claim="b/1", now=NOON))
    assert [(one.job_id, one.session_id, one.channel) for one in notices] == [
        ("r-1", "s-1", "telegram"),
        ("r-2", None, "api"),
    ]
    assert write(DeliverReminders(claim="b/1", now=NOON)) == []
    assert [note.content for note in read(GetHistory(session_id="s-1"))] == ["Reminder: the r-1"]
    assert {(run.state, run.claim, run.attempts) for run in read(ListRuns())} == {("done", "b/1", 1)}
    assert read(ListJobs(kind="reminder")) == []


def test_a_run_is_ended_by_the_life_that_began_it(write: Ask, read: Ask) -> None:
    write(AddJob(job=job("i-1", "intention", schedule="0 * * * *")))
    run = write(AddRun(job_id="i-1", kind="intention", now=NOON))
    with pytest.raises(Conflict, match="runs already"):
        write(AddRun(job_id="i-1", kind="intention", now=NOON))
    (started,) = write(StartRuns(claim="b/1", now=NOON))
    assert (started.run.id, started.run.attempts, started.job.last_run) == (run.id, 1, NOON)
    assert write(TakeOverRuns(known=[run.id], now=NOON, too_old=NOON - HOUR)) == []
    assert write(StartRuns(claim="b/2", now=NOON)) == []
    assert write(TakeOverRuns(known=[], now=NOON, too_old=NOON - HOUR)) == []
    (again,) = write(StartRuns(claim="b/2", now=NOON + HOUR))
    assert (again.run.attempts, again.run.started_at) == (2, NOON)
    write(FinishRun(run_id=run.id, claim="b/1", state="done", now=NOON))
    assert read(ListRuns())[0].state == "running"
    write(FinishRun(run_id=run.id, claim="b/2", state="failed", error="no", turn_id="t-1", now=NOON))
    ended = read(ListRuns())[0]
    assert (ended.state, ended.error, ended.turn_id, ended.ended_at) == ("failed", "no", "t-1", NOON)


def test_what_was_tried_too_often_or_too_long_ago_is_interrupted(write: Ask) -> None:
    for name in ("i-1", "i-2"):
        write(AddJob(job=job(name, "intention", schedule="0 * * * *")))
        write(AddRun(job_id=name, kind="intention", now=NOON))
        write(StartRuns(claim="b/1", now=NOON if name == "i-1" else NOON - 2 * HOUR))
    given_up = write(TakeOverRuns(known=[], now=NOON, too_old=NOON - HOUR))
    assert [(run.job_id, run.state) for run in given_up] == [("i-2", "interrupted")]
    write(StartRuns(claim="b/2", now=NOON))
    (tried,) = write(TakeOverRuns(known=[], now=NOON, too_old=NOON - HOUR, max_attempts=2))
    assert (tried.job_id, tried.error) == ("i-1", "gave up after 2 attempts")


def test_a_slot_of_an_intention_that_runs_is_skipped(write: Ask, read: Ask) -> None:
    write(AddJob(job=job("i-1", "intention", schedule="PT60M")))
    write(ClaimSlots(claims=[claim("i-1", then=NOON + HOUR)], now=NOON))
    write(ClaimSlots(claims=[claim("i-1", at=NOON + HOUR, then=NOON + 2 * HOUR)], now=NOON))
    assert [run.state for run in read(ListRuns())] == ["skipped", "pending"]


def test_put_keeps_the_next_slot_while_the_schedule_stays(write: Ask) -> None:
    task = job("task:x", "task", schedule="0 3 * * *")
    assert write(PutJob(job=task)) == task
    write(ChangeJob(job_id="task:x", kind="task", next_slot=NOON + HOUR))
    assert write(PutJob(job=task)).next_slot == NOON + HOUR
    other = job("task:x", "task", schedule="0 4 * * *")
    assert write(PutJob(job=other)) == other


def test_recurring_jobs_are_listed_in_pages_and_owners_jobs_deleted_together(write: Ask, read: Ask) -> None:
    for number in range(5):
        schedule, owner = "PT60M" if number else "", "kit:a" if number > 2 else ""
        write(AddJob(job=job(f"i-{number}", "intention", schedule=schedule, owner=owner)))
    first = read(ListRecurring(limit=3))
    rest = read(ListRecurring(after_id=first[-1].id, limit=3))
    assert [one.id for one in (*first, *rest)] == ["i-1", "i-2", "i-3", "i-4"]
    write(AddRun(job_id="i-4", kind="intention", now=NOON))
    write(DeleteJobsOf(owner="kit:a"))
    assert [one.id for one in read(ListJobs(kind="intention"))] == ["i-0", "i-1", "i-2"]
    assert read(ListRuns()) == []


def test_what_ended_long_ago_is_forgotten_and_what_did_not_end_stays(write: Ask, read: Ask) -> None:
    write(AddJob(job=job("r-1")))
    write(AddJob(job=job("i-1", "intention", schedule="0 * * * *")))
    write(ClaimSlots(claims=[claim("r-1"), claim("i-1", then=NOON + HOUR)], now=NOON))
    write(DeliverReminders(claim="b/1", now=NOON))
    write(PruneRuns(before=NOON))
    assert len(read(ListRuns())) == 2
    write(PruneRuns(before=NOON + HOUR))
    assert [run.job_id for run in read(ListRuns())] == ["i-1"]
    with pytest.raises(NotFound):
        read(GetJob(job_id="r-1", kind="reminder"))

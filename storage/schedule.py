"""The scheduler's ledger: one row for each slot of a job, whatever became of it.

A slot gets its row in the transaction that moves its job on to the next one, so none is left out and none comes twice.
A run is `pending`, `running`, then `done`, `failed` or `interrupted`; what was not to run is `skipped`. A running one
carries the claim of the scheduler's life that began it, and its attempts are counted before they are made.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from ..runtime.errors import Conflict
from ..runtime.message import Done, Message
from .jobs import Job, JobKind, load_job
from .registry import command, query
from .tables import AnyRow, UtcDateTime, jobs, runs

RunState = Literal["pending", "running", "done", "failed", "interrupted", "skipped"]

UNFINISHED = ("pending", "running")


class Skipped(msgspec.Struct, frozen=True):
    """A missed slot; with `until`, all from it up to that one, which is not meant."""

    slot: datetime
    until: datetime | None = None


class Claim(msgspec.Struct, frozen=True):
    """A due job's slots: `slot` runs, the skipped ones before it do not, and the job goes on to `next_slot`.

    `expected` is the next slot that the job had when this was planned; if it has another one by now, nothing is done.
    """

    job_id: str
    expected: datetime
    slot: datetime
    is_late: bool
    skipped: list[Skipped]
    next_slot: datetime | None


class Run(msgspec.Struct, frozen=True):
    """A row of the ledger."""

    id: int
    job_id: str
    slot: datetime
    until: datetime | None
    state: RunState
    is_late: bool
    attempts: int
    claim: str | None
    turn_id: str | None
    error: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class Started(msgspec.Struct, frozen=True):
    """A run that has been begun, and its job."""

    run: Run
    job: Job


class ClaimSlots(Message[Done], to="store/writer"):
    """Enter the slots of due jobs, and move the jobs on. A slot that has its row already keeps it.

    Of an intention or a task whose last run goes on, the slot is skipped.
    """

    claims: list[Claim]
    now: datetime


class AddRun(Message[Run], to="store/writer"):
    """Enter a run that a person wants now."""

    job_id: str
    kind: JobKind
    now: datetime


class StartRuns(Message[list[Started]], to="store/writer"):
    """Begin intentions and tasks that are pending, oldest first."""

    claim: str
    now: datetime
    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 8


class FinishRun(Message[Done], to="store/writer"):
    """End a run. Words of an older life, or about a job that was deleted, change nothing."""

    run_id: int
    claim: str
    state: Literal["done", "failed", "interrupted"]
    now: datetime
    error: str | None = None
    turn_id: str | None = None


class TakeOverRuns(Message[list[Run]], to="store/writer"):
    """Make pending again what is left running, but for the runs in `known`; returns what is interrupted instead.

    That is what has been tried too often, or began before `too_old`.
    """

    known: list[int]
    now: datetime
    too_old: datetime
    max_attempts: Annotated[int, msgspec.Meta(ge=1)] = 3


class PruneRuns(Message[Done], to="store/writer"):
    """Forget what ended before a time, and the one-time reminders that came before it."""

    before: datetime


class ListRuns(Message[list[Run]], to="store/reader"):
    """List what became of a job's slots, latest first; without a job, of all."""

    job_id: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 100


_NAMES = Run.__struct_fields__
_RUNS = select(*(runs.c[name] for name in _NAMES))
_RUN_ID = runs.c.id == bindparam("run_id")
_IS_UNFINISHED = runs.c.state.in_(UNFINISHED)
_MOVE_ON = (
    update(jobs)
    .where(jobs.c.id == bindparam("job_id"), jobs.c.next_slot == bindparam("expected"))
    .values(next_slot=bindparam("new_slot"))
)
_BUSY = (
    select(runs.c.job_id)
    .join_from(runs, jobs)
    .where(_IS_UNFINISHED, jobs.c.kind != "reminder", runs.c.job_id.in_(bindparam("ids", expanding=True)))
)
_ENTERED = select(runs.c.job_id, runs.c.slot).where(
    runs.c.job_id.in_(bindparam("ids", expanding=True)), runs.c.slot >= bindparam("since")
)
_INSERT = insert(runs)
_PENDING_OTHERS = (
    select(runs.c.id, jobs.c.id, jobs.c.kind)
    .join_from(runs, jobs)
    .where(runs.c.state == "pending", jobs.c.kind != "reminder")
    .order_by(runs.c.id)
    .limit(bindparam("limit"))
)
_START = (
    update(runs)
    .where(_RUN_ID)
    .values(
        state="running",
        attempts=runs.c.attempts + 1,
        claim=bindparam("by_claim"),
        started_at=func.coalesce(runs.c.started_at, bindparam("now", type_=UtcDateTime)),
    )
)
RAN = update(jobs).where(jobs.c.id == bindparam("job_id")).values(last_run=bindparam("now"))
_FINISH = (
    update(runs)
    .where(_RUN_ID, runs.c.state == "running", runs.c.claim == bindparam("by_claim"))
    .values(
        state=bindparam("new_state"),
        error=bindparam("new_error"),
        turn_id=bindparam("new_turn"),
        ended_at=bindparam("now"),
    )
)
_RUNNING = _RUNS.where(runs.c.state == "running").order_by(runs.c.id)
_BACK = update(runs).where(_RUN_ID).values(state="pending")
_INTERRUPT = (
    update(runs).where(_RUN_ID).values(state="interrupted", error=bindparam("new_error"), ended_at=bindparam("now"))
)
_PRUNE = delete(runs).where(runs.c.created_at < bindparam("before"), ~_IS_UNFINISHED)
_PRUNE_JOBS = delete(jobs).where(
    jobs.c.kind == "reminder", jobs.c.next_slot.is_(None), jobs.c.last_run < bindparam("before")
)
_ONE = _RUNS.where(_RUN_ID)
_LATEST = _RUNS.order_by(runs.c.slot.desc(), runs.c.id.desc()).limit(bindparam("limit"))
_LATEST_OF_JOB = _LATEST.where(runs.c.job_id == bindparam("of_job"))


@command
def claim_slots(connection: Connection, message: ClaimSlots) -> Done:
    if not message.claims:
        return Done()
    ids = [claim.job_id for claim in message.claims]
    busy = set(connection.scalars(_BUSY, {"ids": ids}))
    since = min(claim.expected for claim in message.claims)
    entered = {(job_id, slot) for job_id, slot in connection.execute(_ENTERED, {"ids": ids, "since": since})}
    rows: list[dict[str, object]] = []
    for claim in message.claims:
        if _move_on(connection, claim):
            new = _rows(claim, message.now, is_busy=claim.job_id in busy)
            rows += [row for row in new if (row["job_id"], row["slot"]) not in entered]
    if rows:
        connection.execute(_INSERT, rows)
    return Done()


@command
def add_run(connection: Connection, message: AddRun) -> Run:
    job = load_job(connection, message.job_id, message.kind)
    if connection.scalars(_BUSY, {"ids": [job.id]}).first() is not None:
        raise Conflict(f"the {job.kind} {job.name!r} runs already", job_id=job.id)
    row = _row(job.id, message.now, message.now)
    inserted = connection.execute(_INSERT, row).inserted_primary_key
    assert inserted is not None
    return _read(connection.execute(_ONE, {"run_id": inserted[0]}).one())


@command
def start_runs(connection: Connection, message: StartRuns) -> list[Started]:
    started: list[Started] = []
    for run_id, job_id, kind in connection.execute(_PENDING_OTHERS, {"limit": message.limit}).all():
        connection.execute(_START, {"run_id": run_id, "by_claim": message.claim, "now": message.now})
        connection.execute(RAN, {"job_id": job_id, "now": message.now})
        run = _read(connection.execute(_ONE, {"run_id": run_id}).one())
        started.append(Started(run, load_job(connection, job_id, kind)))
    return started


@command
def finish_run(connection: Connection, message: FinishRun) -> Done:
    end = {
        "run_id": message.run_id,
        "by_claim": message.claim,
        "new_state": message.state,
        "new_error": message.error,
        "new_turn": message.turn_id,
        "now": message.now,
    }
    connection.execute(_FINISH, end)
    return Done()


@command
def take_over_runs(connection: Connection, message: TakeOverRuns) -> list[Run]:
    given_up: list[int] = []
    for run in map(_read, connection.execute(_RUNNING).all()):
        if run.id in message.known:
            continue
        reason = _why_not_again(run, message)
        if reason is None:
            connection.execute(_BACK, {"run_id": run.id})
        else:
            connection.execute(_INTERRUPT, {"run_id": run.id, "new_error": reason, "now": message.now})
            given_up.append(run.id)
    return [_read(connection.execute(_ONE, {"run_id": run_id}).one()) for run_id in given_up]


@command
def prune_runs(connection: Connection, message: PruneRuns) -> Done:
    connection.execute(_PRUNE, {"before": message.before})
    connection.execute(_PRUNE_JOBS, {"before": message.before})
    return Done()


@query
def list_runs(connection: Connection, message: ListRuns) -> list[Run]:
    if message.job_id is None:
        rows = connection.execute(_LATEST, {"limit": message.limit})
    else:
        rows = connection.execute(_LATEST_OF_JOB, {"limit": message.limit, "of_job": message.job_id})
    return [_read(row) for row in rows]


def _move_on(connection: Connection, claim: Claim) -> bool:
    change = {"job_id": claim.job_id, "expected": claim.expected, "new_slot": claim.next_slot}
    return connection.execute(_MOVE_ON, change).rowcount == 1


def _rows(claim: Claim, now: datetime, *, is_busy: bool) -> Iterable[dict[str, object]]:
    for missed in claim.skipped:
        why = "the daemon was down or its clock stood elsewhere: a later slot ran for it"
        yield _row(claim.job_id, missed.slot, now, until=missed.until, state="skipped", error=why)
    if is_busy:
        why = "the run before it had not ended"
        yield _row(claim.job_id, claim.slot, now, state="skipped", is_late=claim.is_late, error=why)
    else:
        yield _row(claim.job_id, claim.slot, now, is_late=claim.is_late)


def _row(
    job_id: str,
    slot: datetime,
    now: datetime,
    *,
    until: datetime | None = None,
    state: RunState = "pending",
    is_late: bool = False,
    error: str | None = None,
) -> dict[str, object]:
    return {
        "job_id": job_id,
        "slot": slot,
        "until": until,
        "state": state,
        "is_late": is_late,
        "attempts": 0,
        "error": error,
        "created_at": now,
        "ended_at": now if state == "skipped" else None,
    }


def _why_not_again(run: Run, message: TakeOverRuns) -> str | None:
    if run.attempts >= message.max_attempts:
        return f"gave up after {run.attempts} attempts"
    if run.started_at is None or run.started_at < message.too_old:
        return "it was left running too long ago to go on with"
    return None


def _read(row: AnyRow) -> Run:
    return Run(*row)

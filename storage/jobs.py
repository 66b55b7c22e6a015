"""Jobs: what is to happen at its time. A reminder, an intention (a prompt), or a task of the daemon's own.

Invariant: `next_slot` is NULL exactly where nothing comes any more: once a one-time reminder has come, and while a job
is switched off. It moves on together with the ledger's row of the slot (see schedule.py).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from sqlalchemy import Connection, Select, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from ..runtime.errors import Conflict, NotFound
from ..runtime.message import Done, Message
from .registry import command, query, recurring_query
from .tables import AnyRow, jobs, runs, utc_now

JobKind = Literal["reminder", "intention", "task"]
PENDING = "pending"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """`name` is a reminder's text; `prompt` its original words, or what an intention asks the agent.

    `schedule` is empty for what comes once; `recurrence` has a person's words for it. `session_id`, `channel`,
    `principal`, `scopes` and `provenance` are those of whoever made it; `owner` is set where that was no person.
    """

    id: str
    kind: JobKind
    name: str
    prompt: str = ""
    schedule: str = ""
    recurrence: str | None = None
    next_slot: datetime | None
    enabled: bool = True
    session_id: str | None = None
    channel: str = "api"
    principal: str
    scopes: list[str] = msgspec.field(default_factory=list[str])
    provenance: list[str] = msgspec.field(default_factory=list[str])
    context_sources: list[str] = msgspec.field(default_factory=list[str])
    owner: str = ""
    created_at: datetime
    last_run: datetime | None = None


class DueJobs(msgspec.Struct, frozen=True):
    """`jobs` are due, the longest first; `next_slot` is when the first of the others will be."""

    jobs: list[Job]
    next_slot: datetime | None


class Replanned(msgspec.Struct, frozen=True):
    """The job's next slot becomes another one, if it is still the expected one."""

    job_id: str
    expected: datetime
    next_slot: datetime


class AddJob(Message[Job], to="store/writer"):
    """Keep a job."""

    job: Job


class PutJob(Message[Job], to="store/writer"):
    """Have a job be so: one that is there is changed to it, and keeps its next slot while its schedule stays."""

    job: Job


class ChangeJob(Message[Job], to="store/writer"):
    """Change what is given. Who switches a job off also has what waits of it skipped."""

    job_id: str
    kind: JobKind
    name: str | None = None
    prompt: str | None = None
    schedule: str | None = None
    context_sources: list[str] | None = None
    enabled: bool | None = None
    next_slot: datetime | msgspec.UnsetType | None = msgspec.UNSET
    principal: str | None = None
    scopes: list[str] | None = None
    provenance: list[str] | None = None


class DeleteJob(Message[Done], to="store/writer"):
    """Forget a job and its runs."""

    job_id: str
    kind: JobKind


class DeleteJobsOf(Message[Done], to="store/writer"):
    """Forget all jobs of an owner, and their runs."""

    owner: Annotated[str, msgspec.Meta(min_length=1)]


class ReplanJobs(Message[Done], to="store/writer"):
    """Give jobs other next slots, because the clock or the time zone was set."""

    changes: list[Replanned]


class GetJob(Message[Job], to="store/reader"):
    """Show one job."""

    job_id: str
    kind: JobKind


class ListJobs(Message[list[Job]], to="store/reader"):
    """List the jobs of a kind: reminders that are still to come, soonest first; others oldest first."""

    kind: JobKind


class ListDueJobs(Message[DueJobs], to="store/reader"):
    """List the jobs that are due at a time."""

    at: datetime
    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 100


class ListRecurring(Message[list[Job]], to="store/reader"):
    """List the jobs that recur and are to come, in the order of their ids, in pages."""

    after_id: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 200


_NAMES = Job.__struct_fields__
_JOBS = select(*(jobs.c[name] for name in _NAMES))
_JOB_ID = jobs.c.id == bindparam("job_id")
_BY_ID = _JOBS.where(_JOB_ID, jobs.c.kind == bindparam("job_kind"))
_TO_COME = jobs.c.next_slot.is_not(None)
_REMINDERS = _JOBS.where(jobs.c.kind == "reminder", _TO_COME).order_by(jobs.c.next_slot, jobs.c.id)
_OTHERS = _JOBS.where(jobs.c.kind == bindparam("job_kind")).order_by(jobs.c.created_at, jobs.c.id)
_DUE = _JOBS.where(jobs.c.next_slot <= bindparam("at")).order_by(jobs.c.next_slot, jobs.c.id).limit(bindparam("limit"))
_NEXT = select(func.min(jobs.c.next_slot)).where(jobs.c.next_slot > bindparam("at"))
_RECURRING = (
    _JOBS.where(jobs.c.id > bindparam("after_id"), jobs.c.schedule != "", _TO_COME)
    .order_by(jobs.c.id)
    .limit(bindparam("limit"))
)
_INSERT = insert(jobs)
_REPLAN = update(jobs).where(_JOB_ID, jobs.c.next_slot == bindparam("expected")).values(next_slot=bindparam("new_slot"))
_DELETE = delete(jobs).where(_JOB_ID, jobs.c.kind == bindparam("job_kind"))
_DELETE_OF = delete(jobs).where(jobs.c.owner == bindparam("of_owner"))
_SKIP_WAITING = (
    update(runs)
    .where(runs.c.job_id == bindparam("of_job"), runs.c.state == PENDING)
    .values(state="skipped", error="it was switched off", ended_at=bindparam("now"))
)


@command
def add_job(connection: Connection, message: AddJob) -> Job:
    try:
        connection.execute(_INSERT, msgspec.structs.asdict(message.job))
    except IntegrityError as error:
        raise Conflict(f"there is a job {message.job.id!r} already", job_id=message.job.id) from error
    return load_job(connection, message.job.id, message.job.kind)


_PUT = ("name", "prompt", "schedule", "enabled", "principal", "scopes", "provenance")
"""What `PutJob` changes of a job that is there."""


@command
def put_job(connection: Connection, message: PutJob) -> Job:
    job = message.job
    known = connection.execute(_BY_ID, {"job_id": job.id, "job_kind": job.kind}).first()
    if known is None:
        return add_job(connection, AddJob(job=job))
    was = read_job(known)
    if all(getattr(was, name) == getattr(job, name) for name in _PUT):
        return was
    keeps_slot = (was.schedule, was.enabled) == (job.schedule, job.enabled)
    change = ChangeJob(
        job_id=job.id,
        kind=job.kind,
        name=job.name,
        prompt=job.prompt,
        schedule=job.schedule,
        enabled=job.enabled,
        next_slot=msgspec.UNSET if keeps_slot else job.next_slot,
        principal=job.principal,
        scopes=job.scopes,
        provenance=job.provenance,
    )
    return change_job(connection, change)


@command
def change_job(connection: Connection, message: ChangeJob) -> Job:
    given = {
        "name": message.name,
        "prompt": message.prompt,
        "schedule": message.schedule,
        "context_sources": message.context_sources,
        "enabled": message.enabled,
        "principal": message.principal,
        "scopes": message.scopes,
        "provenance": message.provenance,
    }
    changes: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    if not isinstance(message.next_slot, msgspec.UnsetType):
        changes["next_slot"] = message.next_slot
    if changes:
        connection.execute(update(jobs).where(jobs.c.id == message.job_id, jobs.c.kind == message.kind).values(changes))
    if message.enabled is False:
        connection.execute(_SKIP_WAITING, {"of_job": message.job_id, "now": utc_now()})
    return load_job(connection, message.job_id, message.kind)


@command
def delete_job(connection: Connection, message: DeleteJob) -> Done:
    if connection.execute(_DELETE, {"job_id": message.job_id, "job_kind": message.kind}).rowcount == 0:
        raise no_job(message.job_id, message.kind)
    return Done()


@command
def delete_jobs_of(connection: Connection, message: DeleteJobsOf) -> Done:
    connection.execute(_DELETE_OF, {"of_owner": message.owner})
    return Done()


@command
def replan_jobs(connection: Connection, message: ReplanJobs) -> Done:
    changes = [
        {"job_id": change.job_id, "expected": change.expected, "new_slot": change.next_slot}
        for change in message.changes
    ]
    if changes:
        connection.execute(_REPLAN, changes)
    return Done()


@query
def get_job(connection: Connection, message: GetJob) -> Job:
    return load_job(connection, message.job_id, message.kind)


@recurring_query
def list_jobs(connection: Connection, message: ListJobs) -> list[Job]:
    if message.kind == "reminder":
        return _read(connection, _REMINDERS, {})
    return _read(connection, _OTHERS, {"job_kind": message.kind})


@query
def list_due_jobs(connection: Connection, message: ListDueJobs) -> DueJobs:
    due = _read(connection, _DUE, {"at": message.at, "limit": message.limit})
    return DueJobs(due, connection.execute(_NEXT, {"at": message.at}).scalar_one())


@query
def list_recurring(connection: Connection, message: ListRecurring) -> list[Job]:
    return _read(connection, _RECURRING, {"after_id": message.after_id, "limit": message.limit})


def load_job(connection: Connection, job_id: str, kind: JobKind) -> Job:
    row = connection.execute(_BY_ID, {"job_id": job_id, "job_kind": kind}).first()
    if row is None:
        raise no_job(job_id, kind)
    return read_job(row)


def no_job(job_id: str, kind: JobKind) -> NotFound:
    return NotFound(f"there is no {kind} {job_id!r}", job_id=job_id)


def read_job(row: AnyRow) -> Job:
    """A job of a row that begins with the columns of `_JOBS`."""
    return Job(**dict(zip(_NAMES, row, strict=True)))


def _read(connection: Connection, statement: Select[*tuple[Any, ...]], parameters: dict[str, object]) -> list[Job]:
    return [read_job(row) for row in connection.execute(statement, parameters)]

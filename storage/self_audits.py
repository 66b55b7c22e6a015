"""What the self-audits have found: one report a day, the latest."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select

from ..runtime.errors import InvalidInput, NotFound
from ..runtime.message import Done, Message
from .registry import command, query, recurring_query
from .tables import self_audits

# The look-ahead keeps out the trailing line break that `$` alone lets pass.
Day = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$(?!\n)")]
Gravity = Literal["info", "warning", "critical"]


class AuditCheck(msgspec.Struct, frozen=True):
    """One thing that was looked at; `severity` is how bad it is, or would be."""

    name: str
    passed: bool
    message: str
    severity: Gravity


class SelfAuditSummary(msgspec.Struct, frozen=True):
    date: str
    total: int
    passed: int
    issues: int


class SelfAuditReport(msgspec.Struct, frozen=True):
    """`date` is the day here when it was made."""

    date: str
    timestamp: datetime
    total: int
    passed: int
    issues: int
    checks: list[AuditCheck]


class KeepSelfAudit(Message[Done], to="store/writer"):
    """Keep a report in the place of an earlier one of that day."""

    report: SelfAuditReport


class ListSelfAudits(Message[list[SelfAuditSummary]], to="store/reader"):
    """List the self-audits, newest first."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 90


class GetSelfAudit(Message[SelfAuditReport], to="store/reader"):
    """Show what the self-audit of a day found."""

    date: Day


_DATE = self_audits.c.date == bindparam("of_date")
_ONE = select(
    self_audits.c.date,
    self_audits.c.timestamp,
    self_audits.c.total,
    self_audits.c.passed,
    self_audits.c.issues,
    self_audits.c.checks,
).where(_DATE)
_LIST = (
    select(self_audits.c.date, self_audits.c.total, self_audits.c.passed, self_audits.c.issues)
    .order_by(self_audits.c.date.desc())
    .limit(bindparam("limit"))
)
_DELETE = delete(self_audits).where(_DATE)
_INSERT = insert(self_audits)


@command
def keep_self_audit(connection: Connection, message: KeepSelfAudit) -> Done:
    report = message.report
    connection.execute(_DELETE, {"of_date": report.date})
    checks = msgspec.to_builtins(report.checks)
    connection.execute(_INSERT, {**msgspec.structs.asdict(report), "checks": checks})
    return Done()


@recurring_query
def list_self_audits(connection: Connection, message: ListSelfAudits) -> list[SelfAuditSummary]:
    return [SelfAuditSummary(*row) for row in connection.execute(_LIST, {"limit": message.limit})]


@query
def get_self_audit(connection: Connection, message: GetSelfAudit) -> SelfAuditReport:
    try:
        date.fromisoformat(message.date)
    except ValueError:
        raise InvalidInput(f"there is no day {message.date}", field="date") from None
    row = connection.execute(_ONE, {"of_date": message.date}).first()
    if row is None:
        raise NotFound(f"there is no self-audit of {message.date}", date=message.date)
    *facts, checks = row
    return SelfAuditReport(*facts, checks=msgspec.convert(checks, list[AuditCheck]))

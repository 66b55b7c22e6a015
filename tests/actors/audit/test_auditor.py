"""The auditor: what it does about checks that fail, repairs that fail, and the schedule."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import msgspec
import pytest
from pocketpaw.actors.audit import auditor as auditor_module
from pocketpaw.actors.audit.auditor import SELF_AUDIT, Auditor, RunSecurityAudit, RunSelfAudit, SecurityResult
from pocketpaw.actors.audit.security_check import Premises, SecurityCheck, Seen, fine, wrong
from pocketpaw.actors.checks import CHECKS as HEALTH_CHECKS
from pocketpaw.actors.health import HealthView, Issue, RecordProblem, RunChecks
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.runtime import Actor, ActorSystem, Child, Done, Supervisor
from pocketpaw.runtime.errors import Unavailable
from pocketpaw.storage.self_audits import GetSelfAudit, ListSelfAudits
from pocketpaw.storage.tables import utc_now

from ...conftest import run_without_leak

MakeLive = Callable[..., LiveSettings]
Auditing = Callable[..., AbstractAsyncContextManager[ActorSystem]]


class FakeHealth(Actor):
    """Says what it is made with, and keeps what it is told."""

    def __init__(self, issues: list[Issue], told: list[RecordProblem]) -> None:
        super().__init__()
        self._issues, self._told = issues, told

    async def run_checks(self, message: RunChecks) -> HealthView:
        return HealthView("healthy", 1, self._issues, None)

    async def record_problem(self, message: RecordProblem) -> Done:
        self._told.append(message)
        return Done()


@pytest.fixture
def told() -> list[RecordProblem]:
    return []


@pytest.fixture
def auditing(
    live: LiveSettings,
    make_store: Callable[[], Supervisor],
    told: list[RecordProblem],
    monkeypatch: pytest.MonkeyPatch,
) -> Auditing:
    """`async with auditing(check, …, issues=[…]) as system:` runs an auditor that has these checks only."""

    @asynccontextmanager
    async def run(*checks: SecurityCheck, issues: tuple[Issue, ...] = ()) -> AsyncGenerator[ActorSystem]:
        monkeypatch.setattr(auditor_module, "CHECKS", checks)
        tree = Supervisor(
            "root",
            [
                make_store(),
                Child(FakeHealth, list(issues), told, id="health"),
                Supervisor("audit", [Child(Auditor, live)]),
            ],
        )
        async with run_without_leak(tree) as system:
            yield system

    return run


async def pass_by(_premises: Premises) -> Seen:
    return fine("all is well")


async def find(_premises: Premises) -> Seen:
    return wrong("something is open")


async def fail(_premises: Premises) -> Seen:
    raise Unavailable("the disk is full")


async def crash(_premises: Premises) -> Seen:
    return fine(str(1 // 0))


def check(name: str, look: Callable[..., object], repair: Callable[..., object] | None = None) -> SecurityCheck:
    return SecurityCheck(name, "warning", look, repair)  # pyright: ignore[reportArgumentType] - functions as above


async def test_a_check_that_fails_hides_none_of_the_others(auditing: Auditing, told: list[RecordProblem]) -> None:
    async with auditing(check("a", fail), check("b", crash), check("c", pass_by), check("d", find)) as system:
        report = await system.ask(RunSecurityAudit())
    assert (report.total, report.passed, report.issues) == (4, 1, 3)
    assert report.results[0] == SecurityResult("a", False, "this could not be looked at: the disk is full", False)
    assert "ZeroDivisionError" in report.results[1].message
    assert report.results[2] == SecurityResult("c", True, "all is well", False)
    (problem,) = told
    assert problem.source == "audit/auditor"
    assert "ZeroDivisionError" in (problem.traceback or "")


async def test_only_what_is_asked_for_is_mended_and_it_is_looked_at_again(auditing: Auditing) -> None:
    mended: list[str] = []

    async def look(_premises: Premises) -> Seen:
        return fine("mended") if mended else wrong("open")

    async def repair(_premises: Premises) -> None:
        mended.append("door")

    async with auditing(check("door", look, repair), check("wall", find)) as system:
        report = await system.ask(RunSecurityAudit())
        assert [(one.passed, one.fixable) for one in report.results] == [(False, True), (False, False)]
        assert (mended, report.fixed) == ([], [])
        report = await system.ask(RunSecurityAudit(fix=True))
        assert [(one.passed, one.fixable) for one in report.results] == [(True, False), (False, False)]
        assert (mended, report.fixed) == (["door"], ["door"])
        await system.ask(RunSecurityAudit(fix=True))
        assert mended == ["door"], "what is in order is not mended"


async def test_a_repair_that_does_not_work_is_told(auditing: Auditing, told: list[RecordProblem]) -> None:
    async def repair(_premises: Premises) -> None:
        raise PermissionError(1, "not permitted")

    async with auditing(check("door", find, repair)) as system:
        report = await system.ask(RunSecurityAudit(fix=True))
    assert (report.fixed, report.results[0].passed, report.results[0].fixable) == ([], False, True)
    assert "not permitted" in told[0].message


async def test_a_report_holds_security_and_health_and_the_latest_of_a_day_counts(auditing: Auditing) -> None:
    issue = Issue("storage:x", "Storage", "storage", "critical", "the disk is full", "Make room.", utc_now())
    async with auditing(check("door", find), issues=(issue,)) as system:
        await system.ask(RunSelfAudit())
        report = await system.ask(RunSelfAudit())
        by_name = {one.name: one for one in report.checks}
        assert (by_name["door"].passed, by_name["door"].severity) == (False, "warning")
        storage = by_name[HEALTH_CHECKS["storage"].name]
        assert (storage.passed, storage.severity, storage.message) == (False, "critical", "the disk is full")
        assert by_name["Scheduled jobs"].passed
        assert (report.total, report.issues) == (len(report.checks), 2)
        (summary,) = await system.ask(ListSelfAudits())
        assert (summary.date, summary.passed) == (report.date, report.passed)
        assert await system.ask(GetSelfAudit(date=report.date)) == report


def test_it_comes_by_the_settings_schedule(make_live: MakeLive) -> None:
    assert SELF_AUDIT.schedule(make_live().current) == "0 3 * * *"
    assert SELF_AUDIT.schedule(make_live(self_audit_schedule="5 4 * * 1").current) == "5 4 * * 1"
    assert SELF_AUDIT.schedule(make_live(self_audit_enabled=False).current) == ""
    assert msgspec.structs.asdict(SELF_AUDIT.message()) == {}

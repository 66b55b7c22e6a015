"""The auditor: looks at the daemon's own security, when it is asked and by schedule, and mends what it can."""

from __future__ import annotations

import traceback
from datetime import datetime, timedelta

import msgspec
import trio

from ...runtime import Actor, Message
from ...runtime.errors import PocketPawError
from ...runtime.exits import describe
from ...storage.schedule import ListRuns
from ...storage.self_audits import AuditCheck, KeepSelfAudit, SelfAuditReport
from ...storage.tables import utc_now
from ..checks import CHECKS as HEALTH_CHECKS
from ..health import RecordProblem, RunChecks
from ..scheduler.clock import local_zone
from ..scheduler.standing import Standing
from ..settings import LiveSettings
from . import access_checks, agent_checks, file_checks, upkeep_checks
from .security_check import Premises, SecurityCheck, Seen, wrong

CHECKS = (*file_checks.CHECKS, *access_checks.CHECKS, *agent_checks.CHECKS, *upkeep_checks.CHECKS)
"""In the order in which they are told."""

CHECK_S = 330.0
HEALTH_S = 120.0
RUNS_SINCE = timedelta(days=1)
RUNS_LOOKED_AT = 1_000


class SecurityResult(msgspec.Struct, frozen=True):
    """`fixable` says whether `fix` could mend it; nothing that passed can be."""

    check: str
    passed: bool
    message: str
    fixable: bool


class SecurityReport(msgspec.Struct, frozen=True):
    """`fixed` names the checks whose findings were mended by this run."""

    total: int
    passed: int
    issues: int
    results: list[SecurityResult]
    fixed: list[str]


class RunSecurityAudit(Message[SecurityReport], to="audit/auditor"):
    """Look at everything that keeps this daemon safe; with `fix`, mend what can be mended, and look again."""

    fix: bool = False


class RunSelfAudit(Message[SelfAuditReport], to="audit/auditor"):
    """Look at the daemon's security and health, and keep the report; of several on a day the latest counts."""


SELF_AUDIT = Standing(
    "self_audit",
    "Self-audit",
    lambda settings: settings.self_audit_schedule if settings.self_audit_enabled else "",
    RunSelfAudit,
)


class Auditor(Actor):
    """One audit at a time."""

    handler_timeout_s = None  # a long audit trail takes its time to be read

    def __init__(self, live: LiveSettings) -> None:
        super().__init__()
        self._live = live

    async def run_security_audit(self, message: RunSecurityAudit) -> SecurityReport:
        found = await self._look_at_all()
        broken = [check for check, seen in found if not seen.passed and check.repair is not None]
        fixed: list[str] = []
        if message.fix and broken:
            for check in broken:
                await self._mend(check)
            found = await self._look_at_all()
            passed = {check.name for check, seen in found if seen.passed}
            fixed = [check.name for check in broken if check.name in passed]
        results = [
            SecurityResult(check.name, seen.passed, seen.message, not seen.passed and check.repair is not None)
            for check, seen in found
        ]
        good = sum(result.passed for result in results)
        return SecurityReport(len(results), good, len(results) - good, results, fixed)

    async def run_self_audit(self, message: RunSelfAudit) -> SelfAuditReport:
        checks = [
            AuditCheck(check.name, seen.passed, seen.message, check.severity)
            for check, seen in await self._look_at_all()
        ]
        checks += await self._health_checks()
        checks.append(await self._schedule_check())
        now, zone = utc_now(), local_zone(self._live.current.time_zone)
        good = sum(check.passed for check in checks)
        report = SelfAuditReport(
            date=datetime.now(zone).date().isoformat(),
            timestamp=now,
            total=len(checks),
            passed=good,
            issues=len(checks) - good,
            checks=checks,
        )
        await self.ask(KeepSelfAudit(report=report))
        return report

    async def _look_at_all(self) -> list[tuple[SecurityCheck, Seen]]:
        return [(check, await self._look(check)) for check in CHECKS]

    async def _look(self, check: SecurityCheck) -> Seen:
        """What a check has seen; that it fails, or takes too long, is something to see, too."""
        try:
            with trio.move_on_after(CHECK_S):
                return await check.look(self._premises)
            return wrong(f"this could not be looked at within {CHECK_S:g} s")
        except (PocketPawError, OSError) as error:
            return wrong(f"this could not be looked at: {error}")
        except Exception as error:  # noqa: BLE001 a bug in one check must not hide what the others see
            await self._report(check, error)
            return wrong(f"this could not be looked at, by a fault of the check itself: {describe(error)}")

    async def _mend(self, check: SecurityCheck) -> None:
        """Mend what a check has found; whether that worked is what the second look says."""
        assert check.repair is not None
        try:
            await check.repair(self._premises)
        except (PocketPawError, OSError) as error:
            await self._report(check, error)

    async def _report(self, check: SecurityCheck, error: Exception) -> None:
        text, stack = f"{check.name}: {describe(error)}", "".join(traceback.format_exception(error))
        await self.tell(RecordProblem(source=self.path, message=text, traceback=stack))

    async def _health_checks(self) -> list[AuditCheck]:
        view = await self.ask(RunChecks(), timeout_s=HEALTH_S)
        results: list[AuditCheck] = []
        for check in HEALTH_CHECKS.values():
            issues = [issue for issue in view.issues if issue.check_id.partition(":")[0] == check.id]
            is_critical = any(issue.status == "critical" for issue in issues)
            text = "; ".join(issue.message for issue in issues) or "nothing wrong was found"
            results.append(AuditCheck(check.name, not issues, text, "critical" if is_critical else "warning"))
        return results

    async def _schedule_check(self) -> AuditCheck:
        since = utc_now() - RUNS_SINCE
        runs = [run for run in await self.ask(ListRuns(limit=RUNS_LOOKED_AT)) if run.slot >= since]
        bad = [run for run in runs if run.state in ("failed", "interrupted")]
        text = f"{len(bad)} of {len(runs)} runs of scheduled jobs within a day did not come to a good end"
        return AuditCheck("Scheduled jobs", not bad, text, "warning")

    @property
    def _premises(self) -> Premises:
        return Premises(self._live, self.ask)

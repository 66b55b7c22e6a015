"""The health engine: keeps errors and supervision events, runs the checks, says how the daemon is.

Invariant: only what is asked about the store waits for the store, so that health is told while that is stuck.
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from datetime import datetime
from typing import Annotated, Literal

import msgspec
import structlog
import trio

from ..config.logs import Redactor
from ..runtime import Actor, Done, Message, Report
from ..runtime.exits import describe
from ..storage.error_log import ErrorRecord, Severity
from ..storage.tables import JsonObject, utc_now
from . import checks
from .checks import Check, Finding, Hitch, IssueStatus, Surroundings
from .journal import Journal
from .service_checks import CHECKS
from .settings import LiveSettings

log = structlog.get_logger()

EVENTS = "events"
"""The topic of what happens in the daemon as a whole."""

RECHECK_S = 30.0
"""A check that found something looks again at least this often."""

SAVE_AFTER_S = 0.5
"""What came meanwhile is saved together."""

SAVE_AGAIN_S = 5.0

PAUSE_S = 0.2
"""Between two runs of one check, however often something hastens it."""

HITCHES_KEPT = 50

HealthStatus = Literal["healthy", "degraded", "unhealthy"]


class SystemEvent(msgspec.Struct, frozen=True):
    """An event on `EVENTS`, whose name is `event_type`; `content` is for people, `metadata` for programs."""

    event_type: str
    content: str
    metadata: object


class Issue(msgspec.Struct, frozen=True):
    """Something wrong: `check_id` names it, `timestamp` is when it was first seen, `fix_hint` what to do about it."""

    check_id: str
    name: str
    category: str
    status: IssueStatus
    message: str
    fix_hint: str
    timestamp: datetime


class HealthView(msgspec.Struct, frozen=True):
    status: HealthStatus
    check_count: int
    issues: list[Issue]
    last_check: datetime | None


class GetHealth(Message[HealthView], to="health"):
    """How the daemon is, as of the latest checks."""


class RunChecks(Message[HealthView], to="health"):
    """Run every check now and say how the daemon is."""


class GetErrors(Message[list[ErrorRecord]], to="health"):
    """List errors, newest first; `search` is looked for in source and message, whatever its case."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 20
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    search: str = ""


class ClearErrors(Message[Done], to="health"):
    """Forget all errors."""


class Service(msgspec.Struct, frozen=True):
    """One check's latest outcome; `latency_ms` is how long it took."""

    status: HealthStatus
    latency_ms: float


class Services(msgspec.Struct, frozen=True):
    status: HealthStatus
    services: dict[str, Service]


class GetServices(Message[Services], to="health"):
    """How each part of the daemon is."""


class Readiness(msgspec.Struct, frozen=True):
    ready: bool
    reason: str


class GetReadiness(Message[Readiness], to="health"):
    """Whether the daemon can do its work now; if not, why."""


class Reported(Message[Done], to="health"):
    """What the runtime reports, and when it did."""

    report: Report
    at: datetime


class RecordProblem(Message[Done], to="health"):
    """Keep an error; `source` is the path of the actor, or the part of the daemon, that it comes from."""

    source: str
    message: str
    severity: Severity = "error"
    traceback: str | None = None
    context: JsonObject = msgspec.field(default_factory=JsonObject)
    at: datetime = msgspec.field(default_factory=utc_now)


def severity(report: Report) -> Severity | None:
    """How bad it is; None if it is no error."""
    match report.kind:
        case "escalated":
            return "critical"
        case "parked" | "failure":
            return "error"
        case "slow" | "lag":
            return "warning"
        case "exited" if report.exit_kind == "crashed":
            return "error"
        case "exited" if report.exit_kind == "killed":
            return "warning"
        case _:
            return None


class _Result:
    """What a check has found, and when it is due again (trio's clock)."""

    def __init__(self, check: Check, due: float) -> None:
        self.check = check
        self.due = due
        self.hastened = trio.Event()
        self.service: Service | None = None
        self.issues: list[Issue] = []

    def hasten(self) -> None:
        self.due = float("-inf")
        self.hastened.set()


class Health(Actor):
    """Answers from memory; checks run, and the journal is saved, in tasks of their own."""

    concurrency = 64
    has_tasks = True
    mailbox_capacity = 10_000

    def __init__(self, live: LiveSettings) -> None:
        super().__init__()
        self._live = live
        self._redactor = Redactor(lambda: live.secrets)
        self._journal = Journal(self.ask)
        self._hitches: deque[Hitch] = deque(maxlen=HITCHES_KEPT)
        self._results = {id_: _Result(check, float("inf")) for id_, check in CHECKS.items()}
        self._view = HealthView("healthy", len(CHECKS), [], None)

    async def on_start(self) -> None:
        now = self.system.now()
        is_at_once = self._live.current.health_check_on_startup
        for result in self._results.values():
            check = result.check
            result.due = now if is_at_once or check is checks.storage else now + check.every_s
            self.spawn(self._keep_looking, result)
        self.spawn(self._keep_saving)

    async def on_stop(self) -> None:
        with trio.move_on_after(1.0):
            await self._journal.save()

    async def get_health(self, message: GetHealth) -> HealthView:
        return self._view

    async def run_checks(self, message: RunChecks) -> HealthView:
        async with trio.open_nursery() as nursery:
            for result in self._results.values():
                nursery.start_soon(self._look, result)
        self._announce()
        return self._view

    async def get_services(self, message: GetServices) -> Services:
        results = self._results.items()
        return Services(self._view.status, {id_: result.service for id_, result in results if result.service})

    async def get_readiness(self, message: GetReadiness) -> Readiness:
        storage = self._results[checks.storage.id]
        if storage.service is None:
            return Readiness(ready=False, reason="the storage has not been checked yet")
        if storage.issues:
            return Readiness(ready=False, reason=storage.issues[0].message)
        return Readiness(ready=True, reason="")

    async def get_errors(self, message: GetErrors) -> list[ErrorRecord]:
        return await self._journal.errors(message.limit, message.offset, message.search)

    async def clear_errors(self, message: ClearErrors) -> Done:
        await self._journal.clear_errors()
        return Done()

    async def reported(self, message: Reported) -> Done:
        report = message.report
        self._journal.add_event(message.at, report)
        bad = severity(report)
        if bad is not None:
            context: JsonObject = {"event": report.kind, "incarnation": report.incarnation}
            self._journal.add_error(message.at, report.path, bad, report.text, report.traceback or None, context)
        if report.kind in ("slow", "lag"):
            self._hitches.append(Hitch(message.at, report.path, report.text))
            self._results[checks.event_loop.id].hasten()
        elif bad is not None or report.kind == "backoff" or self._has_issue_with(report.path):
            self._results[checks.actors.id].hasten()
        return Done()

    async def record_problem(self, message: RecordProblem) -> Done:
        text = self._redactor.text(message.message)
        stack = self._redactor.text(message.traceback) if message.traceback else None
        context = {self._redactor.text(key): self._redactor.value(value) for key, value in message.context.items()}
        self._journal.add_error(message.at, message.source, message.severity, text, stack, context)
        method = {"warning": log.warning, "error": log.error, "critical": log.critical}[message.severity]
        method(text, actor=message.source, **({"exception": stack} if stack else {}))
        return Done()

    def _has_issue_with(self, path: str) -> bool:
        return any(issue.check_id == f"{checks.actors.id}:{path}" for issue in self._results[checks.actors.id].issues)

    async def _keep_saving(self) -> None:
        storage = self._results[checks.storage.id]
        while True:
            await self._journal.wait_for_unsaved()
            await trio.sleep(SAVE_AFTER_S)
            is_saved = await self._journal.save()
            if is_saved == bool(storage.issues):  # the store is not as the check of it says
                storage.hasten()
            if not is_saved:
                await trio.sleep(SAVE_AGAIN_S)

    async def _keep_looking(self, result: _Result) -> None:
        while True:
            with trio.move_on_at(result.due):
                await result.hastened.wait()
            result.hastened = trio.Event()
            await self._look(result)
            await trio.sleep(PAUSE_S)

    async def _look(self, result: _Result) -> None:
        """Run one check and take in what it has found."""
        check, started = result.check, time.perf_counter()
        findings = await self._findings(check)
        took_ms = round((time.perf_counter() - started) * 1000, 1)
        known = {issue.check_id: issue.timestamp for issue in result.issues}
        now = utc_now()
        result.issues = [self._issue(check, finding, known, now) for finding in findings]
        result.service = Service(_status(result.issues), took_ms)
        result.due = self.system.now() + (min(check.every_s, RECHECK_S) if findings else check.every_s)
        self._review(now)

    async def _findings(self, check: Check) -> list[Finding]:
        """What a check finds; that it takes too long or fails is a finding, too."""
        around = Surroundings(self._live, self.system, self.ask, tuple(self._hitches))
        try:
            with trio.move_on_after(check.timeout_s):
                return await check.look(around)
        except Exception as error:  # noqa: BLE001 a bug in one check must not bring down the others
            text, stack = f"the check failed: {describe(error)}", "".join(traceback.format_exception(error))
            await self.record_problem(RecordProblem(source=f"health/{check.id}", message=text, traceback=stack))
            return [Finding("warning", text, "This is a fault of the check itself: see health/errors.")]
        text = f"the check did not end within {check.timeout_s:g} s"
        return [Finding("warning", text, "That part of the daemon may be stuck: GET runtime/tree shows where.")]

    def _issue(self, check: Check, finding: Finding, known: dict[str, datetime], now: datetime) -> Issue:
        id_ = f"{check.id}:{finding.subject}" if finding.subject else check.id
        text, hint = self._redactor.text(finding.message), self._redactor.text(finding.fix_hint)
        return Issue(id_, check.name, check.category, finding.status, text, hint, known.get(id_, now))

    def _review(self, now: datetime) -> None:
        """Draw the sum of all checks; tell who listens if something has come, gone, or got better or worse."""
        before = self._view
        issues = [issue for result in self._results.values() for issue in result.issues]
        self._view = HealthView(_status(issues), len(CHECKS), issues, now)
        if before.status != self._view.status:
            method = log.info if self._view.status == "healthy" else log.warning
            method("health", actor=self.path, status=self._view.status, issues=[issue.message for issue in issues])
        if _gist(before) != _gist(self._view):
            self._announce()

    def _announce(self) -> None:
        self.publish(EVENTS, "health_update", SystemEvent("health_update", self._view.status, self._view))


def _status(issues: list[Issue]) -> HealthStatus:
    if not issues:
        return "healthy"
    return "unhealthy" if any(issue.status == "critical" for issue in issues) else "degraded"


def _gist(view: HealthView) -> set[tuple[str, str]]:
    return {(issue.check_id, issue.status) for issue in view.issues}

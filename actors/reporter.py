"""The reporter: what the runtime reports becomes a line in the log, an event for whoever listens, and health's to keep.

It runs inside the runtime, in the middle of whatever has just happened, so it never waits and never raises.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import structlog
import trio

from ..config.logs import Redactor
from ..runtime import ActorSystem, Report
from ..runtime.envelope import current_envelope
from ..runtime.exits import describe
from .health import EVENTS, Reported, SystemEvent, severity

log = structlog.get_logger()

WORDS = {
    "started": "actor started",
    "exited": "actor ended",
    "restarting": "actor restarts",
    "backoff": "actor waits before it restarts",
    "parked": "actor is parked",
    "escalated": "actor failed too often: its supervisor gives up",
    "failure": "message failed",
    "slow": "handler is slow",
    "lag": "the loop stood still",
}


TRACED = ("exited", "slow", "lag")
"""Reports that are logged with their stack; others follow one of these and would only repeat it."""


class Reporter:
    """`report` is an ActorSystem's `on_report`, complete once the reporter is attached to that system."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._system: ActorSystem | None = None
        self.lost = 0
        """Reports that did not get everywhere, as health's mailbox had no room for example."""

    def attach(self, system: ActorSystem) -> None:
        self._system = system

    def report(self, report: Report) -> None:
        at = datetime.now(UTC)
        try:
            redact = self._redactor.text
            report = msgspec.structs.replace(report, text=redact(report.text), traceback=redact(report.traceback))
            missed = [failure for sink in (self._publish, self._tell) if (failure := _failure(sink, report, at))]
            self._log(report, missed)
        except Exception:  # noqa: BLE001 the log itself is broken: nothing is left to say it to but this count
            self.lost += 1

    def context(self) -> dict[str, str]:
        """Say to which actor, session and request a line belongs that is logged here and now."""
        envelope = current_envelope.get()
        request = {"request_id": envelope.trace_id} if envelope is not None and envelope.trace_id else {}
        return {**_place(self._present_path()), **request}

    def _log(self, report: Report, missed: list[str]) -> None:
        line: dict[str, object] = {**_place(report.path), "incarnation": report.incarnation}
        if report.text:
            line["reason"] = report.text
        if report.traceback and report.kind in TRACED:
            line["exception"] = report.traceback
        if missed:
            self.lost += 1
            line["not_passed_on"] = missed
        getattr(log, _level(report))(WORDS[report.kind], **line)

    def _publish(self, report: Report, _at: datetime) -> None:
        if self._system is None:
            return
        name = f"actor_{report.kind}"
        metadata = {**_place(report.path), "incarnation": report.incarnation, "exit_kind": report.exit_kind}
        self._system.bus.publish(EVENTS, name, SystemEvent(name, report.text or WORDS[report.kind], metadata))

    def _tell(self, report: Report, at: datetime) -> None:
        if self._system is not None:
            self._system.try_tell(Reported(report=report, at=at))

    def _present_path(self) -> str:
        """The path of the actor whose task, or a task of whose, is running; empty elsewhere."""
        if self._system is None or not trio.lowlevel.in_trio_task():
            return ""
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        while task is not None:
            if task.name in self._system.nodes:
                return task.name
            task = task.parent_nursery.parent_task if task.parent_nursery is not None else None
        return ""


def _place(path: str) -> dict[str, str]:
    supervisor, _, name = path.rpartition("/")
    session = {"session": name} if supervisor == "agents" else {}
    return {"actor": path, **session} if path else {}


def _level(report: Report) -> str:
    if report.kind == "backoff":
        return "warning"
    is_routine = report.kind == "exited" or (report.kind == "started" and report.incarnation == 1)
    return severity(report) or ("debug" if is_routine else "info")


def _failure(sink: Callable[[Report, datetime], None], report: Report, at: datetime) -> str | None:
    """Hand over a report; whatever goes wrong must not spread into the runtime's own work, and is for the log."""
    try:
        sink(report, at)
    except Exception as error:  # noqa: BLE001
        return f"{sink.__name__.strip('_')}: {describe(error)}"
    return None

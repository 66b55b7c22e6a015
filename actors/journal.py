"""What health keeps: errors and supervision events, in memory until the store has them.

Invariant: adding never waits and never fails. The newest of what the store does not take is kept and saved later.
"""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime
from typing import Protocol, TypeVar

import msgspec
import structlog
import trio

from ..runtime import Message, Report
from ..runtime.errors import PocketPawError
from ..storage.error_log import ClearErrors, ErrorRecord, ListErrors, RecordError, Severity
from ..storage.supervision_log import RecordSupervisionEvents, SupervisionEvent
from ..storage.tables import JsonObject, utc_now

R = TypeVar("R")

log = structlog.get_logger()

KEPT = 1000
"""Errors, and likewise events, that are kept while the store cannot take them; older ones go."""

TIMEOUT_S = 3.0

PAST_TENSE = {
    "started": "started",
    "exited": "exited",
    "restarting": "restarted",
    "backoff": "held back",
    "parked": "parked",
    "escalated": "escalated",
}
"""Supervision events, as they are kept, by kind of report; other reports are no events of a supervisor."""


class Ask(Protocol):
    def __call__(self, message: Message[R], /, *, timeout_s: float) -> Awaitable[R]: ...


class Journal:
    """Errors and supervision events. The same error again, before the first is saved, only counts up its `times`."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._events: list[SupervisionEvent] = []
        self._errors: dict[tuple[str, str, str], ErrorRecord] = {}  # by source, severity and message; oldest first
        self._added = 0
        self._has_unsaved = trio.Event()
        self._saving = trio.Lock()

    def add_event(self, at: datetime, report: Report) -> None:
        event = PAST_TENSE.get(report.kind)
        if event is None:
            return
        self._events.append(SupervisionEvent(at, report.path, event, report.incarnation, report.text or None))
        del self._events[:-KEPT]
        self._has_unsaved.set()

    def add_error(
        self, at: datetime, source: str, severity: Severity, message: str, traceback: str | None, context: JsonObject
    ) -> None:
        key = (source, severity, message)
        again = self._errors.get(key)
        if again is not None:
            times = again.context.get("times", 1)
            assert isinstance(times, int)
            self._errors[key] = msgspec.structs.replace(again, context={**again.context, "times": times + 1})
            return
        self._added += 1
        self._put(ErrorRecord(f"unsaved-{self._added}", at, source, severity, message, traceback, context))
        if len(self._errors) > KEPT:
            del self._errors[next(iter(self._errors))]

    async def wait_for_unsaved(self) -> None:
        await self._has_unsaved.wait()

    async def save(self) -> bool:
        """Give the store what it does not have yet; whether it has taken it."""
        async with self._saving:
            try:
                await self._save_events()
                for error in self._by_age():
                    await self._save_error(error)
            except PocketPawError as problem:
                log.warning("errors and events are kept in memory", actor="health", reason=problem.detail)
                return False
            if not self._errors and not self._events:
                self._has_unsaved = trio.Event()
            return True

    async def errors(self, limit: int, offset: int, search: str) -> list[ErrorRecord]:
        """List errors, newest first: those that the store does not have, then its own. Not to be read is one, too."""
        await self.save()
        unsaved = self._unsaved(search)
        stored: list[ErrorRecord] = []
        query = ListErrors(limit=limit, offset=max(0, offset - len(unsaved)), search=search)
        try:
            stored = await self._ask(query, timeout_s=TIMEOUT_S)
        except PocketPawError as problem:
            text = f"earlier errors cannot be read: {problem.detail}"
            self.add_error(utc_now(), "store/reader", "critical", text, None, {})
            unsaved = self._unsaved("")
        return [*unsaved[offset : offset + limit], *stored][:limit]

    async def clear_errors(self) -> None:
        async with self._saving:
            self._errors.clear()
            await self._ask(ClearErrors(), timeout_s=TIMEOUT_S)

    def _put(self, error: ErrorRecord) -> None:
        self._errors[error.source, error.severity, error.message] = error
        self._has_unsaved.set()

    def _unsaved(self, search: str) -> list[ErrorRecord]:
        wanted = search.casefold()
        newest_first = reversed(self._by_age())
        return [error for error in newest_first if wanted in f"{error.source}\n{error.message}".casefold()]

    async def _save_events(self) -> None:
        events, self._events = self._events, []
        is_saved = not events
        try:
            if events:
                in_order = sorted(events, key=lambda event: event.timestamp)
                await self._ask(RecordSupervisionEvents(events=in_order), timeout_s=TIMEOUT_S)
                is_saved = True
        finally:
            if not is_saved:
                self._events = [*events, *self._events][-KEPT:]

    async def _save_error(self, error: ErrorRecord) -> None:
        command = RecordError(
            source=error.source,
            severity=error.severity,
            message=error.message,
            traceback=error.traceback,
            context=error.context,
            timestamp=error.timestamp,
        )
        await self._ask(command, timeout_s=TIMEOUT_S)
        key = (error.source, error.severity, error.message)
        if self._errors.get(key) is error:  # otherwise it has come again meanwhile, and that is to be saved too
            del self._errors[key]

    def _by_age(self) -> list[ErrorRecord]:
        return sorted(self._errors.values(), key=lambda error: error.timestamp)

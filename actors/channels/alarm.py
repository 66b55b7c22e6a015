"""Tells the operator, in the chats that notices go to, what has been wrong for some minutes, once, and that it is over.

What was told is known for the keeper's life only: after a restart of the daemon, what is still wrong is told again.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

import structlog
import trio

from ...runtime import Actor, Subscription
from ...runtime.errors import PocketPawError
from ...storage.outbox import AddOutgoing, Line
from ...storage.tables import utc_now
from ..health import EVENTS, GetHealth, Issue, SystemEvent
from ..settings import LiveSettings
from .platforms import notice_chats
from .protocol import ADAPTERS, NOTIFICATION

log = structlog.get_logger()

TOLD_AFTER_S = 300.0
OVER_AFTER_S = 120.0
"""What is in trouble seems well for a moment each time that it is tried again."""

AGAIN_S = 30.0
TOLD_CHARS = 1_500
"""One message on every platform."""


@dataclass
class _Trouble:
    """Times are trio's. `well_since` is set while its check finds nothing."""

    text: str
    since: float
    well_since: float | None = None
    is_told: bool = False

    @property
    def due_at(self) -> float:
        """When it is to be told, or counts as over, if it stays as it is."""
        if self.well_since is not None:
            return self.well_since + OVER_AFTER_S
        return math.inf if self.is_told else self.since + TOLD_AFTER_S


def is_grave(issue: Issue) -> bool:
    """Whether it is critical, or a channel that is down, so that people write and nobody answers."""
    return issue.status == "critical" or issue.check_id.startswith(f"actors:{ADAPTERS}/")


class Alarm:
    """Works for an actor, in a task of its own."""

    def __init__(self, owner: Actor, live: LiveSettings) -> None:
        self._owner = owner
        self._live = live
        self._key = secrets.token_hex(8)  # of what is told next, so that what is told again is told once
        self._troubles: dict[str, _Trouble] = {}

    async def run(self) -> None:
        while True:
            with self._owner.system.bus.subscribe(EVENTS) as subscription:
                while True:
                    wake_at = await self._look()
                    if not await _health_changed(subscription, wake_at):
                        break  # it was cut off, and may have missed something

    async def _look(self) -> float:
        """See how the daemon is, and tell what there is to tell; returns when to look again at the latest."""
        try:
            self._take_in((await self._owner.ask(GetHealth())).issues)
            await self._tell(trio.current_time())
        except PocketPawError as error:
            log.warning("the operator could not be told of trouble", actor=self._owner.path, reason=error.detail)
            return trio.current_time() + AGAIN_S
        return min((trouble.due_at for trouble in self._troubles.values()), default=math.inf)

    def _take_in(self, issues: Iterable[Issue]) -> None:
        now = trio.current_time()
        grave = {issue.check_id: issue.message for issue in issues if is_grave(issue)}
        for id_, text in grave.items():
            trouble = self._troubles.setdefault(id_, _Trouble(text, now))
            trouble.text, trouble.well_since = text, None
        for id_ in self._troubles.keys() - grave.keys():
            trouble = self._troubles[id_]
            trouble.well_since = now if trouble.well_since is None else trouble.well_since

    async def _tell(self, now: float) -> None:
        due = {id_: trouble for id_, trouble in self._troubles.items() if trouble.due_at <= now}
        over = {id_: trouble for id_, trouble in due.items() if trouble.well_since is not None}
        new = [trouble for id_, trouble in due.items() if id_ not in over]
        texts = [f"Trouble: {trouble.text}" for trouble in new]
        texts += [f"Over: {trouble.text}" for trouble in over.values() if trouble.is_told]
        if texts:
            await self._say("\n".join(texts))
        for trouble in new:
            trouble.is_told = True
        for id_ in over:
            del self._troubles[id_]

    async def _say(self, text: str) -> None:
        chats = notice_chats(self._live.current)
        for channel, chat in chats:
            line = Line(f"alarm:{self._key}:{channel}:{chat}", channel, chat, "", text[:TOLD_CHARS])
            await self._owner.ask(AddOutgoing(line=line, now=utc_now()))
        self._key = secrets.token_hex(8)
        if chats:
            self._owner.publish(EVENTS, NOTIFICATION, SystemEvent(NOTIFICATION, text, {"kind": "health"}))


async def _health_changed(subscription: Subscription, wake_at: float) -> bool:
    """Wait until health says so, or it is time; False if the subscription was cut off."""
    while trio.current_time() < wake_at:
        with trio.move_on_at(wake_at):
            events = await subscription.take()
            if not events:
                return False
            if any(event.name == "health_update" for event in events):
                break
    return True

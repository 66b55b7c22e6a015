"""An actor's place in the tree: its address, its mailbox and its record, which outlive every incarnation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from .actor import STOP, Stop, Terminated
from .child import AnyActor, Child
from .envelope import Envelope
from .errors import PocketPawError, Unavailable
from .exits import Exit
from .mailbox import Mailbox
from .node import Incarnation, Kind, Node, Owner
from .reply import died

if TYPE_CHECKING:
    from .system import ActorSystem

LATENCY_BUCKETS = 32
"""Powers of two of a microsecond: the last one holds whatever takes longer than half an hour."""


class Cell(Node):
    """Where messages for one address wait for whoever lives there now."""

    def __init__(self, path: str, spec: Child, owner: Owner, system: ActorSystem) -> None:
        super().__init__(path, owner, system)
        self.spec = spec
        factory: Callable[..., AnyActor] = spec.factory
        self.kind: Kind = getattr(factory, "kind", "trio")
        self.handler_timeout_s: float | None = getattr(factory, "handler_timeout_s", None)
        self.mailbox: Mailbox[Envelope, Stop | Terminated] = Mailbox(
            path, getattr(factory, "mailbox_capacity", 1000), getattr(factory, "overflow", "wait")
        )
        self.mailbox.on_drop = self._dropped
        self.watchers: list[Cell] = []
        self.in_hand: dict[Envelope, float] = {}
        """What is being handled, and since when (time.perf_counter)."""
        self.processed: Counter[str] = Counter()
        self.latency = [0] * LATENCY_BUCKETS
        self.last_active = system.now()
        self.threads: list[int] = []
        """Identifiers of the OS threads of the present incarnation, for the watchdog."""
        self.actor: AnyActor | None = None

    # Messages in ------------------------------------------------------------------------------------------------------

    def admit(self, envelope: Envelope) -> bool:
        """Queue `envelope`; False if the sender has to wait for room.

        Raises:
            Unavailable: the actor is parked, so that nobody would come for the message soon.
            MailboxFull: the overflow policy is `reject` and there is no room.
        """
        if self._state == "parked":
            raise Unavailable(f"{self.path} is down: {self.last_error}", actor=self.path)
        mailbox = self.mailbox
        if mailbox.overflow == "wait" and len(mailbox.messages) >= mailbox.capacity:
            return False
        mailbox.try_put(envelope)
        if self._state == "idle":
            self.owner.activate(self)
        return True

    async def admit_later(self, envelope: Envelope) -> None:
        """Wait for room, until the envelope's deadline; an ask that is not queued by then fails by its deadline."""
        with trio.CancelScope(deadline=envelope.deadline):
            await self.mailbox.put(envelope)
        if self._state == "idle":
            self.owner.activate(self)

    def refuse_all(self, why: str) -> None:
        """Answer everything that waits: nobody will come for it."""
        for envelope in self.mailbox.drain():
            if envelope.reply is not None:
                envelope.reply.fail(died(self.path, why))
            self.dead_letter(envelope, "dead")

    def fail(self, envelope: Envelope, error: PocketPawError) -> None:
        """Give an expected failure to whoever asked; with nobody asking, to the health engine."""
        if envelope.reply is not None:
            envelope.reply.fail(PocketPawError.from_wire(error.code, error.detail, error.data))
        else:
            self.system.report("failure", self, text=f"{envelope.message_type.__name__}: {error.detail}")

    def dead_letter(self, envelope: Envelope, reason: str) -> None:
        self.system.dead_letters.add(self.path, envelope.message_type.__name__, reason)

    def _dropped(self, envelope: Envelope) -> None:
        if envelope.reply is not None:
            envelope.reply.fail(died(self.path, "had no room and dropped the message"))
        self.dead_letter(envelope, "overflow")

    # The record -------------------------------------------------------------------------------------------------------

    def begin(self, envelope: Envelope) -> float:
        started = self.in_hand[envelope] = time.perf_counter()
        return started

    def finish(self, envelope: Envelope, name: str, started: float) -> None:
        now = time.perf_counter()
        self.in_hand.pop(envelope, None)
        self.processed[name] += 1
        self.latency[min(int((now - started) * 1e6).bit_length(), LATENCY_BUCKETS - 1)] += 1
        self.last_active = self.system.now()

    @property
    def is_busy(self) -> bool:
        return bool(self.in_hand) or bool(self.mailbox.messages)

    def may_passivate(self, now: float) -> bool:
        after_s = self.spec.passivate_after_s
        return (
            after_s is not None
            and self._state == "running"
            and not self.is_busy
            and now - self.last_active >= after_s
            and self.actor is not None
            and self.actor.is_idle()
        )

    # Lives ------------------------------------------------------------------------------------------------------------

    def ready(self, life: Incarnation) -> None:
        """Called by the actor when its `on_start` is done."""
        self.last_active = self.system.now()
        if self.actor is not None and not self.actor.proves_health:
            life.healthy_since = self.last_active
        self._ready(life)

    async def _run(self, life: Incarnation) -> None:
        self.mailbox.clear_control()
        self.actor = actor = self.spec.make()
        await actor.run_in(self, life)

    def _request_stop(self, life: Incarnation) -> None:
        self.mailbox.put_control(STOP)

    def _clean_up(self, life: Incarnation, exit_: Exit) -> None:
        self.actor = None
        self.threads = []
        for envelope in self.in_hand:
            if envelope.reply is not None:
                envelope.reply.fail(died(self.path, "was stopped"))
        self.in_hand.clear()
        watchers, self.watchers = self.watchers, []
        for watcher in watchers:
            watcher.mailbox.put_control(Terminated(self.path, life.number, str(exit_)))

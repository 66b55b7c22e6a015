"""An actor's place in the tree: its address, its mailbox and its record, which outlive every incarnation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .actor import STOP, Stop, Terminated
from .child import AnyActor, Child
from .dead_letters import Reason
from .envelope import Envelope, current_envelope
from .errors import NoSuchActor, PocketPawError, Unavailable
from .exits import Exit, describe, is_cancellation, leaf
from .mailboxes import Mailbox
from .node import Incarnation, Kind, Node, Owner
from .reply import died

if TYPE_CHECKING:
    from .system import ActorSystem


class Cell(Node):
    """Where messages for one address wait for whoever lives there now."""

    def __init__(self, path: str, spec: Child, owner: Owner, system: ActorSystem) -> None:
        super().__init__(path, owner, system)
        self.spec = spec
        self.mailbox: Mailbox[Envelope, Stop | Terminated] = Mailbox(path)
        self.mailbox.on_drop = self._dropped
        self._take_policies(spec.factory)
        self.watchers: dict[Cell, int] = {}
        """Who wants to hear of this incarnation's end, and which incarnation of theirs asked."""
        self.in_hand: dict[Envelope, float] = {}
        """What is being handled, oldest first, and since when (trio's clock)."""
        self.processed: dict[str, int] = {}
        """Handled messages, by type."""
        self.latency: list[int] = []
        """Handled messages by how long they took: the n-th took less than 2**n microseconds."""
        self.last_active = system.now()
        self.threads: list[int] = []
        """Identifiers of the OS threads of the present incarnation, for the watchdog."""
        self.actor: AnyActor | None = None

    def _take_policies(self, source: object) -> None:
        """Take what the actor's class says of its cell; if the factory is a function, its first actor says it."""
        self.kind: Kind = getattr(source, "kind", "trio")
        self.handler_timeout_s: float | None = getattr(source, "handler_timeout_s", None)
        self.mailbox.capacity = getattr(source, "mailbox_capacity", self.mailbox.capacity)
        self.mailbox.overflow = getattr(source, "overflow", self.mailbox.overflow)

    # Messages in ------------------------------------------------------------------------------------------------------

    def admit(self, envelope: Envelope) -> bool:
        """Queue `envelope`; False if the sender has to wait for room.

        Raises:
            Unavailable: nobody would come for the message soon, as the actor is parked or was stopped for good.
            MailboxFull: the overflow policy is `reject` and there is no room.
        """
        if self._state == "running":
            return self.mailbox.offer(envelope)
        if self.down is not None:
            raise Unavailable(f"{self.path} {self.down}", actor=self.path)
        is_queued = self.mailbox.offer(envelope)
        if self._state == "idle":
            self.owner.activate(self)
        return is_queued

    def lay_down(self, why: str) -> None:
        """Answer everything that waits and refuse what comes: nobody will come for it."""
        super().lay_down(why)
        for envelope in self.mailbox.drain():
            if envelope.reply is not None:
                envelope.reply.fail(died(self.path, why))
            self.dead_letter(envelope, "dead")

    def _dropped(self, envelope: Envelope) -> None:
        if envelope.reply is not None:
            envelope.reply.fail(died(self.path, "had no room and dropped the message"))
        self.dead_letter(envelope, "overflow")

    def dead_letter(self, envelope: Envelope, reason: Reason) -> None:
        self.system.dead_letters.add(self.path, envelope.message_type.__name__, reason)

    # Messages in hand -------------------------------------------------------------------------------------------------

    def begin(self, envelope: Envelope) -> float:
        """Take `envelope` in hand; returns the time."""
        started = self.in_hand[envelope] = self.system.now()
        return started

    def touch(self, envelope: Envelope, at: float) -> None:
        """Count the time of what is in hand from `at` on."""
        if envelope in self.in_hand:
            self.in_hand[envelope] = at

    def finish(self, envelope: Envelope, name: str, started: float) -> None:
        """Count `envelope` as handled; it is called `name` and was taken in hand at `started`."""
        if self.in_hand.pop(envelope, None) is None:
            self.dead_letter(envelope, "stale incarnation")
            return
        self.last_active = now = self.system.now()
        self.processed[name] = self.processed.get(name, 0) + 1
        power = int((now - started) * 1e6).bit_length()
        while power >= len(self.latency):
            self.latency.append(0)
        self.latency[power] += 1

    def refuse(self, envelope: Envelope) -> None:
        """Nobody here takes messages of that type."""
        self.dead_letter(envelope, "unhandled")
        if envelope.reply is not None:
            name = envelope.message_type.__name__
            envelope.reply.fail(NoSuchActor(f"{self.path} takes no {name}", actor=self.path))

    def fail(self, envelope: Envelope, error: PocketPawError) -> None:
        """Give an expected failure to whoever asked; with nobody asking, to the health engine."""
        if envelope.reply is not None:
            envelope.reply.fail(PocketPawError.from_wire(*error.to_wire()))
        else:
            self.system.report("failure", self, text=f"{envelope.message_type.__name__}: {error.detail}")

    def lose(self, envelope: Envelope, why: str) -> None:
        """The actor ends with `envelope` in hand: tell its asker. It is never handled again."""
        self.in_hand.pop(envelope, None)
        if envelope.reply is not None:
            envelope.reply.fail(died(self.path, why))
        else:
            self.dead_letter(envelope, "died")

    def is_survived(self, envelope: Envelope, error: BaseException) -> bool:
        """Answer with what a handler raised; whether it was an expected failure, so that the actor lives on.

        What was cancelled stays in hand: `_clean_up` answers it, as it knows why the life has ended.
        """
        cause = leaf(error) if isinstance(error, Exception) else error  # a nursery in the handler wraps it in a group
        if isinstance(cause, PocketPawError):
            self.fail(envelope, cause)
            return True
        if not is_cancellation(error):
            self.lose(envelope, f"crashed ({describe(cause)})")
        return False

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
        current_envelope.set(None)  # a task inherits that of whoever started it: here, of the first message's sender
        self.mailbox.clear_control()
        self.actor = actor = self.spec.make()
        if not isinstance(self.spec.factory, type):
            self._take_policies(actor)
        await actor.run_in(self, life)

    def _request_stop(self, life: Incarnation) -> None:
        self.mailbox.put_control(STOP)

    def _clean_up(self, life: Incarnation, exit_: Exit) -> None:
        self.actor = None
        self.threads = []
        for envelope in list(self.in_hand):
            self.lose(envelope, f"crashed ({exit_})" if exit_.kind == "crashed" else "was stopped")
        watchers, self.watchers = self.watchers, {}
        for watcher, number in watchers.items():
            if watcher.is_alive and watcher.number == number:
                watcher.mailbox.put_control(Terminated(self.path, life.number, str(exit_)))

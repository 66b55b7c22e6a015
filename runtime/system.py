"""The actor system: who lives at which address, and how messages get there."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar

import msgspec
import trio

from .actor import Terminated
from .bus import Bus
from .cell import Cell
from .dead_letters import DeadLetters
from .deadlines import Deadlines
from .envelope import SYSTEM, Envelope, Principal, current_envelope
from .errors import NoSuchActor
from .exits import Exit
from .handlers import reply_decoder
from .message import Message, StreamMessage, address_of, encode
from .node import Incarnation, Node, Owner
from .reply import Reply, ReplyStream, StreamReply, timed_out
from .spec import DynamicSupervisor, Supervisor
from .supervisor import SupervisorNode
from .watchdog import Watchdog

R = TypeVar("R")

ReportKind = Literal["started", "exited", "restarting", "backoff", "parked", "escalated", "failure", "slow", "lag"]

NEVER = float("inf")


class Report(msgspec.Struct, frozen=True):
    """Something that an operator may want to know of: what the health engine stores and shows."""

    kind: ReportKind
    path: str
    incarnation: int
    text: str
    traceback: str = ""
    exit_kind: str = ""


class RootGaveUp(Exception):
    """The root supervisor has ended by itself: the daemon has to be started anew."""


class ActorSystem(Owner):
    """One tree of actors in one trio loop.

    All methods are for the loop's thread. `on_report` is called synchronously with every `Report`; it must not raise.
    """

    def __init__(self, tree: Supervisor, on_report: Callable[[Report], None] = lambda _: None) -> None:
        self.on_report = on_report
        self.bus = Bus()
        self.dead_letters = DeadLetters()
        self.abandoned = 0
        """Incarnations and threads that ignored every request to end, and still run somewhere."""
        self.abandoned_threads: Counter[str] = Counter()
        """Those of them that are threads, by the path of their actor."""
        self.nodes: dict[str, Node] = {}
        self.now: Callable[[], float] = _no_time
        """The time by trio's clock; the tree may be laid out before there is one."""
        self.watchdog = Watchdog(self)
        self._deadlines = Deadlines()
        self.root = SupervisorNode("", tree, self, self)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the tree and live until it is stopped.

        Raises:
            RootGaveUp: the root ended by itself.
        """
        self.now = trio.lowlevel.current_clock().current_time
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deadlines.run, name="deadlines")
            nursery.start_soon(self.watchdog.run, name="watchdog")
            life = self.root.launch(nursery)
            try:
                await life.settled.wait()
                if not life.is_over:
                    task_status.started()
                await life.exited.wait()
            finally:
                self._lay_down()
            nursery.cancel_scope.cancel()
        assert life.exit is not None
        if not life.is_stop_requested:
            raise RootGaveUp(self.root.last_error or str(life.exit))

    async def stop(self, deadline_s: float = 10.0) -> list[str]:
        """Stop the whole tree, last started first, within one overall deadline; returns what had to be left behind."""
        nodes = list(self.nodes.values())
        await self.root.stop(deadline_s)
        left = {node.path for node in nodes if node.life is not None and node.life.is_abandoned}
        return sorted(left | (+self.abandoned_threads).keys())

    # Addresses --------------------------------------------------------------------------------------------------------

    def node(self, path: str) -> Node:
        """The node at `path`; raises `NoSuchActor`."""
        found = self.nodes.get(path)
        if found is None:
            raise NoSuchActor(f"there is no actor at {path!r}", actor=path)
        return found

    def cell(self, path: str | None, message_type: type[Message[Any]]) -> Cell:
        """The cell that takes messages for `path`; makes it if its supervisor makes children on demand."""
        if path is None:
            raise NoSuchActor(f"{message_type.__name__} names no owner: say to=")
        found = self.nodes.get(path)
        if found is None:
            parent = self.nodes.get(path.rpartition("/")[0])
            if isinstance(parent, SupervisorNode) and isinstance(parent.spec, DynamicSupervisor):
                found = parent.on_demand(path.rpartition("/")[2])
        if not isinstance(found, Cell):
            raise NoSuchActor(f"there is no actor at {path!r}", actor=path)
        return found

    def forget(self, node: Node, why: str) -> None:
        """Take `node`, and what is below it, out of the tree; what waits in a mailbox is answered with `why`."""
        below = f"{node.path}/"
        paths = [path for path in self.nodes if path.startswith(below)] if isinstance(node, SupervisorNode) else []
        for path in (*paths, node.path):
            self.nodes.pop(path).lay_down(why)

    # Messages ---------------------------------------------------------------------------------------------------------

    async def ask(
        self,
        message: Message[R],
        *,
        to: str | None = None,
        timeout_s: float = 30.0,
        principal: Principal | None = None,
        trace_id: str | None = None,
        sender: str = "",
        provenance: tuple[str, ...] = (),
    ) -> R:
        """Send `message` to its owner and wait for the answer; `provenance` names outside content that provoked it.

        Raises:
            PocketPawError: the answer is a failure.
            ActorDied: its actor ended with the message in hand. It is not sent again: that is for the asker to decide.
            AskTimeout: no answer within `timeout_s`.
        """
        message_type = type(message)
        cell = self.cell(to or address_of(message), message_type)
        reply = Reply()
        deadline = self.now() + timeout_s
        envelope = _envelope(message, message_type, reply, sender, principal, trace_id, deadline, provenance)
        self._deadlines.add(envelope, timeout_s, cell.path)
        try:
            if not cell.admit(envelope):
                await self._admit_later(cell, envelope)
            payload = await reply.wait()
        finally:
            self._deadlines.remove(envelope, timeout_s)
        return reply_decoder(message_type).decode(payload)

    async def tell(
        self,
        message: Message[Any],
        *,
        to: str | None = None,
        principal: Principal | None = None,
        trace_id: str | None = None,
        sender: str = "",
    ) -> None:
        """Send `message` and go on; waits only for room in the mailbox."""
        message_type = type(message)
        cell = self.cell(to or address_of(message), message_type)
        envelope = _envelope(message, message_type, None, sender, principal, trace_id, NEVER)
        if not cell.admit(envelope):
            await cell.mailbox.put(envelope)

    def try_tell(
        self, message: Message[Any], *, to: str | None = None, trace_id: str | None = None, sender: str = ""
    ) -> None:
        """As `tell`, without waiting; raises `MailboxFull`."""
        message_type = type(message)
        cell = self.cell(to or address_of(message), message_type)
        if not cell.admit(_envelope(message, message_type, None, sender, None, trace_id, NEVER)):
            raise cell.mailbox.full()

    @asynccontextmanager
    async def stream(
        self,
        message: StreamMessage[R],
        *,
        to: str | None = None,
        idle_timeout_s: float = 120.0,
        principal: Principal | None = None,
        trace_id: str | None = None,
        sender: str = "",
    ) -> AsyncGenerator[ReplyStream[R]]:
        """Send `message` and iterate over its answers. No answer for `idle_timeout_s` raises `AskTimeout`."""
        message_type = type(message)
        if not message_type.__stream__:
            raise TypeError(f"{message_type.__name__} has one answer: ask() for it")
        cell = self.cell(to or address_of(message), message_type)
        reply = StreamReply()
        what = f"{message_type.__name__} to {cell.path}"
        envelope = _envelope(message, message_type, reply, sender, principal, trace_id, NEVER)
        try:
            if not cell.admit(envelope):
                envelope.deadline = self.now() + idle_timeout_s
                if not await self._admit_later(cell, envelope):
                    raise timed_out(what, idle_timeout_s)
            yield ReplyStream(reply, reply_decoder(message_type), idle_timeout_s, what)
        finally:
            reply.close()

    async def _admit_later(self, cell: Cell, envelope: Envelope) -> bool:
        """Wait for room until the envelope's deadline; whether it is queued. (An ask fails by its deadline anyway.)"""
        with trio.CancelScope(deadline=envelope.deadline) as scope:
            await cell.mailbox.put(envelope)
        return not scope.cancelled_caught

    def watch(self, path: str, watcher: Cell) -> None:
        """Put one `Terminated` into `watcher`'s mailbox when the present incarnation at `path` ends."""
        node = self.nodes.get(path)
        if isinstance(node, SupervisorNode):
            raise TypeError(f"{path} is a supervisor: watch its children")
        if isinstance(node, Cell) and node.is_alive:
            node.watchers[watcher] = watcher.number
        else:
            watcher.mailbox.put_control(Terminated(path, node.number if node else 0, "not running"))

    # Reports ----------------------------------------------------------------------------------------------------------

    def report(self, kind: ReportKind, node: Node, exit_: Exit | None = None, text: str = "") -> None:
        traceback = exit_.traceback() if exit_ is not None and exit_.kind == "crashed" else ""
        exit_kind = exit_.kind if exit_ is not None else ""
        self.on_report(Report(kind, node.path, node.number, text or str(exit_ or ""), traceback, exit_kind))

    def report_slow(self, kind: ReportKind, path: str, text: str, stack: str) -> None:
        """What the watchdog found. `path` is empty when no actor's code was running."""
        node = self.nodes.get(path)
        self.on_report(Report(kind, path, node.number if node else 0, text, stack))

    # The root's owner -------------------------------------------------------------------------------------------------

    def child_exited(self, child: Node, life: Incarnation) -> None:
        """The root has ended; `run` sees it by the incarnation's event, a moment later."""
        self._lay_down()

    def _lay_down(self) -> None:
        for node in list(self.nodes.values()):
            node.lay_down("was stopped")

    def activate(self, child: Node) -> None:
        raise AssertionError("the root takes no messages")


def _no_time() -> float:
    return 0.0


def _envelope(
    message: Message[Any],
    message_type: type[Message[Any]],
    reply: Reply | StreamReply | None,
    sender: str,
    principal: Principal | None,
    trace_id: str | None,
    deadline: float,
    provenance: tuple[str, ...] = (),
) -> Envelope:
    cause = current_envelope.get()
    if cause is not None:
        principal = principal or cause.principal
        trace_id = trace_id or cause.trace_id
        provenance += cause.provenance
    return Envelope(
        message_type, encode(message), sender, reply, principal or SYSTEM, trace_id or "", deadline, provenance
    )

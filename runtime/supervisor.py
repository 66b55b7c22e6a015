"""Supervisors: they start children, watch them end, and decide what follows. The semantics are Erlang/OTP's.

Source: https://www.erlang.org/doc/apps/stdlib/supervisor.html. What goes beyond it (backoff, parking, failures with a
type, limits kept per child) is said in `child.py`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import trio

from .cell import Cell
from .child import AnyActor, Backoff, Child, OnLimit, Restart, Shutdown
from .errors import Conflict, NeedsOperator, NotFound
from .exits import AutoShutdown, Exit, LimitReached, SupervisorShutdown
from .node import Incarnation, Node, Owner

if TYPE_CHECKING:
    from .system import ActorSystem

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
AutoShutdownRule = Literal["never", "any_significant", "all_significant"]


class Supervisor:
    """A supervisor's place in the tree, as data. Children start in order and stop in reverse.

    Raises:
        ValueError: two children have the same id, or a child is significant where nothing could come of it.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 OTP's name
        children: Sequence[Child | Supervisor] = (),
        *,
        strategy: Strategy = "one_for_one",
        restart: Restart = "permanent",
        auto_shutdown: AutoShutdownRule = "never",
        max_restarts: int = 3,
        max_seconds: float = 5.0,
        significant: bool = False,
        on_limit: OnLimit = "escalate",
        probe_s: float = 300.0,
        shutdown_s: Shutdown = math.inf,
        wait: bool = True,
    ) -> None:
        self.id = id
        self.children = tuple(children)
        self.strategy: Strategy = strategy
        self.restart: Restart = restart
        self.auto_shutdown: AutoShutdownRule = auto_shutdown
        self.max_restarts = max_restarts
        self.max_seconds = max_seconds
        self.significant = significant
        self.on_limit: OnLimit = on_limit
        self.probe_s = probe_s
        self.shutdown_s: Shutdown = shutdown_s
        self.wait = wait
        self.lazy = False
        self.backoff = Backoff()
        self.passivate_after_s: float | None = None
        ids = [child.id for child in self.children]
        if len(set(ids)) < len(ids):
            raise ValueError(f"supervisor {id!r} has two children with the same id: {ids}")
        for child in self.children:
            check_child(self, child)

    def node(self, path: str, owner: Owner, system: ActorSystem) -> SupervisorNode:
        return SupervisorNode(path, self, owner, system)


class DynamicSupervisor(Supervisor):
    """Makes children at run time, one_for_one.

    With `factory`, a message to an address below it makes the child that takes it: `factory(name)`. Other children are
    added with `SupervisorNode.start_child`.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 OTP's name
        factory: Callable[[str], AnyActor] | None = None,
        *,
        max_children: int = 100_000,
        **child_options: Any,
    ) -> None:
        super().__init__(id)
        self.factory = factory
        self.max_children = max_children
        self.child_options: dict[str, Any] = {"restart": "transient", "on_limit": "park", **child_options}

    def child(self, name: str) -> Child:
        """The spec of the child called `name`."""
        assert self.factory is not None
        return Child(self.factory, name, id=name, **self.child_options)


ChildSpec = Child | Supervisor


def check_child(supervisor: Supervisor, child: ChildSpec) -> None:
    if child.significant and supervisor.auto_shutdown == "never":
        raise ValueError(
            f"child {child.id!r} is significant, but supervisor {supervisor.id!r} has auto_shutdown='never'"
        )


class _Record:
    """What a supervisor remembers of one child. Kept per child: one bad leaf does not use up its siblings' restarts."""

    __slots__ = ("awaited", "failures", "is_parked", "node", "restarts_at", "spec", "timer")

    def __init__(self, spec: ChildSpec, node: Node) -> None:
        self.spec = spec
        self.node = node
        self.restarts_at: deque[float] = deque()  # within the last max_seconds
        self.failures = 0  # in a row, without proven health between them
        self.is_parked = False  # until it has proven health again
        self.timer: trio.CancelScope | None = None  # a pending restart or probe
        self.awaited: Incarnation | None = None  # somebody waits for this start, and deals with its failure


class SupervisorNode(Node, Owner):
    """A supervisor at work.

    Its children's nodes stay when it is itself restarted, and with them their mailboxes. All decisions are made one
    after the other, in `_decide`'s task, from a queue of exits and timers; a dynamic supervisor's children are
    independent, so there nothing ever waits for one of them.
    """

    kind = "supervisor"

    def __init__(self, path: str, spec: Supervisor, owner: Owner, system: ActorSystem) -> None:
        super().__init__(path, owner, system)
        self.spec = spec
        self.records: dict[str, _Record] = {}
        self._nursery: trio.Nursery | None = None
        self._busy = trio.CancelScope()
        system.nodes[path] = self
        for child in spec.children:
            self._add(child)

    # What OTP's supervisor offers -------------------------------------------------------------------------------------

    async def start_child(self, spec: ChildSpec) -> Node:
        """Add a child and start it; returns when it is ready.

        Raises:
            Conflict: there is one with that id.
            Exception: what its `on_start` raised; the child is then not kept.
        """
        check_child(self.spec, spec)
        if spec.id in self.records:
            raise Conflict(f"{self.path or 'root'} has a child {spec.id!r} already")
        record = self._add(spec)
        life = self._launch(record)
        await self._started(record, life)
        if life.exit is not None and life.ready_at is None and life.exit.kind != "ignored":
            self._remove(record, "could not start")
            raise life.exit.failure or Conflict(f"{record.node.path} was stopped while it started")
        return record.node

    async def terminate_child(self, id_: str) -> None:
        """Stop a child; its spec is kept unless it is temporary."""
        record = self._record(id_)
        self._disarm(record)
        await record.node.stop(record.spec.shutdown_s)
        record.node.state = "stopped"
        if record.spec.restart == "temporary" or isinstance(self.spec, DynamicSupervisor):
            self._remove(record, "was stopped")

    async def restart_child(self, id_: str) -> Node:
        """Start a child that is not running; an operator's restart of a running one stops it first."""
        record = self._record(id_)
        self._disarm(record)
        await record.node.stop(record.spec.shutdown_s)
        record.failures = 0
        record.is_parked = False
        record.restarts_at.clear()
        life = self._count_and_launch(record)
        await life.settled.wait()
        return record.node

    def delete_child(self, id_: str) -> None:
        """Forget the spec of a child that is not running."""
        record = self._record(id_)
        if record.node.is_alive or record.timer is not None:
            raise Conflict(f"{record.node.path} is {record.node.state}: terminate it first")
        self._remove(record, "was deleted")

    def which_children(self) -> list[Node]:
        return [record.node for record in self.records.values()]

    def count_children(self) -> dict[str, int]:
        nodes = self.which_children()
        supervisors = sum(isinstance(node, SupervisorNode) for node in nodes)
        return {
            "specs": len(nodes),
            "active": sum(node.is_alive for node in nodes),
            "supervisors": supervisors,
            "workers": len(nodes) - supervisors,
        }

    def get_childspec(self, id_: str) -> ChildSpec:
        return self._record(id_).spec

    # Children on demand -----------------------------------------------------------------------------------------------

    def on_demand(self, name: str) -> Node | None:
        """Make the cell of a dynamic child; its first message will start it. None if this supervisor makes none."""
        spec = self.spec
        if not isinstance(spec, DynamicSupervisor) or spec.factory is None or len(self.records) >= spec.max_children:
            return None
        return self._add(spec.child(name)).node

    def activate(self, child: Node) -> None:
        if self._nursery is not None and not child.is_alive:
            self._launch(self.records[child.name])

    # Bookkeeping ------------------------------------------------------------------------------------------------------

    def _add(self, spec: ChildSpec) -> _Record:
        path = f"{self.path}/{spec.id}" if self.path else spec.id
        if isinstance(spec, Supervisor):
            node: Node = spec.node(path, self, self.system)
        else:
            node = Cell(path, spec, self, self.system)
            self.system.nodes[path] = node
        record = self.records[spec.id] = _Record(spec, node)
        return record

    def _remove(self, record: _Record, why: str) -> None:
        del self.records[record.spec.id]
        self.system.forget(record.node, why)

    def _record(self, id_: str) -> _Record:
        if id_ not in self.records:
            raise NotFound(f"{self.path or 'root'} has no child {id_!r}")
        return self.records[id_]

    def _launch(self, record: _Record) -> Incarnation:
        assert self._nursery is not None, f"{self.path} is not running"
        return record.node.launch(self._nursery)

    def _disarm(self, record: _Record) -> None:
        if record.timer is not None:
            record.timer.cancel()
            record.timer = None

    # Its own life -----------------------------------------------------------------------------------------------------

    async def _run(self, life: Incarnation) -> None:
        self._events, events = trio.open_memory_channel[tuple[_Record, Incarnation | None]](math.inf)
        exit_ = Exit("shutdown")
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                with trio.CancelScope() as self._busy:
                    await self._start_all()
                    life.healthy_since = self.system.now()
                    self._ready(life)
                    nursery.start_soon(self._sweep, name=f"{self.path}: passivation")
                    await self._decide(events)
            except SupervisorShutdown as reason:
                exit_ = Exit("shutdown", reason)
            except Exception as reason:  # noqa: BLE001 whatever it is, its children stop first and its owner is told
                exit_ = Exit.of(reason)
            finally:
                self._nursery = None
                with trio.CancelScope(shield=True):
                    await self._stop_all(brutally=life.scope.cancel_called)
            # Its owner is told before the nursery is left: a child that ignores its cancellation would hold it open.
            self._end(life, exit_)
            nursery.cancel_scope.cancel()

    def _request_stop(self, life: Incarnation) -> None:
        self._busy.cancel()

    async def _start_all(self) -> None:
        for record in self._records_of_a_new_life():
            spec, node = record.spec, record.node
            record.restarts_at.clear()
            if isinstance(node, Cell) and spec.lazy and not len(node.mailbox):
                node.state = "idle"
                continue
            life = self._launch(record)
            if not spec.wait:
                continue
            await self._started(record, life)
            if life.ready_at is None and life.exit is not None and life.exit.kind != "ignored":
                if spec.on_limit == "escalate":
                    raise life.exit.failure or LimitReached(f"{node.path} ended while it started")
                self._events.send_nowait((record, life))
                record.awaited = None

    def _records_of_a_new_life(self) -> list[_Record]:
        """What to start: the children that the spec names, and a dynamic supervisor's that still have messages.

        Nodes, and so mailboxes, are those of the former life where there was one.
        """
        former, self.records = self.records, {}
        for spec in self.spec.children:
            record = former.pop(spec.id, None)
            if record is None:
                self._add(spec)
            else:
                self.records[spec.id] = record
        for id_, record in former.items():
            self.records[id_] = record
            waits = isinstance(record.node, Cell) and len(record.node.mailbox)
            if not (isinstance(self.spec, DynamicSupervisor) and waits):
                self._remove(record, "was not taken over by the supervisor's next incarnation")
        return list(self.records.values())

    async def _started(self, record: _Record, life: Incarnation) -> None:
        """Wait until a child is ready or has failed; its failure is then the caller's to deal with."""
        record.awaited = life
        await life.settled.wait()

    async def _stop_all(self, *, brutally: bool) -> None:
        records = list(self.records.values())
        for record in records:
            self._disarm(record)
        if isinstance(self.spec, DynamicSupervisor):
            async with trio.open_nursery() as nursery:
                for record in records:
                    nursery.start_soon(record.node.stop, "brutal_kill" if brutally else record.spec.shutdown_s)
        else:
            for record in reversed(records):
                await record.node.stop("brutal_kill" if brutally else record.spec.shutdown_s)

    # Decisions --------------------------------------------------------------------------------------------------------

    def child_exited(self, child: Node, life: Incarnation) -> None:
        record = self.records.get(child.name)
        if record is not None and record.node is child and not life.is_stop_requested and self._nursery is not None:
            self._events.send_nowait((record, life))

    async def _decide(self, events: trio.MemoryReceiveChannel[tuple[_Record, Incarnation | None]]) -> None:
        async for record, life in events:
            if self.records.get(record.spec.id) is not record:
                continue  # it was removed meanwhile
            if life is None:
                record.timer = None
                if not record.node.is_alive:
                    await self._restart(record)
            elif life is record.node.life and not (life is record.awaited and life.ready_at is None):
                await self._exited(record, life)

    async def _exited(self, record: _Record, life: Incarnation) -> None:
        spec, exit_ = record.spec, life.exit
        assert exit_ is not None
        if exit_.kind == "ignored":
            if spec.restart == "temporary":
                self._remove(record, "had nothing to do")
            return
        if spec.restart == "permanent" or (spec.restart == "transient" and exit_.is_abnormal):
            await self._restart_after(record, life, exit_)
            return
        if spec.restart == "temporary" or isinstance(self.spec, DynamicSupervisor):
            self._remove(record, "has ended")
        if spec.significant:
            self._consider_auto_shutdown(spec)

    def _consider_auto_shutdown(self, ended: ChildSpec) -> None:
        left = [record for record in self.records.values() if record.spec.significant and record.node.is_alive]
        if self.spec.auto_shutdown == "any_significant" or not left:
            raise AutoShutdown(f"its significant child {ended.id} has ended")

    async def _restart_after(self, record: _Record, life: Incarnation, exit_: Exit) -> None:
        """Restart a child that has failed: now, later, or not before an operator or a probe says so."""
        spec, node = record.spec, record.node
        if self._has_proven_health(record, life):
            record.failures = 0
            record.is_parked = False
        record.failures += 1
        if record.is_parked or isinstance(exit_.failure, NeedsOperator):
            self._park(record)
        elif self._is_over_limit(record):
            if spec.on_limit == "park":
                self._park(record)
            else:
                self.system.report("escalated", node, exit_)
                limit = f"more than {spec.max_restarts} restarts in {spec.max_seconds:g} s"
                raise LimitReached(f"{node.path}: {limit}; the last failure: {exit_}")
        else:
            delay_s = spec.backoff.delay_s(record.failures)
            if delay_s > 0:
                node.state = "backoff"
                self.system.report("backoff", node, exit_, f"restart in {delay_s:.1f} s")
                self._arm(record, delay_s)
            else:
                await self._restart(record)

    def _has_proven_health(self, record: _Record, life: Incarnation) -> bool:
        since = life.healthy_since
        return since is not None and self.system.now() - since >= record.spec.backoff.reset_after_s

    def _is_over_limit(self, record: _Record) -> bool:
        """Count a restart; whether there have been more than `max_restarts` within `max_seconds`."""
        now, times = self.system.now(), record.restarts_at
        times.append(now)
        while now - times[0] > record.spec.max_seconds:
            times.popleft()
        return len(times) > record.spec.max_restarts

    async def _restart(self, record: _Record) -> None:
        if self.spec.strategy == "one_for_one":
            self._count_and_launch(record)
            return
        together = list(self.records.values())
        if self.spec.strategy == "rest_for_one":
            together = together[together.index(record) :]
        for other in reversed(together):
            self._disarm(other)
            await other.node.stop(other.spec.shutdown_s)
            if other is not record and other.spec.restart == "temporary":
                self._remove(other, "went down with a sibling")
                together.remove(other)
        for other in together:
            if other.is_parked and other is not record:
                continue
            life = self._count_and_launch(other)
            await self._started(other, life)
            if life.ready_at is None and life.exit is not None and life.exit.kind != "ignored":
                await self._restart_after(other, life, life.exit)
                return

    def _count_and_launch(self, record: _Record) -> Incarnation:
        record.node.restarts += 1
        self.system.report("restarting", record.node)
        return self._launch(record)

    def _park(self, record: _Record) -> None:
        """Leave a child down, refuse its messages at once, and look again after `probe_s`."""
        record.is_parked = True
        node = record.node
        node.state = "parked"
        self.system.report("parked", node, node.life.exit if node.life else None)
        if isinstance(node, Cell):
            node.refuse_all(f"is down ({node.last_error})")
        self._arm(record, record.spec.probe_s)

    def _arm(self, record: _Record, delay_s: float) -> None:
        assert self._nursery is not None
        self._disarm(record)
        record.timer = trio.CancelScope()
        self._nursery.start_soon(self._ring, record, record.timer, delay_s)

    async def _ring(self, record: _Record, timer: trio.CancelScope, delay_s: float) -> None:
        with timer:
            await trio.sleep(delay_s)
            self._events.send_nowait((record, None))

    # Passivation ------------------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        """Stop children that have had nothing to do for their `passivate_after_s`."""
        spec = self.spec
        options = spec.child_options if isinstance(spec, DynamicSupervisor) else {}
        limits = [options.get("passivate_after_s"), *(child.passivate_after_s for child in spec.children)]
        after_s = min((limit for limit in limits if limit is not None), default=math.inf)
        while after_s < math.inf and self._nursery is not None:
            await trio.sleep(after_s / 4)
            now = self.system.now()
            for record in list(self.records.values()):
                if isinstance(record.node, Cell) and record.node.may_passivate(now) and self._nursery is not None:
                    self._nursery.start_soon(self._passivate, record, record.node)

    async def _passivate(self, record: _Record, cell: Cell) -> None:
        await cell.stop(record.spec.shutdown_s)
        # From here to the end nothing waits: a message that came while it stopped is seen, a later one starts it anew.
        if cell.is_alive or self._nursery is None or self.records.get(record.spec.id) is not record:
            return
        if len(cell.mailbox):
            self._launch(record)
        elif isinstance(self.spec, DynamicSupervisor):
            self._remove(record, "was passivated")
        else:
            cell.state = "idle"

"""Supervisors: they start children, watch them end, and decide what follows. The semantics are Erlang/OTP's.

Source: https://www.erlang.org/doc/apps/stdlib/supervisor.html. What goes beyond it (backoff, parking, failures with a
type, limits kept per child) is said in `child.py`.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from .errors import Conflict, NeedsOperator, NotFound, PocketPawError, TransientFailure, Unavailable
from .exits import AutoShutdown, Exit, LimitReached, SupervisorShutdown
from .family import Family, has_mail
from .node import Incarnation, Node
from .record import Record
from .spec import ChildSpec, DynamicSupervisor

T = TypeVar("T")

Cause = Incarnation | trio.CancelScope
"""Why a child is looked at: an incarnation has ended, or the timer of a pending restart or probe has run out."""


class SupervisorNode(Family):
    """A supervisor at work.

    What follows a child's end is decided one after the other, in `_decide`'s task, from a queue of exits and timers.
    With the strategy `one_for_one` nothing ever waits there for a child, and an operator's request for one child does
    not wait for that of another.
    """

    kill_grace_s = math.inf  # it never ignores its cancellation: it waits for its children, and theirs is bounded

    # What OTP's supervisor offers -------------------------------------------------------------------------------------

    async def start_child(self, spec: ChildSpec) -> Node:
        """Add a child and start it; returns when it is ready.

        Raises:
            ValueError: it cannot be a child of this supervisor.
            Conflict: there is one with that id.
            PocketPawError: what its `on_start` raised, or `Unavailable`; the child is then not kept.
        """
        self.spec.check_child(spec)
        return await self._carry_out(self._start_child, spec)

    async def terminate_child(self, id_: str) -> None:
        """Stop a child and refuse its messages; its spec is kept unless it is temporary or dynamic."""
        await self._carry_out(self._terminate_child, id_)

    async def restart_child(self, id_: str) -> Node:
        """Start a child that is not running; an operator's restart of a running one stops it first.

        Raises:
            PocketPawError: what its `on_start` raised, or `Unavailable`; what follows is decided as after any failure.
        """
        return await self._carry_out(self._restart_child, id_)

    def delete_child(self, id_: str) -> None:
        """Forget the spec of a child that is not running."""
        record = self._record(id_)
        if record.node.is_alive or record.timer is not None or record.turn.locked():
            raise Conflict(f"{record.node.path} is {record.node.state}: terminate it first")
        self._remove(record, "was deleted")

    async def _start_child(self, spec: ChildSpec) -> Node:
        if spec.id in self.records:
            raise Conflict(f"{self.title} has a child {spec.id!r} already")
        self._add(spec)
        async with self._turn_of(spec.id) as record:
            life = self._launch(record)
            if not await self._started(record, life):
                self._remove(record, "could not start")
                raise _start_failure(record.node, life)
            return record.node

    async def _terminate_child(self, id_: str) -> None:
        async with self._turn_of(id_) as record:
            record.disarm()
            await record.node.stop(record.spec.shutdown_s)
            record.node.state = "stopped"
            self._vacate(record, "was stopped")
            if self.spec.strategy != "one_for_one":
                self._lay_down_the_waiting(id_)

    def _lay_down_the_waiting(self, terminated: str) -> None:
        """No restart of a sibling is pending any more with which the others would have started again."""
        records = self.records.values()
        if not any(record.timer is not None and not record.is_parked for record in records):
            for record in records:
                if record.waits_for_sibling():
                    record.node.lay_down(f"went down with {terminated}")

    async def _restart_child(self, id_: str) -> Node:
        async with self._turn_of(id_) as record:
            record.disarm()
            await record.node.stop(record.spec.shutdown_s)
            record.forgive()
            record.restarts_at.clear()
            life = self._count_and_launch(record)
            await life.settled.wait()
            if life.has_failed_to_start:
                raise _start_failure(record.node, life)
            return record.node

    async def _carry_out(self, request: Callable[..., Awaitable[T]], *args: object) -> T:
        """Do what an operator asks as a task of this supervisor: it is done even if whoever asked goes away."""
        results: list[T | Exception] = []
        done = trio.Event()

        async def carry_out() -> None:
            try:
                results.append(await request(*args))
            except Exception as error:  # noqa: BLE001 it is raised to whoever asked
                results.append(error)
            finally:
                done.set()

        if self.life is not None:
            await self.life.settled.wait()
        if self._nursery is None:
            raise Unavailable(f"{self.title} is not running")
        self._nursery.start_soon(carry_out, name=f"{self.path}: {request.__name__}")
        await done.wait()
        if not results:
            raise Unavailable(f"{self.title} was stopped meanwhile")
        if isinstance(results[0], Exception):
            raise results[0]
        return results[0]

    @asynccontextmanager
    async def _turn_of(self, id_: str) -> AsyncGenerator[Record]:
        record = self._record(id_)
        async with record.turn:
            if self.records.get(id_) is not record:
                raise NotFound(f"{record.node.path} has gone meanwhile")
            yield record

    # Its own life -----------------------------------------------------------------------------------------------------

    async def _run(self, life: Incarnation) -> None:
        self._events, events = trio.open_memory_channel[tuple[Record, Cause]](math.inf)
        exit_ = Exit("killed")
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                with self._busy:
                    await self._start_all()
                    life.healthy_since = self.system.now()
                    self._ready(life)
                    await self._decide(events)
                exit_ = Exit("shutdown")
            except SupervisorShutdown as reason:
                exit_ = Exit("shutdown", reason)
            except Exception as reason:  # noqa: BLE001 whatever it is, its children stop first and its owner is told
                exit_ = Exit.of(reason)
            finally:
                self._nursery = None
                try:
                    await self._stop_all()
                finally:
                    with trio.CancelScope(shield=True):
                        await self._kill_all()
                    # Its owner is told before the nursery is left: a child that was abandoned holds that open.
                    self._end(life, life.verdict or exit_)
                    nursery.cancel_scope.cancel()

    def launch(self, nursery: trio.Nursery) -> Incarnation:
        self._busy = trio.CancelScope()  # around its starting and deciding; cancelled when it is asked to stop
        return super().launch(nursery)

    def _can_be_asked(self, life: Incarnation) -> bool:
        return True  # also while it starts, so that the children that it has started can end in good order

    def _request_stop(self, life: Incarnation) -> None:
        self._busy.cancel()

    async def _start_all(self) -> None:
        for record in self._records_of_a_new_life():
            spec, node = record.spec, record.node
            if spec.lazy and not node.is_alive and not has_mail(node):
                node.state = "idle"
                continue
            life = self._launch(record)
            if spec.wait and not await self._started(record, life):
                assert life.exit is not None
                failure = life.exit.failure
                if spec.on_limit == "escalate" and not isinstance(failure, TransientFailure | NeedsOperator):
                    raise failure or LimitReached(f"{node.path} ended while it started")
                record.awaited = None  # so its exit, which is in the queue, is decided on like any other

    async def _started(self, record: Record, life: Incarnation) -> bool:
        """Wait for the outcome of a start; False if it has failed, which is then the caller's to deal with."""
        record.awaited = life
        await life.settled.wait()
        if life.exit is not None and life.exit.kind == "ignored":
            self._vacate(record, "has nothing to do")
        return not life.has_failed_to_start

    async def _stop_all(self) -> None:
        """Stop the children in reverse order, a dynamic supervisor's all at once."""
        records = list(self.records.values())
        for record in records:
            record.disarm()
        if isinstance(self.spec, DynamicSupervisor):
            async with trio.open_nursery() as nursery:
                for record in records:
                    nursery.start_soon(record.node.stop, record.spec.shutdown_s)
        else:
            for record in reversed(records):
                await record.node.stop(record.spec.shutdown_s)

    async def _kill_all(self) -> None:
        """Stop what is left; all at once, so that it takes no longer than for one."""
        left = [record.node for record in self.records.values() if record.node.is_alive]
        async with trio.open_nursery() as nursery:
            for node in left:
                nursery.start_soon(node.stop, "brutal_kill")

    # Decisions --------------------------------------------------------------------------------------------------------

    def child_exited(self, child: Node, life: Incarnation) -> None:
        if not life.is_stop_requested:
            self._events.send_nowait((self.records[child.name], life))

    async def _decide(self, events: trio.MemoryReceiveChannel[tuple[Record, Cause]]) -> None:
        async for record, cause in events:
            if isinstance(cause, trio.CancelScope):
                await self._restart(record, cause)
            elif cause is record.node.life and not record.leaves_to_starter(cause):
                self._exited(record, cause)

    def _exited(self, record: Record, life: Incarnation) -> None:
        spec, exit_ = record.spec, life.exit
        assert exit_ is not None
        if exit_.kind == "ignored":
            self._vacate(record, "has nothing to do")
        elif spec.restart == "permanent" or (spec.restart == "transient" and exit_.is_abnormal):
            self._restart_after(record, life, exit_)
        elif record.is_on_demand and spec.restart == "transient":
            self._rest(record)
        else:
            self._vacate(record, "has ended")
            if spec.significant:
                self._consider_auto_shutdown(spec)

    def _consider_auto_shutdown(self, ended: ChildSpec) -> None:
        significant = [record for record in self.records.values() if record.spec.significant]
        is_last = all(record.node.down is not None and not record.is_parked for record in significant)
        if self.spec.auto_shutdown == "any_significant" or is_last:
            raise AutoShutdown(f"its significant child {ended.id} has ended")

    def _restart_after(self, record: Record, life: Incarnation, exit_: Exit) -> None:
        """Restart a child that has failed: now, later, or not before an operator or a probe says so."""
        spec, node = record.spec, record.node
        record.count_failure(life)
        if record.is_parked or isinstance(exit_.failure, NeedsOperator):
            self._park(record, exit_)
        elif record.is_over_limit(self.system.now()):
            if spec.on_limit == "escalate" and not isinstance(exit_.failure, TransientFailure):
                self.system.report("escalated", node, exit_)
                limit = f"more than {spec.max_restarts} restarts in {spec.max_seconds:g} s"
                raise LimitReached(f"{node.path}: {limit}; the last failure: {exit_}")
            self._park(record, exit_)
        else:
            delay_s = record.delay_s(exit_)
            if delay_s > 0:
                node.state = "backoff"
                self.system.report("backoff", node, exit_, f"restart in {delay_s:.1f} s")
            self._arm(record, delay_s)

    async def _restart(self, record: Record, timer: trio.CancelScope) -> None:
        """Start a failed child anew, and with it the siblings that the strategy names; a probe concerns nobody else."""
        if self.spec.strategy == "one_for_one" or record.is_parked:
            if record.timer is timer:
                record.timer = None
                self._count_and_launch(record)
        else:
            async with self._turn:
                if record.timer is timer:  # an operator may have been quicker
                    together = list(self.records.values())
                    if self.spec.strategy == "rest_for_one":
                        together = together[together.index(record) :]
                    await self._restart_together([other for other in together if other.node.state != "parked"])

    async def _restart_together(self, group: list[Record]) -> None:
        for record in reversed(group):
            record.disarm()
            await record.node.stop(record.spec.shutdown_s)
            if record.spec.restart == "temporary":
                self._remove(record, "went down with a sibling")
        for record in group:
            if record.spec.restart != "temporary" and record.node.state != "idle":
                life = self._count_and_launch(record)
                if not await self._started(record, life):
                    assert life.exit is not None
                    self._restart_after(record, life, life.exit)
                    if not record.is_parked:
                        return

    def _park(self, record: Record, exit_: Exit) -> None:
        """Leave a child down, refuse its messages at once, and look again after `probe_s`."""
        record.is_parked = True
        record.node.state = "parked"
        self.system.report("parked", record.node, exit_)
        record.node.lay_down(f"is down ({exit_})")
        self._arm(record, record.spec.probe_s)

    def _arm(self, record: Record, delay_s: float) -> None:
        assert self._nursery is not None
        assert record.timer is None, f"{record.node.path} waits for its restart already"
        record.timer = trio.CancelScope()
        self._nursery.start_soon(self._ring, record, record.timer, delay_s, name=f"{record.node.path}: timer")

    async def _ring(self, record: Record, timer: trio.CancelScope, delay_s: float) -> None:
        with timer:
            await trio.sleep(delay_s)
            self._events.send_nowait((record, timer))


def _start_failure(node: Node, life: Incarnation) -> PocketPawError:
    """What to tell whoever wanted the start: an answer, so that it does not crash them too."""
    failure = life.exit.failure if life.exit is not None else None
    if isinstance(failure, PocketPawError):
        return failure
    error = Unavailable(f"{node.path} could not start: {life.exit}", actor=node.path)
    error.__cause__ = failure
    return error

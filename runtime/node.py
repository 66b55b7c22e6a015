"""A place in the supervision tree. It stays while the actors or supervisors that fill it come and go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import TYPE_CHECKING, ClassVar, Literal

import trio

from .child import Shutdown
from .exits import Exit, StartTimeout, describe, is_cancellation

if TYPE_CHECKING:
    from .system import ActorSystem

Kind = Literal["supervisor", "trio", "thread", "process"]
State = Literal["idle", "starting", "running", "stopping", "stopped", "crashed", "backoff", "parked", "ignored"]

KILL_GRACE_S = 1.0
"""After its cancellation, how long an incarnation may take to unwind before it is abandoned."""


class Incarnation:
    """One life, from launch to exit. What a former life still says is dropped (it is fenced by `is_over`)."""

    __slots__ = (
        "ended_at",
        "exit",
        "exited",
        "has_failed_to_start",
        "healthy_since",
        "is_abandoned",
        "is_stop_requested",
        "number",
        "nursery",
        "ready_at",
        "scope",
        "settled",
        "verdict",
    )

    ended_at: float  # once it is over

    def __init__(self, number: int, nursery: trio.Nursery) -> None:
        self.number = number
        self.nursery = nursery  # its supervisor's
        self.scope = trio.CancelScope()
        self.ready_at: float | None = None
        self.healthy_since: float | None = None  # its start, or its first proof of health where the actor gives one
        self.exit: Exit | None = None
        self.verdict: Exit | None = None  # what its end will be called, whatever it says itself: it was killed for it
        self.has_failed_to_start = False
        self.is_stop_requested = False
        self.is_abandoned = False  # it ignored its cancellation, and still runs somewhere
        self.settled = trio.Event()  # set when it is ready, or has ended without
        self.exited = trio.Event()

    @property
    def is_over(self) -> bool:
        return self.exit is not None


class Owner(ABC):
    """Whoever is told that a child has ended: a supervisor, or the system for the root."""

    @abstractmethod
    def child_exited(self, child: Node, life: Incarnation) -> None: ...

    @abstractmethod
    def activate(self, child: Node) -> None:
        """A message has come for a child that is not running: start it, if that is what its spec says."""


class Node(ABC):
    """A place in the tree: what outlives incarnations.

    Invariants: at most one incarnation is not over; `number` only grows; `child_exited` is called exactly once for each
    incarnation, an abandoned one included.
    """

    kind: Kind
    kill_grace_s: ClassVar[float] = KILL_GRACE_S

    def __init__(self, path: str, owner: Owner, system: ActorSystem) -> None:
        self.path = path
        self.owner = owner
        self.system = system
        self.life: Incarnation | None = None
        self.number = 0
        self.restarts = 0
        self.last_error: str | None = None
        self.down: str | None = None  # why nobody will come for its messages by itself; they are refused meanwhile
        self._state: State = "idle"
        self.since = system.now()

    @property
    def state(self) -> State:
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state
        self.since = self.system.now()

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def title(self) -> str:
        """What texts call it: the root's path is empty."""
        return self.path or "root"

    @property
    def is_alive(self) -> bool:
        return self.life is not None and not self.life.is_over

    @property
    def uptime_s(self) -> float:
        life = self.life
        if life is None or life.is_over or life.ready_at is None:
            return 0.0
        return self.system.now() - life.ready_at

    def launch(self, nursery: trio.Nursery) -> Incarnation:
        """Begin the next incarnation as a task of `nursery`; it is ready when `settled` is set and it is not over."""
        assert not self.is_alive, f"{self.path} has a living incarnation"
        self.number += 1
        self.life = life = Incarnation(self.number, nursery)
        self.state = "starting"
        self.stand_by()
        nursery.start_soon(self._live, life, name=self.path)
        return life

    async def stop(self, shutdown_s: Shutdown) -> None:
        """Ask, then cancel, then abandon. Never takes longer than `shutdown_s` + `KILL_GRACE_S`.

        Cancelling it leaves the incarnation asked to stop, and nobody to see to it: whoever cancels has to.
        """
        life = self.life
        if life is None or life.is_over:
            return
        life.is_stop_requested = True
        self.state = "stopping"
        if shutdown_s != "brutal_kill" and self._can_be_asked(life):
            self._request_stop(life)
            with trio.move_on_after(shutdown_s):
                await life.exited.wait()
        if not life.is_over:
            life.scope.cancel()
            await self._reap(life)

    def kill(self, reason: BaseException) -> None:
        """Cancel the present incarnation as crashed for `reason`: its supervisor decides what follows."""
        life = self.life
        if life is None or life.is_over or life.verdict is not None:
            return
        life.verdict = Exit("crashed", reason)
        self.state = "stopping"
        life.scope.cancel()
        life.nursery.start_soon(self._reap, life, name=f"{self.path}: reaper")

    def lay_down(self, why: str) -> None:
        """Refuse what waits and what comes, until it is launched again."""
        self.down = why

    def stand_by(self) -> None:
        """Take messages again: somebody will come for them."""
        self.down = None

    async def _reap(self, life: Incarnation) -> None:
        """Wait for a cancelled incarnation to unwind; abandon it if it does not."""
        with trio.move_on_after(self.kill_grace_s):
            await life.exited.wait()
            return
        life.is_abandoned = True
        self.system.abandoned += 1
        why = life.verdict or Exit("killed")
        error = TimeoutError(f"{why}: it ignored its cancellation and was abandoned")
        error.__cause__ = why.failure  # which says where it was
        self._end(life, Exit(why.kind, error))

    async def _live(self, life: Incarnation) -> None:
        """Run one incarnation. No exception of it leaves this task, but for a cancellation from outside."""
        try:
            with life.scope:
                await self._run(life)
        except BaseException as error:
            if is_cancellation(error):
                self._end(life, Exit("killed"))
                raise
            self._end(life, life.verdict or Exit.of(error))
        else:
            kind = "killed" if life.scope.cancelled_caught else "shutdown" if life.is_stop_requested else "normal"
            self._end(life, life.verdict or Exit(kind))
        finally:
            if life.is_abandoned:
                life.is_abandoned = False
                self.system.abandoned -= 1

    def _ready(self, life: Incarnation) -> None:
        if not life.scope.cancel_called:  # a start that comes through its cancellation is none
            life.ready_at = self.system.now()
            self.state = "running"
            life.settled.set()
            self.system.report("started", self)

    def _end(self, life: Incarnation, exit_: Exit) -> None:
        if life.is_over:
            return
        life.exit = exit_
        life.ended_at = self.system.now()
        life.has_failed_to_start = life.ready_at is None and exit_.kind != "ignored"
        self.state = "crashed" if exit_.kind == "crashed" else "ignored" if exit_.kind == "ignored" else "stopped"
        if exit_.failure is not None:
            self.last_error = describe(exit_.failure)
        self._clean_up(life, exit_)
        life.settled.set()
        life.exited.set()
        self.system.report("exited", self, exit_)
        self.owner.child_exited(self, life)

    @abstractmethod
    async def _run(self, life: Incarnation) -> None:
        """Live one life: start, call `_ready`, and go on until asked to stop."""

    def _can_be_asked(self, life: Incarnation) -> bool:
        """Whether there is somebody yet who would hear that it shall stop."""
        return life.ready_at is not None

    @abstractmethod
    def _request_stop(self, life: Incarnation) -> None: ...

    def _clean_up(self, life: Incarnation, exit_: Exit) -> None:
        """Synchronous last steps, also of an abandoned life."""


async def start_within(timeout_s: float, start: Awaitable[None]) -> None:
    """Await `start` for at most `timeout_s`.

    Raises:
        StartTimeout: it took longer.
    """
    with trio.move_on_after(timeout_s) as scope:
        await start
    if scope.cancelled_caught:
        raise StartTimeout(f"on_start took longer than {timeout_s:g} s")

"""Actors that do at each site of their life what a test's script says, and a way to run a tree of them."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal

import msgspec
import trio
import trio.testing
from pocketpaw.runtime import (
    Actor,
    ActorSystem,
    Backoff,
    Child,
    Message,
    Report,
    RootGaveUp,
    Supervisor,
    SupervisorNode,
    watchdog,
)
from pocketpaw.runtime.actor import STOP
from pocketpaw.runtime.cell import Cell
from pocketpaw.runtime.errors import DeliveryFailure
from pocketpaw.runtime.exits import SupervisorShutdown
from pocketpaw.runtime.node import Incarnation
from pocketpaw.runtime.spec import ChildSpec

Site = Literal["init", "start", "task", "idle", "handle", "stop"]
Act = BaseException | Callable[[], Awaitable[None]] | None


class Did(msgspec.Struct, frozen=True):
    incarnation: int


class Do(Message[Did]):
    """`what`: ok, crash, end (normally), shutdown (OTP's reason), hang, or what the script says of `handle`."""

    what: str = "ok"
    number: int = 0


class World:
    """The script, and what came of it. `log` holds `"<name> <event>"` in order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.handled: list[tuple[str, int, int]] = []  # name, incarnation, the message's number
        self.living: Counter[str] = Counter()
        self.most_living: Counter[str] = Counter()
        self.started_at: defaultdict[str, list[float]] = defaultdict(list)
        self.release = trio.Event()
        self._next: dict[tuple[str, Site], deque[Act]] = {}
        self._always: dict[tuple[str, Site], Act] = {}

    def once(self, name: str, site: Site, *acts: Act) -> None:
        """At its next visits to `site`, `name` does these; None is nothing."""
        self._next.setdefault((name, site), deque()).extend(acts)

    def always(self, name: str, site: Site, act: Act) -> None:
        self._always[name, site] = act

    def forget(self) -> None:
        """From now on nobody does anything special."""
        self._next.clear()
        self._always.clear()

    def take(self, name: str, site: Site) -> Act:
        acts = self._next.get((name, site))
        return acts.popleft() if acts else self._always.get((name, site))

    async def ignore_cancellation(self) -> None:
        """An act: hang, whatever happens, until the test is over."""
        with trio.CancelScope(shield=True):
            await self.release.wait()

    def child(self, name: str, **options: Any) -> Child:
        return Child(Scripted, self, name, id=name, **options)

    def children(self, names: str, **options: Any) -> list[Child]:
        return [self.child(name, **options) for name in names.split()]

    @staticmethod
    def slow_restart() -> dict[str, Any]:
        """Options of a child that is restarted after ten seconds, to the second."""
        return {"backoff": Backoff(min_s=10.0, max_s=10.0, jitter=0.0)}

    def events(self, event: str) -> list[str]:
        """Who did `event`, in order."""
        return [name for name, _, what in (line.partition(" ") for line in self.log) if what == event]


class Scripted(Actor):
    has_tasks = True

    def __init__(self, world: World, name: str) -> None:
        super().__init__()
        self.world = world
        self.name = name
        self._act("init")

    def _act(self, site: Site) -> Callable[[], Awaitable[None]] | None:
        self.world.log.append(f"{self.name} {site}")
        act = self.world.take(self.name, site)
        if isinstance(act, BaseException):
            raise type(act)(*act.args)  # a new one, as an exception keeps the traceback of each time that it was raised
        return act

    async def visit(self, site: Site) -> None:
        act = self._act(site)
        if act is not None:
            await act()

    async def run_in(self, cell: Cell, life: Incarnation) -> None:
        living = self.world.living
        living[self.name] += 1
        self.world.most_living[self.name] = max(self.world.most_living[self.name], living[self.name])
        try:
            await super().run_in(cell, life)
        finally:
            living[self.name] -= 1
            self.world.log.append(f"{self.name} gone")

    async def on_start(self) -> None:
        self.world.started_at[self.name].append(trio.current_time())
        await self.visit("start")
        self.spawn(self.visit, "task")
        self.world.log.append(f"{self.name} up")

    async def on_stop(self) -> None:
        await self.visit("stop")

    def is_idle(self) -> bool:
        return self._act("idle") is None

    async def do(self, message: Do) -> Did:
        self.world.handled.append((self.name, self.incarnation, message.number))
        if message.what == "crash":
            raise RuntimeError("told to crash")
        if message.what == "end":
            self._cell.mailbox.put_control(STOP)
        elif message.what == "shutdown":
            raise SupervisorShutdown("told to shut down")
        elif message.what == "hang":
            await trio.sleep_forever()
        await self.visit("handle")
        return Did(self.incarnation)


class Run:
    """A tree at work."""

    def __init__(self, world: World, system: ActorSystem, reports: list[Report]) -> None:
        self.world = world
        self.system = system
        self.reports = reports
        self.root = system.root

    async def do(self, path: str, what: str = "ok", *, number: int = 0, timeout_s: float = 30.0) -> Did:
        return await self.system.ask(Do(what=what, number=number), to=path, timeout_s=timeout_s)

    async def tell(self, path: str, what: str = "ok", *, number: int = 0) -> None:
        await self.system.tell(Do(what=what, number=number), to=path)

    async def make(self, path: str, what: str = "crash") -> None:
        """Have an actor crash, end or shut down, and wait until its supervisor is done with it."""
        try:
            await self.do(path, what)
        except DeliveryFailure:
            pass  # a crash answers so
        await settle()

    async def kill(self, path: str) -> None:
        """Cancel an incarnation from outside: OTP's `exit(Pid, kill)`."""
        life = self.system.node(path).life
        assert life is not None
        life.scope.cancel()
        await settle()

    def supervisor(self, path: str = "") -> SupervisorNode:
        node = self.system.node(path)
        assert isinstance(node, SupervisorNode)
        return node

    def cell(self, path: str) -> Cell:
        node = self.system.node(path)
        assert isinstance(node, Cell)
        return node

    def numbers(self) -> dict[str, int]:
        """The incarnation of every place in the tree, the root's aside."""
        return {path: node.number for path, node in self.system.nodes.items() if path}

    def states(self) -> dict[str, str]:
        return {path: node.state for path, node in self.system.nodes.items() if path}

    def exit_of(self, path: str) -> str:
        """How the latest incarnation has ended."""
        life = self.system.node(path).life
        assert life is not None
        assert life.exit is not None, f"{path} lives"
        return life.exit.kind

    def node_is(self, path: str, state: str, number: int) -> bool:
        node = self.system.node(path)
        assert (node.state, node.number) == (state, number)
        return True

    def said(self, kind: str, path: str | None = None) -> list[Report]:
        return [report for report in self.reports if report.kind == kind and path in (None, report.path)]


def pause(seconds: float) -> Act:
    """An act: take so long."""
    return partial(trio.sleep, seconds)


async def settle() -> None:
    """Wait until nothing moves any more before time does."""
    await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def running(
    world: World, *children: ChildSpec, beat_s: float = 60.0, **options: Any
) -> AsyncGenerator[Run]:  # fmt: skip
    """Run a tree with these children of the root; at the end, stop it and look that nothing is left.

    `beat_s`: how often the watchdog looks; its usual four times a second make a virtual day long.
    """
    reports: list[Report] = []
    usual_beat_s, watchdog.BEAT_S = watchdog.BEAT_S, beat_s
    system = ActorSystem(Supervisor("root", children, **options), on_report=reports.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run_to_the_end, system)
        assert system.root.life is None or not system.root.life.is_over
        await trio.testing.wait_all_tasks_blocked()
        try:
            yield Run(world, system, reports)
        finally:
            with trio.CancelScope(shield=True):
                await system.stop(1.0)
                world.release.set()
                watchdog.BEAT_S = usual_beat_s
    assert not any(node.is_alive for node in system.nodes.values()), "something outlived the root"
    assert system.abandoned == 0
    assert not +world.living


async def _run_to_the_end(system: ActorSystem) -> None:
    """As `system.run`; a root that gives up is the test's to notice."""
    try:
        await system.run()
    except RootGaveUp:
        pass  # `Run.root` shows it

"""Random trees, random faults at every site of a life, random orders; and what has to hold whatever happens.

A program is a tree and a list of steps, both drawn by hypothesis; `Machine` carries it out on trio's virtual clock.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio
from hypothesis import strategies as st
from pocketpaw.runtime import Backoff, Child, DynamicSupervisor, Report, Supervisor, SupervisorNode, Terminated
from pocketpaw.runtime.cell import Cell
from pocketpaw.runtime.errors import NeedsOperator, PocketPawError, TransientFailure
from pocketpaw.runtime.exits import IgnoreStart
from pocketpaw.runtime.node import KILL_GRACE_S, Incarnation
from pocketpaw.runtime.spec import ChildSpec

from .scripted import Act, Did, Do, Run, Scripted, Site, World, pause, running, settle

DYNAMIC_NAMES = ("p", "q", "r")
SITES: tuple[Site, ...] = ("init", "start", "task", "idle", "handle", "stop")
LONG_S = 2000.0
"""Longer than every pause, probe and time-out that a program may hold: what has not healed by then never will."""


# Programs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """A place in the tree to be: hypothesis shows it when a program fails."""

    kind: str  # child, supervisor, dynamic
    options: dict[str, Any]
    children: tuple[Plan, ...] = ()


@dataclass(frozen=True)
class Step:
    what: str
    target: int = 0  # which of the places there are, modulo their number
    site: Site = "handle"
    fault: str = "raise"
    seconds: float = 0.0
    settles: bool = True  # otherwise the next step follows at once


RESTARTS = st.sampled_from(["permanent", "permanent", "transient", "temporary"])
LIMITS = st.sampled_from(["park", "park", "escalate"])
CHILD_OPTIONS = st.fixed_dictionaries(
    {
        "restart": RESTARTS,
        "on_limit": LIMITS,
        "max_restarts": st.integers(0, 3),
        "shutdown_s": st.sampled_from([0.0, 1.0, 3.0, "brutal_kill"]),
        "probe_s": st.sampled_from([20.0, 100.0]),
        "start_timeout_s": st.just(2.0),
        "wait": st.booleans(),
        "lazy": st.sampled_from([False, False, False, True]),
        "passivate_after_s": st.sampled_from([None, None, 8.0]),
        "backoff": st.sampled_from([None, Backoff(1.0, 8.0), Backoff(0.5, 4.0, reset_after_s=5.0)]),
    }
)
SUPERVISOR_OPTIONS = st.fixed_dictionaries(
    {
        "strategy": st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"]),
        "restart": RESTARTS,
        "on_limit": LIMITS,
        "max_restarts": st.integers(0, 3),
        "probe_s": st.sampled_from([20.0, 100.0]),
        "wait": st.booleans(),
    }
)
DYNAMIC_OPTIONS = st.fixed_dictionaries(
    {
        "restart": RESTARTS,
        "on_limit": LIMITS,
        "max_restarts": st.integers(0, 3),
        "passivate_after_s": st.sampled_from([None, 8.0]),
        "start_timeout_s": st.just(2.0),
    }
)
CHILDREN = st.builds(Plan, st.just("child"), CHILD_OPTIONS)
DYNAMICS = st.builds(Plan, st.just("dynamic"), DYNAMIC_OPTIONS)
LEAVES = st.one_of(CHILDREN, CHILDREN, CHILDREN, DYNAMICS)


def supervisors(below: st.SearchStrategy[Plan]) -> st.SearchStrategy[Plan]:
    return st.builds(Plan, st.just("supervisor"), SUPERVISOR_OPTIONS, st.lists(below, max_size=3).map(tuple))


DEEP = supervisors(st.one_of(LEAVES, LEAVES, supervisors(LEAVES)))
TREES = st.lists(st.one_of(LEAVES, LEAVES, DEEP), min_size=1, max_size=4).map(tuple)
STRATEGIES = st.sampled_from(["one_for_one", "one_for_one", "one_for_all", "rest_for_one"])

FAULTS = st.sampled_from(
    ["raise", "raise", "base", "transient", "operator", "ignore", "hang", "shield", "pause", "nothing"]
)
ORDERS = """tell tell tell ask crash crash end shutdown kill cancel kill-supervisor terminate restart start-child delete
    watch watch dynamic dynamic fault fault fault wait"""
STEPS = st.builds(
    Step,
    what=st.sampled_from(ORDERS.split()),
    target=st.integers(0, 30),
    site=st.sampled_from(SITES),
    fault=FAULTS,
    seconds=st.sampled_from([0.0, 0.3, 1.0, 2.5, 9.0, 40.0, 130.0]),
    settles=st.booleans(),
)


# What is watched ------------------------------------------------------------------------------------------------------


class Ask(Do):
    """Told apart from `Do`, so that the dead letters of tells can be counted."""


class Player(Scripted):
    """Checks, at every site of its own life, what must hold there."""

    world: Stage  # pyright: ignore[reportIncompatibleVariableOverride] a Stage is a World

    async def run_in(self, cell: Cell, life: Incarnation) -> None:
        self.world.enter(cell, life)
        await super().run_in(cell, life)

    async def on_start(self) -> None:
        self.world.check_start_order(self._cell)
        await super().on_start()

    async def on_stop(self) -> None:
        self.world.check_stop_order(self._cell)
        await super().on_stop()

    async def do(self, message: Do) -> Did:
        did = await super().do(message)
        if not self._life.is_over:
            self.world.done[message.number] += 1
        return did

    async def terminated(self, word: Terminated) -> None:
        self.world.heard[self.name, self.incarnation, word.path, word.incarnation] += 1


class Stage(World):
    """The script, and the rules that were broken."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: list[str] = []
        self.lives: defaultdict[Cell, list[Incarnation]] = defaultdict(list)
        self.done: defaultdict[int, int] = defaultdict(int)
        self.heard: defaultdict[tuple[str, int, str, int], int] = defaultdict(int)
        self.watches: dict[tuple[str, int, str, int], tuple[Cell, Cell]] = {}

    def child(self, name: str, **options: Any) -> Child:
        return Child(Player, self, name, id=name, **options)

    def enter(self, cell: Cell, life: Incarnation) -> None:
        """At most one living incarnation, and its number only grows."""
        for former in self.lives[cell]:
            if not former.is_over or former.number >= life.number:
                self.broken.append(f"{cell.path}: incarnation {former.number} lives beside {life.number}")
        self.lives[cell].append(life)

    def check_start_order(self, cell: Cell) -> None:
        """While its supervisor starts, those before it have settled; what a message has started comes when it will."""
        owner = cell.owner
        assert isinstance(owner, SupervisorNode)
        if owner.state != "starting" or owner.records[cell.name].is_on_demand:
            return
        for record in owner.records.values():
            if record.node is cell:
                return
            life = record.node.life
            if record.spec.wait and not record.is_on_demand and (life is None or not life.settled.is_set()):
                self.broken.append(f"{cell.path} started before {record.node.path} had")

    def check_stop_order(self, cell: Cell) -> None:
        """While its supervisor stops, those after it are gone."""
        owner = cell.owner
        assert isinstance(owner, SupervisorNode)
        if owner.state != "stopping" or isinstance(owner.spec, DynamicSupervisor):
            return
        life = owner.life
        assert life is not None
        nodes = owner.which_children()
        if cell in nodes and not life.scope.cancel_called:
            for later in nodes[nodes.index(cell) + 1 :]:
                if later.is_alive and not (later.life is not None and later.life.is_stop_requested):
                    self.broken.append(f"{cell.path} was asked to stop before {later.path}")


@dataclass
class Machine:
    run: Run
    world: Stage
    told: int = 0
    refused: int = 0
    asks: int = 0
    answers: int = 0
    added: int = 0
    numbers: dict[int, int] = field(default_factory=dict[int, int])
    operated: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    # Steps ------------------------------------------------------------------------------------------------------------

    async def do(self, step: Step, nursery: trio.Nursery) -> None:
        system = self.run.system
        cells = [node for node in system.nodes.values() if isinstance(node, Cell)]
        groups = [node for node in system.nodes.values() if isinstance(node, SupervisorNode)]
        cell = cells[step.target % len(cells)] if cells else None
        group = groups[step.target % len(groups)]
        if step.what == "wait":
            await trio.sleep(step.seconds)
        elif step.what == "start-child":
            self.added += 1
            spec = self.world.child(f"n{self.added}", restart="transient", start_timeout_s=2.0, on_limit="park")
            nursery.start_soon(self.operate, group.path, group.start_child, spec)
        elif step.what == "kill-supervisor":
            if group is not self.run.root:
                group.kill(RuntimeError("the machine kills it"))
        elif step.what == "dynamic":
            dynamics = [node for node in groups if isinstance(node.spec, DynamicSupervisor)]
            if dynamics:
                node = dynamics[step.target % len(dynamics)]
                self.tell(f"{node.path}/{DYNAMIC_NAMES[step.target % 3]}", "ok", nursery)
        elif cell is not None:
            self.do_to(cell, step, nursery)
        if step.settles:
            await settle()
            self.check()

    def do_to(self, cell: Cell, step: Step, nursery: trio.Nursery) -> None:
        owner = cell.owner
        assert isinstance(owner, SupervisorNode)
        match step.what:
            case "tell":
                self.tell(cell.path, "ok", nursery)
            case "crash" | "end" | "shutdown":
                self.tell(cell.path, step.what, nursery)
            case "ask":
                nursery.start_soon(self.ask, cell.path)
            case "kill":
                cell.kill(RuntimeError("the machine kills it"))
            case "cancel":
                if cell.life is not None:
                    cell.life.scope.cancel()
            case "terminate":
                nursery.start_soon(self.operate, cell.path, owner.terminate_child, cell.name)
            case "restart":
                nursery.start_soon(self.operate, cell.path, owner.restart_child, cell.name)
            case "delete":
                nursery.start_soon(self.operate, cell.path, self.delete, owner, cell.name)
            case "watch":
                self.watch(cell, step.target)
            case _:
                self.world.once(cell.name, step.site, self.fault(step.fault, step.site))

    def fault(self, name: str, site: Site) -> Act:
        raised: dict[str, BaseException] = {
            "raise": ValueError("fault"),
            "base": SystemExit(3),
            "transient": TransientFailure("fault"),
            "operator": NeedsOperator("fault"),
            "ignore": IgnoreStart(),
        }
        if name in raised:
            return raised[name]
        if site == "init" or name == "nothing":
            return None
        return {"hang": trio.sleep_forever, "shield": self.world.ignore_cancellation, "pause": pause(0.6)}[name]

    def tell(self, path: str, what: str, nursery: trio.Nursery) -> None:
        self.told += 1
        try:
            self.run.system.try_tell(Do(what=what, number=self.told), to=path)
        except PocketPawError:
            self.refused += 1

    async def ask(self, path: str) -> None:
        self.asks += 1
        self.answers += 1  # either way there is one, unless what comes is no expected failure
        try:
            await self.run.system.ask(Ask(number=-self.asks), to=path, timeout_s=15.0)
        except PocketPawError:
            return

    async def operate(self, path: str, request: Any, *args: Any) -> None:
        self.operated[path].append(trio.current_time())
        try:
            await request(*args)
        except PocketPawError:
            pass  # refused or failed: an operator is told so
        self.operated[path].append(trio.current_time())

    @staticmethod
    async def delete(owner: SupervisorNode, name: str) -> None:
        owner.delete_child(name)

    def watch(self, cell: Cell, other: int) -> None:
        cells = [node for node in self.run.system.nodes.values() if isinstance(node, Cell)]
        watched = cells[other % len(cells)]
        watcher = cell.actor
        if isinstance(watcher, Player) and watched is not cell and cell.state == "running":
            key = (watcher.name, watcher.incarnation, watched.path, watched.number)
            if key not in self.world.watches and key not in self.world.heard:
                watcher.watch(watched.path)
                self.world.watches[key] = (cell, watched)

    # Rules ------------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        nodes = self.run.system.nodes
        assert self.world.broken == []
        for node in nodes.values():
            assert node.number >= self.numbers.get(id(node), 0), f"{node.path} counts backwards"
            self.numbers[id(node)] = node.number
            if isinstance(node, SupervisorNode) and not node.is_alive:
                below = [child.path for child in node.which_children() if child.is_alive]
                assert below == [], f"{below} outlive their supervisor"
            if isinstance(node, Cell) and node.down is not None:
                assert len(node.mailbox) == 0, f"{node.path} is down, and keeps mail"
                assert not node.is_alive
        for cell, lives in self.world.lives.items():
            assert lives[-1].is_over or nodes.get(cell.path) is cell, f"{cell.path} lives outside the tree"
        assert all(count <= 1 for count in self.world.heard.values()), "a watcher heard of one end twice"
        assert all(count <= 1 for count in self.world.done.values()), "a message was handled twice"

    def check_healed(self) -> None:
        """Nothing waits for ever: what is not running has a reason to be still."""
        for node in self.run.system.nodes.values():
            if self.run.root.is_alive:
                is_still = node.state in ("idle", "stopped", "ignored") or node.state == "crashed"
                explained = node.state == "running" or (is_still and (node.down is not None or node.state == "idle"))
                assert explained, f"{node.path} is {node.state} for ever: {node.last_error}"

    def check_budget(self, reports: list[tuple[float, Report]]) -> None:
        """No more restarts within the window than allowed, but for those an operator or a sibling has caused."""
        for path, node in self.run.system.nodes.items():
            owner = node.owner
            if not isinstance(owner, SupervisorNode) or owner.spec.strategy != "one_for_one" or self.operated[path]:
                continue
            spec = owner.records[node.name].spec
            recent: deque[float] = deque()
            for time, report in reports:
                if report.kind == "started" and report.path == owner.path:
                    recent.clear()  # a new life of the supervisor counts from nought
                elif report.kind == "restarting" and report.path == path:
                    recent.append(time)
                    while time - recent[0] > spec.max_seconds:
                        recent.popleft()
                    assert len(recent) <= spec.max_restarts + 1, f"{path} was restarted too often"

    def check_messages(self, reports: list[tuple[float, Report]]) -> None:
        """Every message that was taken has been handled, has failed as expected, or is a dead letter: one of them."""
        letters = self.run.system.dead_letters.latest
        dead = sum(letter.message_type == "Do" and letter.reason != "stale incarnation" for letter in letters)
        handled = sum(self.world.done[number] for number in range(1, self.told + 1))
        failed = sum(report.kind == "failure" and report.text.startswith("Do: ") for _, report in reports)
        assert handled + failed + dead == self.told - self.refused
        assert self.answers == self.asks

    def check_watches(self) -> None:
        """Whoever still lives has heard exactly once of each end that it watched for."""
        for watch, (watcher, watched) in self.world.watches.items():
            _, incarnation, _, number = watch
            if watcher.is_alive and watcher.number == incarnation:
                has_ended = not watched.is_alive or watched.number > number
                assert self.world.heard[watch] == has_ended, f"{watch}"


def build(world: Stage, plans: tuple[Plan, ...], prefix: str = "") -> list[ChildSpec]:
    """The specs of `plans`; every place of the tree has a name of its own."""
    specs: list[ChildSpec] = []
    for index, plan in enumerate(plans):
        name = f"{prefix}{'abcd'[index]}"
        if plan.kind == "child":
            specs.append(world.child(name, **plan.options))
        elif plan.kind == "dynamic":
            specs.append(DynamicSupervisor(name, partial(_player, world, name), **plan.options))
        else:
            specs.append(Supervisor(name, build(world, plan.children, name), **plan.options))
    return specs


def _player(world: Stage, prefix: str, name: str) -> Player:
    return Player(world, f"{prefix}{name}")


async def play(plans: tuple[Plan, ...], strategy: str, steps: list[Step]) -> None:
    """Carry out a program, let it heal, stop it; whatever happens, the rules hold."""
    world = Stage()
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with running(world, *build(world, plans), strategy=strategy, max_restarts=3, max_seconds=5.0) as run:
        machine = Machine(run, world)
        reports: list[tuple[float, Report]] = []

        def note(report: Report) -> None:
            reports.append((trio.current_time(), report))

        run.system.on_report = note
        async with trio.open_nursery() as nursery:
            for step in steps:
                await machine.do(step, nursery)
            await settle()
            machine.check()
            world.forget()
            await trio.sleep(LONG_S)
            machine.check()
            machine.check_healed()
            machine.check_watches()
            began = trio.current_time()
            await run.system.stop(4.0)
            assert trio.current_time() - began <= 4.0 + KILL_GRACE_S + 0.001
            machine.check()
            world.release.set()
    machine.check_messages(reports)
    machine.check_budget(reports)
    assert world.broken == []
    assert trio.lowlevel.current_statistics().tasks_living == tasks

"""Figures for people and for Prometheus: what the machine, the process and the actors are at, and what was spent.

What is told of actors that come and go (sessions' agents, MCP servers) is told of all under one supervisor together,
as `agents/*`, so that the number of time series stays bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec
import trio

from ...runtime import Actor, Message
from ...runtime.cell import Cell
from ...runtime.errors import PocketPawError
from ...runtime.node import Node
from ...runtime.spec import DynamicSupervisor
from ...runtime.supervisor import SupervisorNode
from ...storage.turn_counts import CountTurns
from ...storage.usage import GetUsage, UsageSummary
from ..settings import LiveSettings
from .exposition import by, family, single
from .machine import CpuClock, Footprint, Machine, footprint, look

SAMPLE_S = 0.5
"""How long a look at the machine holds."""

STORE_WAIT_S = 5.0
"""The rest is told without it."""


class GetSystemMetrics(Message[Machine], to="metrics"):
    """What the machine and the daemon's process use now."""


class Exposition(msgspec.Struct, frozen=True):
    text: str


class ScrapeMetrics(Message[Exposition], to="metrics"):
    """Write all figures down in Prometheus's text format."""


class Metrics(Actor):
    """Asks psutil in a thread of its own, and the store for what is kept."""

    concurrency = 4

    def __init__(self, live: LiveSettings) -> None:
        super().__init__()
        self._live = live
        self._thread = trio.CapacityLimiter(1)
        self._clock = CpuClock()
        self._seen: tuple[float, Machine] | None = None

    async def get_system_metrics(self, message: GetSystemMetrics) -> Machine:
        """Look at the machine, or say what was seen just now: over less time its load means nothing."""
        now = self.system.now()
        if self._seen is None or now - self._seen[0] >= SAMPLE_S:
            home = self._live.home.root
            seen = await trio.to_thread.run_sync(look, self._clock, home, limiter=self._thread, abandon_on_cancel=True)
            self._seen = now, seen
        return self._seen[1]

    async def scrape_metrics(self, message: ScrapeMetrics) -> Exposition:
        own = await trio.to_thread.run_sync(footprint, limiter=self._thread, abandon_on_cancel=True)
        parts = [*_of_process(own), *self._of_actors()]
        try:
            usage = await self.ask(GetUsage(), timeout_s=STORE_WAIT_S)
            turns = await self.ask(CountTurns(), timeout_s=STORE_WAIT_S)
        except PocketPawError:
            parts.append(_of_store(is_up=False))
        else:
            parts += [_of_store(is_up=True), *_of_work(usage, turns)]
        return Exposition("".join(parts))

    def _of_actors(self) -> Iterator[str]:
        system = self.system
        nodes = list(system.nodes.values())
        states = Counter((node.kind, node.state) for node in nodes)
        depths, processed, restarts = Counter[str](), Counter[str](), Counter[str]()
        for node in nodes:
            name = _series(node)
            if isinstance(node, Cell):
                depths[name] += len(node.mailbox)
            if not _comes_and_goes(node):
                restarts[name] += node.restarts
                if isinstance(node, Cell):
                    processed[name] += sum(node.processed.values())
        counted = [({"kind": kind, "state": state}, count) for (kind, state), count in sorted(states.items())]
        yield family("pocketpaw_actors", "gauge", "Actors and supervisors by kind and state.", counted)
        yield family(
            "pocketpaw_actor_restarts_total",
            "counter",
            "Restarts by place in the tree; of actors that come and go, none are told.",
            by("actor", restarts),
        )
        yield family("pocketpaw_mailbox_depth", "gauge", "Messages that wait.", by("actor", depths))
        yield family(
            "pocketpaw_messages_handled_total",
            "counter",
            "Messages handled; of actors that come and go, none are told.",
            by("actor", processed),
        )
        letters = {str(reason): count for reason, count in system.dead_letters.counts.items()}
        yield family("pocketpaw_dead_letters_total", "counter", "Messages nobody handled.", by("reason", letters))
        yield single("pocketpaw_abandoned", "gauge", "Incarnations and threads that do not end.", system.abandoned)
        yield single("pocketpaw_loop_lag_seconds", "gauge", "How late the event loop was.", system.watchdog.lag_s)
        yield single("pocketpaw_uptime_seconds", "gauge", "Since the tree was up.", round(system.root.uptime_s, 3))


def _of_process(own: Footprint) -> Iterator[str]:
    """Under the names that Prometheus's own clients use."""
    yield single("process_resident_memory_bytes", "gauge", "Resident memory.", own.rss_bytes)
    yield single("process_threads", "gauge", "Threads of the operating system.", own.threads)
    yield single("process_cpu_seconds_total", "counter", "Time on the processor.", round(own.cpu_seconds, 3))
    yield single("process_start_time_seconds", "gauge", "Start, as seconds since 1970.", own.started_at)
    if own.open_fds is not None:
        yield single("process_open_fds", "gauge", "Open file descriptors.", own.open_fds)


def _of_store(*, is_up: bool) -> str:
    return single("pocketpaw_store_up", "gauge", "Whether the store answers: 1 or 0.", int(is_up))


def _of_work(usage: UsageSummary, turns: dict[str, int]) -> Iterator[str]:
    yield family("pocketpaw_turns", "gauge", "Turns that are kept, by state.", by("state", turns))
    models = sorted(usage.by_model.items())
    tokens = [
        ({"model": model, "direction": direction}, count)
        for model, share in models
        for direction, count in (("input", share.input_tokens), ("output", share.output_tokens))
    ]
    yield family("pocketpaw_tokens_total", "counter", "Tokens by model since the last reset.", tokens)
    costs = {model: share.cost_usd for model, share in models}
    yield family("pocketpaw_cost_usd_total", "counter", "US dollars by model, where known.", by("model", costs))
    replies = {model: share.requests for model, share in models}
    yield family("pocketpaw_replies_total", "counter", "Replies in which a model had a part.", by("model", replies))


def _comes_and_goes(node: Node) -> bool:
    owner = node.owner
    return isinstance(owner, SupervisorNode) and (isinstance(owner.spec, DynamicSupervisor) or _comes_and_goes(owner))


def _series(node: Node) -> str:
    """What a node's figures are told under."""
    if not _comes_and_goes(node):
        return node.title
    owner = node.owner
    assert isinstance(owner, SupervisorNode)
    return f"{owner.path}/*" if not _comes_and_goes(owner) else _series(owner)

"""Figures of the machine and of the actors, and Prometheus's text format."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio
from pocketpaw.actors.metrics import metrics
from pocketpaw.actors.metrics.exposition import by, family, single
from pocketpaw.actors.metrics.machine import CpuClock, Machine, look
from pocketpaw.actors.metrics.metrics import GetSystemMetrics, Metrics, ScrapeMetrics
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.runtime import Actor, ActorSystem, Child, Done, DynamicSupervisor, Message, Supervisor
from pocketpaw.runtime.errors import ActorDied, PocketPawError
from pocketpaw.storage.turns import AddTurn, FinishTurn
from pocketpaw.storage.usage import Usage

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]

SAMPLE = re.compile(r'^([a-z_]+)(?:{((?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)+)})? (-?[0-9.e+-]+|NaN|[+-]Inf)$')


class Fall(Message[Done]):
    """Crash."""


class Faller(Actor):
    def __init__(self, name: str = "") -> None:
        super().__init__()

    async def fall(self, message: Fall) -> Done:
        raise RuntimeError("on purpose")


def samples(text: str) -> dict[str, float]:
    """Every sample by its name with labels; sees to it that the text is what Prometheus takes."""
    found: dict[str, float] = {}
    described: list[str] = []
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("#"):
            _, word, name, rest = line.split(" ", 3)
            assert word in {"HELP", "TYPE"}
            assert rest if word == "HELP" else rest in {"counter", "gauge"}
            described.append(f"{word} {name}")
        else:
            match = SAMPLE.match(line)
            assert match, line
            assert described[-2:] == [f"HELP {match[1]}", f"TYPE {match[1]}"], line
            key = line.rpartition(" ")[0]
            assert key not in found, key
            found[key] = float(match[3])
    assert len(described) == len(set(described))
    return found


def tree(live: LiveSettings, store: Supervisor | None = None) -> Supervisor:
    stores = [] if store is None else [store]
    children = [Child(Faller), DynamicSupervisor("agents", Faller), Child(Metrics, live)]
    return Supervisor("root", [*stores, *children])


async def test_the_machine_and_the_process_are_told(running: Running, live: LiveSettings) -> None:
    async with running(tree(live)) as system:
        told = await system.ask(GetSystemMetrics())
        assert told.available
        assert 0 <= told.cpu.percent <= 100
        assert told.cpu.count >= 1
        for space in (told.memory, told.disk):
            assert 0 < space.used_bytes < space.total_bytes
            assert 0 < space.percent < 100
        assert told.process.rss_bytes > 10_000_000
        assert told.process.threads >= 2
        assert told.uptime_seconds >= told.process.uptime_seconds >= 0


async def test_a_look_at_the_machine_holds_for_a_moment(
    running: Running, live: LiveSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Machine] = []

    def counted(clock: CpuClock, home: Path) -> Machine:
        looks.append(look(clock, home))
        return looks[-1]

    monkeypatch.setattr(metrics, "look", counted)
    async with running(tree(live)) as system:
        monkeypatch.setattr(metrics, "SAMPLE_S", 1000.0)
        assert [await system.ask(GetSystemMetrics()) for _ in range(3)] == looks * 3
        monkeypatch.setattr(metrics, "SAMPLE_S", 0.0)
        await system.ask(GetSystemMetrics())
    assert len(looks) == 2


def test_how_busy_the_cores_were_is_of_the_time_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([(10.0, 100.0), (40.0, 200.0), (40.0, 200.0), (41.0, 300.0)])
    monkeypatch.setattr("pocketpaw.actors.metrics.machine._cpu_seconds", lambda: next(looks))
    clock = CpuClock()
    assert [clock.percent() for _ in range(4)] == [10.0, 30.0, 30.0, 1.0]


async def test_all_figures_are_written_as_prometheus_takes_them(
    running: Running, live: LiveSettings, store: Supervisor
) -> None:
    async with running(tree(live, store)) as system:
        spent = Usage(10, 5, 15, 'odd "model"\n\\', "b", 0.5)
        for turn_id in ("t-0", "t-1"):
            await system.ask(
                AddTurn(
                    session_id=f"s-{turn_id}",
                    turn_id=turn_id,
                    content="hi",
                    channel="api",
                    state="running",
                    boot_id="b",
                    principal="ann",
                )
            )
        await system.ask(FinishTurn(turn_id="t-0", boot_id="b", state="done", content="x", usage=[spent]))
        for name in ("faller", "agents/a", "agents/b"):
            with pytest.raises(ActorDied):
                await system.ask(Fall(), to=name)
        with pytest.raises(PocketPawError):
            await system.ask(Fall(), to="metrics")
        found = samples((await system.ask(ScrapeMetrics())).text)
        model = r'{model="odd \"model\"\n\\"'
        expected = {
            "pocketpaw_store_up": 1,
            'pocketpaw_turns{state="done"}': 1,
            'pocketpaw_turns{state="running"}': 1,
            f'pocketpaw_tokens_total{model},direction="input"}}': 10,
            f'pocketpaw_tokens_total{model},direction="output"}}': 5,
            f"pocketpaw_cost_usd_total{model}}}": 0.5,
            f"pocketpaw_replies_total{model}}}": 1,
            'pocketpaw_actor_restarts_total{actor="faller"}': 1,
            'pocketpaw_actor_restarts_total{actor="store/writer"}': 0,
            'pocketpaw_messages_handled_total{actor="store/writer"}': 3,
            'pocketpaw_mailbox_depth{actor="agents/*"}': 0,
            'pocketpaw_mailbox_depth{actor="metrics"}': 0,
            'pocketpaw_dead_letters_total{reason="unhandled"}': 1,
            "pocketpaw_abandoned": 0,
        }
        assert expected.items() <= found.items(), found
        assert not [name for name in found if "agents/a" in name]
        assert found['pocketpaw_actors{kind="thread",state="running"}'] == 2
        assert found["process_resident_memory_bytes"] > 10_000_000
        assert found["process_open_fds"] > 3
        assert {"pocketpaw_loop_lag_seconds", "process_threads", "process_cpu_seconds_total"} <= found.keys()


async def test_without_the_store_the_rest_is_told(running: Running, live: LiveSettings) -> None:
    async with running(tree(live)) as system:
        with trio.fail_after(5):
            found = samples((await system.ask(ScrapeMetrics())).text)
        assert found["pocketpaw_store_up"] == 0
        assert found['pocketpaw_actor_restarts_total{actor="faller"}'] == 0
        assert not [name for name in found if "turns" in name]


def test_help_and_labels_are_escaped_and_numbers_are_as_they_are() -> None:
    written = family("a_b", "gauge", "1\n2\\", [({"x": '"\n\\'}, 1), ({}, 0.1), ({"x": "y", "z": ""}, float("inf"))])
    assert written.split("\n") == [
        r"# HELP a_b 1\n2\\",
        "# TYPE a_b gauge",
        r'a_b{x="\"\n\\"} 1',
        "a_b 0.1",
        'a_b{x="y",z=""} +Inf',
        "",
    ]
    assert single("n", "counter", "N.", float("nan")).endswith("\nn NaN\n")
    assert family("n", "counter", "N.", by("x", {})) == ""
    assert by("x", {"b": 1, "a": 2}) == [({"x": "a"}, 2), ({"x": "b"}, 1)]

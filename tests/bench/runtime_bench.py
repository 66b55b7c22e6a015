"""Measure the actor runtime against its targets: `python tests/bench/runtime_bench.py [--json] [--rounds 15]`.

Rounds are interleaved, so that a change of the machine's load meets every row alike; a row is the median of its rounds,
and a ratio the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import psutil
import pykka
import trio
from pocketpaw.runtime import Actor, ActorSystem, Child, Done, DynamicSupervisor, Message, Supervisor, ThreadActor

ASKS = 2000
TELLS = 10_000
CRASHES = 50
IDLE_ACTORS = 10_000


class Pong(msgspec.Struct, frozen=True):
    text: str


class Ping(Message[Pong], to="ponger"):
    text: str


class PingThread(Message[Pong], to="thread"):
    text: str


class Crash(Message[Done], to="crasher"):
    pass


class AskOften(Message[Done], to="asker"):
    times: int


class TellOften(Message[Done], to="asker"):
    times: int


class Wake(Message[Done], to="idle/{name}"):
    name: str


class Ponger(Actor):
    async def ping(self, message: Ping) -> Pong:
        return Pong(message.text)


class Asker(Actor):
    async def ask_often(self, message: AskOften) -> Done:
        for _ in range(message.times):
            await self.ask(Ping(text="hello"))
        return Done()

    async def tell_often(self, message: TellOften) -> Done:
        for _ in range(message.times - 1):
            await self.tell(Ping(text="hello"))
        await self.ask(Ping(text="the last"))
        return Done()


class Crasher(Actor):
    async def crash(self, message: Crash | Ping) -> Done | Pong:
        if isinstance(message, Ping):
            return Pong(message.text)
        raise RuntimeError("asked to")


class ThreadPonger(ThreadActor):
    def ping(self, message: PingThread) -> Pong:
        return Pong(message.text)


class Idle(Actor):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    async def wake(self, message: Wake) -> Done:
        return Done()


class PykkaPonger(pykka.ThreadingActor):
    def on_receive(self, message: object) -> object:
        return message


class PykkaAsker(pykka.ThreadingActor):
    def __init__(self, ponger: pykka.ActorRef[PykkaPonger]) -> None:
        super().__init__()
        self.ponger = ponger

    def on_receive(self, message: tuple[str, int]) -> None:
        what, times = message
        if what == "ask":
            for _ in range(times):
                self.ponger.ask(Pong("hello"))
        else:
            for _ in range(times - 1):
                self.ponger.tell(Pong("hello"))
            self.ponger.ask(Pong("the last"))


class PykkaCodecPonger(pykka.ThreadingActor):
    """Shares nothing with its asker, as ours: messages come and go as MessagePack."""

    def on_receive(self, message: bytes) -> bytes:
        return encode(Pong(DECODE_PING(message).text))


class PykkaCodecAsker(pykka.ThreadingActor):
    def __init__(self, ponger: pykka.ActorRef[PykkaCodecPonger]) -> None:
        super().__init__()
        self.ponger = ponger

    def on_receive(self, message: tuple[str, int]) -> None:
        what, times = message
        if what == "ask":
            for _ in range(times):
                answer: Any = self.ponger.ask(encode(Ping(text="hello")))
                DECODE_PONG(answer)
        else:
            for _ in range(times - 1):
                self.ponger.tell(encode(Ping(text="hello")))
            self.ponger.ask(encode(Ping(text="the last")))


encode = msgspec.msgpack.Encoder().encode
DECODE_PING = msgspec.msgpack.Decoder(Ping).decode
DECODE_PONG = msgspec.msgpack.Decoder(Pong).decode


class Row(msgspec.Struct):
    name: str
    value: float
    unit: str
    target: str
    is_met: bool
    peer: float | None = None
    ratio: float | None = None


def rate_of_pykka(asker: pykka.ActorRef[PykkaAsker] | pykka.ActorRef[PykkaCodecAsker], what: str, times: int) -> float:
    started = time.perf_counter()
    asker.ask((what, times))
    return times / (time.perf_counter() - started)


async def rate(work: Callable[[], Awaitable[object]], times: int) -> float:
    started = time.perf_counter()
    await work()
    return times / (time.perf_counter() - started)


async def crash_ms(system: ActorSystem) -> list[float]:
    """From the crash to the next message's answer, both being queued at once."""
    times: list[float] = []
    for _ in range(CRASHES):
        await system.tell(Crash())
        started = time.perf_counter()
        await system.ask(Ping(text="next"), to="crasher")
        times.append((time.perf_counter() - started) * 1000)
    return times


async def idle_actors() -> tuple[float, float]:
    """Bytes of each of many idle actors, and starts per second; in a system of its own."""
    system = ActorSystem(Supervisor("root", [DynamicSupervisor("idle", Idle)]))
    async with trio.open_nursery() as nursery:
        await nursery.start(system.run)
        await system.ask(Wake(name="warm-up"))
        gc.collect()
        before = psutil.Process().memory_info().rss
        started = time.perf_counter()
        for number in range(IDLE_ACTORS):
            await system.tell(Wake(name=f"s-{number}"))
        await system.ask(Wake(name=f"s-{IDLE_ACTORS - 1}"))
        took_s = time.perf_counter() - started
        gc.collect()
        each = (psutil.Process().memory_info().rss - before) / IDLE_ACTORS
        await system.stop(60)
    return each, IDLE_ACTORS / took_s


async def measure(rounds: int) -> list[Row]:
    each_bytes, starts_s = await idle_actors()  # first, while no freed memory is there to be used again
    sys.setswitchinterval(0.005)  # pykka's rows with the interpreter's default
    ponger = PykkaPonger.start()
    pykka_asker = PykkaAsker.start(ponger)
    codec_asker = PykkaCodecAsker.start(PykkaCodecPonger.start())
    figures: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)

    crasher = Child(Crasher, max_restarts=10**9)
    system = ActorSystem(Supervisor("root", [Child(Ponger), Child(Asker), crasher, Child(ThreadPonger, id="thread")]))
    async with trio.open_nursery() as nursery:
        await nursery.start(system.run)
        crashes: list[float] = []
        for _ in range(rounds):
            note("pykka ask", await trio.to_thread.run_sync(rate_of_pykka, pykka_asker, "ask", ASKS))
            note("ask", await rate(lambda: system.ask(AskOften(times=ASKS)), ASKS))
            note("pykka tell", await trio.to_thread.run_sync(rate_of_pykka, pykka_asker, "tell", TELLS))
            note("tell", await rate(lambda: system.ask(TellOften(times=TELLS)), TELLS))
            note("codec ask", await trio.to_thread.run_sync(rate_of_pykka, codec_asker, "ask", ASKS))
            note("codec tell", await trio.to_thread.run_sync(rate_of_pykka, codec_asker, "tell", TELLS))
            note("thread ask", await rate(lambda: ask_thread(system), ASKS // 4))
            crashes += await crash_ms(system)
        await system.stop()
    pykka.ActorRegistry.stop_all()

    def ratio(ours: str, theirs: str) -> float:
        return statistics.median(a / b for a, b in zip(figures[ours], figures[theirs], strict=True))

    def row(name: str, least_ratio: float) -> Row:
        theirs, against = statistics.median(figures[f"pykka {name}"]), ratio(name, f"pykka {name}")
        value, target = statistics.median(figures[name]), f">= {least_ratio:g} x pykka"
        return Row(name, value, "/s", target, against >= least_ratio, theirs, against)

    def fair_row(name: str) -> Row:
        theirs, against = statistics.median(figures[f"codec {name}"]), ratio(name, f"codec {name}")
        value = statistics.median(figures[name])
        return Row(f"{name}, pykka with MessagePack too", value, "/s", "(for scale)", True, theirs, against)

    crash = statistics.median(crashes)
    thread = statistics.median(figures["thread ask"])
    return [
        row("ask", 2),
        row("tell", 4),
        fair_row("ask"),
        fair_row("tell"),
        Row("crash to the next answer, median", crash, "ms", "< 2 ms", crash < 2),
        Row("idle actor", each_bytes / 1024, "KiB", "<= 10 KB", each_bytes <= 10_000),
        Row("actor starts", starts_s, "/s", ">= 10,000/s", starts_s >= 10_000),
        Row("ask a thread actor from the loop", thread, "/s", "(for scale)", is_met=True),
    ]


async def ask_thread(system: ActorSystem) -> None:
    for _ in range(ASKS // 4):
        await system.ask(PingThread(text="hello"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    rows = trio.run(measure, arguments.rounds)
    if arguments.json:
        print(json.dumps([msgspec.to_builtins(row) for row in rows], indent=2))
        return
    print(f"{'':36}{'here':>12}{'pykka':>12}{'ratio':>8}  target")
    for row in rows:
        peer = f"{row.peer:,.0f}" if row.peer is not None else ""
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
        value = f"{row.value:,.0f}" if row.value >= 100 else f"{row.value:.2f}"
        verdict = "" if row.is_met else "MISSED"
        print(f"{row.name:36}{value + ' ' + row.unit:>12}{peer:>12}{ratio:>8}  {row.target:16}{verdict}")


if __name__ == "__main__":
    main()

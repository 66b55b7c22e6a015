"""The daemon's rows: start, memory, chats and GETs, round by round beside the PocketPaw package where there is one."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from client import Client, chat_overhead_ms, chats_per_s
from figures import Figures
from harness import ENDPOINTS, Harness, Sizes
from reads import MORE_ENDPOINTS, load_more
from row import Row
from server import InstantModel, Server, free_port, our_server, wrk_per_s

CHATS = 800
SETTLE_S = 10.0
DRIFT = 1.3
FOREIGN_PERCENT = 25.0
"""Beyond such a change of the machine's speed in one round, or such a use by others, the rows say so."""
MODEL = Path(__file__).parents[1] / "fakes/model_server.py"


class Plan(msgspec.Struct, frozen=True):
    rounds: int
    starts: int
    overhead_chats: int
    load: Sizes


class Round(msgspec.Struct):
    ours: Figures
    peer: Figures | None = None


def measure(plan: Plan, binary: Path, state: Path, harness: Harness | None) -> list[Round]:
    """Run the rounds, A B A B: the starts in turn, then the loads one server after the other."""
    if harness is not None:
        harness.set_up()
    model = harness.start_model() if harness is not None else _own_model()
    try:
        ours = our_server(binary, state / "home-ours", model_port=model.port)
        servers = [harness.peer(), ours] if harness is not None else [ours]
        return [_round(number, plan, servers, model, harness) for number in range(plan.rounds)]
    finally:
        model.stop()


def rows(rounds: Sequence[Round]) -> list[Row]:
    def row(name: str, target: str, unit: str, least: float, of: Callable[[Figures], float], *, up: bool) -> Row:
        value = statistics.median(of(each.ours) for each in rounds)
        pairs = [(of(each.ours), of(each.peer)) for each in rounds if each.peer is not None]
        if not pairs:
            return Row(name=name, target=target, value=value, unit=unit, note="no peer")
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        is_met = ratio >= least if up else ratio <= least
        peer = statistics.median(theirs for _, theirs in pairs)
        return Row(name=name, target=target, value=value, unit=unit, peer=peer, ratio=ratio, is_met=is_met)

    table = [
        row("start to the first 200 on /health", "<= 0.5 x", "s", 0.5, _start_s, up=False),
        row("idle memory", "<= 0.7 x", "MB", 0.7, lambda it: it.idle_mb, up=False),
        row("chats, concurrency 8", ">= 20 x", "/s", 20, lambda it: it.chats_per_s, up=True),
        row("blocking chat, over asking the model", "<= 0.05 x", "ms", 0.05, lambda it: it.overhead_ms, up=False),
        _memory_row(rounds),
    ]
    for path in (*ENDPOINTS, *MORE_ENDPOINTS):
        note = _unanswered(rounds[0], path)
        for load in (f"GET {path}, c1", f"GET {path}, c16"):
            if note:
                table.append(Row(name=load, target=">= 1 x", note=note))
            elif load in rounds[0].ours.gets_per_s:
                table.append(row(load, ">= 1 x", "/s", 1, lambda it, load=load: it.gets_per_s[load], up=True))
    if any(_is_disturbed(each) for each in rounds):
        for each in table:
            each.note = each.note or "machine disturbed"
    return table


def _unanswered(round_: Round, path: str) -> str:
    """Why the rates of an endpoint cannot be compared, if they cannot."""
    for who, figures in (("answers", round_.ours), ("the peer answers", round_.peer)):
        if figures is not None and path in figures.unanswered:
            return f"{who} {figures.unanswered[path]}"
    return ""


def _round(number: int, plan: Plan, servers: Sequence[Server], model: InstantModel, harness: Harness | None) -> Round:
    for server in servers:
        server.make_home()
    starts: dict[str, list[float]] = {server.name: [] for server in servers}
    for attempt in range(plan.starts + 1):
        for server in servers:
            took_s = server.start()
            server.stop()
            if attempt:  # the first one fills caches
                starts[server.name].append(took_s)
    found: dict[str, Figures] = {}
    for server in servers:
        print(f"round {number + 1} of {plan.rounds}: {server.name}", flush=True)
        found[server.name] = _load(server, plan, model, harness)
        found[server.name].starts_s = starts[server.name]
    return Round(found["ours"], found.get("PocketPaw"))


def _load(server: Server, plan: Plan, model: InstantModel, harness: Harness | None) -> Figures:
    server.make_home()
    server.start()
    try:
        time.sleep(SETTLE_S)
        if harness is not None:
            chats = plan.load.our_chats if server.name == "ours" else plan.load.peer_chats
            figures = harness.load(server, plan.load, chats, has_wrk=shutil.which("wrk") is not None)
        else:
            figures = _own_load(server, plan)
        client = Client(server.port, many_addresses=server.many_addresses)
        figures.overhead_ms = chat_overhead_ms(client, model.port, plan.overhead_chats)
        if server.name == "ours":
            _top_up(server, client, figures)
        figures.chats = _sessions(client)
        load_more(server, max(1, plan.load.wrk_s // 2), figures)
        return figures
    finally:
        server.stop()


def _top_up(server: Server, client: Client, figures: Figures) -> None:
    """Have the rest of the chats whose memory is to be measured."""
    missing = CHATS - _sessions(client)
    if missing > 0:
        chats_per_s(server.port, missing, 8)
        time.sleep(SETTLE_S)
    figures.loaded_mb = max(figures.loaded_mb, server.memory_mb())


def _own_load(server: Server, plan: Plan) -> Figures:
    """What is measured where there is no harness."""
    idle_mb = server.memory_mb()
    client = Client(server.port)
    chats_per_s(server.port, 8, 4)
    figures = Figures(idle_mb=idle_mb, chats_per_s=chats_per_s(server.port, plan.load.our_chats * 2, 8), loaded_mb=0.0)
    for path in ENDPOINTS:
        status, _ = client.request("GET", f"/api/v1{path}")
        if status != 200:
            figures.unanswered[path] = status
        elif shutil.which("wrk") is not None:
            for connections in (1, 16):
                per_s = wrk_per_s(server.port, path, connections, plan.load.wrk_s)
                figures.gets_per_s[f"GET {path}, c{connections}"] = per_s
    figures.loaded_mb = server.memory_mb()
    return figures


def _own_model() -> InstantModel:
    return InstantModel([sys.executable, str(MODEL)], free_port())


def _sessions(client: Client) -> int:
    """How many there are: as many as there were chats."""
    return int(json.loads(client.get("/sessions?limit=1"))["total"])


def _memory_row(rounds: Sequence[Round]) -> Row:
    """Its target is of ours alone: the peer's growth is shown beside it."""
    growth = statistics.median(each.ours.loaded_mb / each.ours.idle_mb for each in rounds)
    peers = [each.peer.loaded_mb / each.peer.idle_mb for each in rounds if each.peer is not None]
    chats = min(each.ours.chats for each in rounds)
    return Row(
        name=f"memory after {chats} chats",
        target="<= 1.3 x idle",
        value=growth,
        unit="x idle",
        peer=statistics.median(peers) if peers else None,
        is_met=growth <= 1.3,
    )


def _start_s(figures: Figures) -> float:
    return statistics.median(figures.starts_s)


def _is_disturbed(round_: Round) -> bool:
    """Whether the machine was not the same for both servers: slower for one, or busy with something else."""
    both = [figures for figures in (round_.ours, round_.peer) if figures is not None and figures.calibration_ms]
    speeds = [statistics.median(figures.calibration_ms) for figures in both]
    is_used = any(figures.foreign_percent > FOREIGN_PERCENT for figures in both)
    return is_used or (len(speeds) == 2 and max(speeds) > DRIFT * min(speeds))

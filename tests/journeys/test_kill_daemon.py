"""SIGKILL the daemon at every point of a turn: nothing acknowledged is lost, nothing is answered twice."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

import httpx2
import msgspec
import pytest

from ..fakes.model_server import Reply
from .conftest import MakeDaemon
from .daemon import Daemon, with_model_server
from .model_server_process import ModelServerProcess

POINTS = ("received", "stored", "dispatched", "model started", "streaming", "reply stored", "answered")
SESSIONS = 4
SOAK_ROUNDS = 15  # of each point: 105 kills
SETTLE_S = 20.0


@dataclass
class Round:
    """What the clients of one round said and saw, and the moment of the kill."""

    point: str
    sent: dict[str, str] = field(default_factory=dict[str, str])  # content by session
    acknowledged: set[str] = field(default_factory=set[str])
    answered: dict[str, str] = field(default_factory=dict[str, str])
    reached: threading.Event = field(default_factory=threading.Event)

    def saw(self, point: str) -> None:
        if point == self.point:
            self.reached.set()


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_daemon_loses_nothing_and_answers_nothing_twice(
    point: str, make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    sweep(point, 1, make_daemon, model_server)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("point", POINTS)
def test_a_daemon_killed_again_and_again_loses_nothing_and_answers_nothing_twice(
    point: str, make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    sweep(point, SOAK_ROUNDS, make_daemon, model_server)


def sweep(point: str, rounds: int, make_daemon: MakeDaemon, model_server: ModelServerProcess) -> None:
    model_server.answer_always(Reply(chunks=5, delay_s=0.05, chunk_delay_s=0.01))
    daemon = make_daemon(settings=with_model_server(model_server.base_url))
    daemon.start()
    for number in range(rounds):
        check(daemon, kill_in_a_round(daemon, model_server, point, number))


def kill_in_a_round(daemon: Daemon, model_server: ModelServerProcess, point: str, number: int) -> Round:
    round_ = Round(point)
    chats_before = model_server.stats().chats
    clients = [
        threading.Thread(target=talk, args=(daemon.url, round_, f"s-{point.replace(' ', '-')}-{number}-{i}"))
        for i in range(SESSIONS)
    ]
    for client in clients:
        client.start()
    watch(daemon, model_server, round_, chats_before)
    daemon.kill()
    for client in clients:
        client.join()
    daemon.start()
    return round_


def watch(daemon: Daemon, model_server: ModelServerProcess, round_: Round, chats_before: int) -> None:
    """Return when the round's point is reached."""
    if round_.point == "received":
        time.sleep(random.uniform(0, 0.01))
    elif round_.point == "dispatched":
        round_.point = "stored"
        round_.reached.wait(10)
        time.sleep(random.uniform(0, 0.02))
    elif round_.point == "model started":
        wait_until(lambda: model_server.stats().chats > chats_before)
    elif round_.point == "reply stored":
        before = count(daemon, "SELECT count(*) FROM messages WHERE role = 'assistant'")
        wait_until(lambda: count(daemon, "SELECT count(*) FROM messages WHERE role = 'assistant'") > before)
    else:
        assert round_.reached.wait(10), f"nobody came to {round_.point!r}:\n{daemon.log}"


def talk(url: str, round_: Round, session_id: str) -> None:
    """Say one thing and follow its answer, until the daemon dies."""
    content = f"what is {session_id}?"
    round_.sent[session_id] = content
    body = {"content": content, "session_id": session_id}
    try:
        with (
            httpx2.Client(base_url=url, trust_env=False, timeout=20) as client,
            client.stream("POST", "/api/v1/chat/stream", json=body) as response,
        ):
            for line in response.iter_lines():
                if line == "event: stream_start":
                    round_.acknowledged.add(session_id)
                    round_.saw("stored")
                elif line == "event: chunk":
                    round_.saw("streaming")
                elif line == "event: stream_end":
                    round_.answered[session_id] = "whole"
                    round_.saw("answered")
    except httpx2.TransportError:
        pass  # the daemon has been killed: that is what this is about


def check(daemon: Daemon, round_: Round) -> None:
    """Whatever was acknowledged is there once and answered once; nothing is left half done; the file is sound."""
    wait_until(lambda: count(daemon, "SELECT count(*) FROM turns WHERE state IN ('pending', 'running')") == 0)
    with daemon.http as client:
        for session_id, content in round_.sent.items():
            response = client.get(f"/api/v1/sessions/{session_id}/history")
            if response.status_code == 404:
                assert session_id not in round_.acknowledged, f"{session_id} was acknowledged and is gone"
                continue
            said = msgspec.convert(response.json(), list[dict[str, object]])
            texts = [(message["role"], message["content"]) for message in said]
            assert texts == [("user", content), ("assistant", f"echo: {content}")], (round_.point, session_id, texts)
    with closing(sqlite3.connect(daemon.home.database)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def count(daemon: Daemon, query: str) -> int:
    with closing(sqlite3.connect(f"file:{daemon.home.database}?mode=ro", uri=True, timeout=5)) as database:
        return database.execute(query).fetchone()[0]


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SETTLE_S
    while not holds():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.002)

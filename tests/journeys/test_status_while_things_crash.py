"""`pocketpaw status` and GET runtime/tree while actors crash, park, queue and are killed: what they show is so."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import httpx2
import msgspec

from .daemon import Daemon
from .faults import misbehave, wait_until
from .tree import Node, node_of, tree_of

STATES = {"running", "idle", "ignored", "starting", "stopping", "stopped", "crashed", "backoff", "parked"}
HOLD_S = 3.0
"""For `pocketpaw status` to be run twice."""


def status_of(daemon: Daemon) -> Node:
    shown = daemon.run("status", "--json")
    assert shown.returncode == 0, shown.stderr
    return msgspec.json.decode(shown.stdout, type=Node)


def row_of(daemon: Daemon, name: str) -> list[str]:
    """What the table shows of an actor: kind, state, life, restarts, mail, and the rest."""
    lines = daemon.run("status").stdout.splitlines()
    return next(line.split()[1:] for line in lines if line.split()[0] == name)


def test_a_crash_loop_is_shown_as_it_goes_until_it_is_parked(faulty: Daemon) -> None:
    with faulty.http as http:
        seen: list[Node] = [node_of(http, "faulty/looping")]
        assert misbehave(http, "looping", "crash_loop", times=3).status_code == 503

        def is_parked() -> bool:
            seen.append(node_of(http, "faulty/looping"))
            return seen[-1].state == "parked"

        wait_until(is_parked)
        states = [node.state for node in seen]
        assert states[0] == "running"
        assert {"backoff", "parked"} <= set(states) <= {"running", "crashed", "backoff", "starting", "parked"}
        assert [node.incarnation for node in seen] == sorted(node.incarnation for node in seen)
        for node in seen:
            assert node.restarts == node.incarnation - 1
            lives_ended = node.incarnation - (node.state in ("running", "starting"))
            said = None if lives_ended == 0 else "begins to crash" if lives_ended == 1 else "does not start"
            assert node.last_error == (None if said is None else f"PlannedFailure: it {said}")
        parked = status_of(faulty).at("faulty/looping")
        assert (parked.state, parked.incarnation, parked.restarts) == ("parked", 4, 3)
        assert row_of(faulty, "looping")[:4] == ["trio", "parked", "4", "3"]
        refused = misbehave(http, "looping", "wait")
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        wait_until(lambda: "actors:faulty/looping" in http.get("/api/v1/health").text)
        http.post("/api/v1/runtime/actors/faulty/looping/restart").raise_for_status()
        healed = status_of(faulty).at("faulty/looping")
        assert (healed.state, healed.incarnation, healed.restarts) == ("running", 5, 4)
        wait_until(lambda: "actors:faulty/looping" not in http.get("/api/v1/health").text)


def test_a_busy_mailbox_shows_what_waits(faulty: Daemon) -> None:
    waiting = 5
    with faulty.http as http, ThreadPoolExecutor(waiting + 1) as people:
        before = mail_of(http)
        assert before == (0, 0)
        first = people.submit(misbehave, http, "busy", "wait", seconds=HOLD_S)
        time.sleep(0.3)  # until it is in hand
        others = [people.submit(misbehave, http, "busy", "wait") for _ in range(waiting)]
        wait_until(lambda: mail_of(http) == (waiting, 0))
        assert row_of(faulty, "busy")[4] == f"{waiting}/1000"
        mailbox = status_of(faulty).at("faulty/busy").mailbox
        assert mailbox is not None
        assert mailbox.depth == waiting
        assert not first.done(), "it was busy all the while"
        assert [asked.result().status_code for asked in (first, *others)] == [200] * (waiting + 1)
        assert mail_of(http) == (0, waiting + 1)


def mail_of(http: httpx2.Client) -> tuple[int, int | None]:
    """How much waits for the busy actor, and how much it has done."""
    busy = node_of(http, "faulty/busy")
    assert busy.mailbox is not None
    return busy.mailbox.depth, busy.processed


def test_a_killed_process_is_shown_with_its_error_and_then_with_another_number(faulty: Daemon) -> None:
    with faulty.http as http:
        assert node_of(http, "models/embedded").pid is None
        http.post("/api/v1/chat", json={"content": "Say hello."}).raise_for_status()
        first = status_of(faulty).at("models/embedded")
        assert (first.kind, first.state, first.incarnation, first.last_error) == ("process", "running", 1, None)
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        wait_until(lambda: node_of(http, "models/embedded").incarnation == 2)
        wait_until(lambda: node_of(http, "models/embedded").state == "running")
        second = status_of(faulty).at("models/embedded")
        assert (second.restarts, second.incarnation) == (1, 2)
        assert second.pid not in (None, first.pid)
        assert f"process {first.pid} was killed by SIGKILL" in str(second.last_error)


def test_in_a_storm_of_crashes_every_view_is_whole_and_agrees_with_itself(faulty: Daemon) -> None:
    over = threading.Event()

    def crash(actor: str, how: str) -> int:
        crashes = 0
        with faulty.http as http:
            while not over.is_set():
                crashes += "crashed (PlannedEnd" in misbehave(http, actor, how).json()["detail"]
        return crashes

    with faulty.http as http, ThreadPoolExecutor(4) as storm:
        before = tree_of(http)
        crashing = {actor: storm.submit(crash, actor, "end") for actor in ("task", "thread")}
        views = [tree_of(http) for _ in range(50)]
        views.append(status_of(faulty))
        over.set()
        for view, later in pairwise(views):
            assert {node.state for node in view.walk()} <= STATES
            lives, later_lives = view.lives(), later.lives()
            assert all(lives[path] <= later_lives[path] for path in lives)
        for actor, crashes in crashing.items():
            path = f"faulty/{actor}"
            wait_until(lambda path=path: node_of(http, path).state == "parked")
            parked = node_of(http, path)
            assert parked.restarts - before.at(path).restarts == crashes.result() - 1, "the last crash parked it"
            assert parked.restarts == parked.incarnation - 1
            assert parked.last_error == "PlannedEnd: a " + actor + "'s handler raises a BaseException"
            http.post(f"/api/v1/runtime/actors/{path}/restart").raise_for_status()
            assert node_of(http, path).state == "running"
        others = {path: life for path, life in before.lives().items() if path not in ("faulty/task", "faulty/thread")}
        assert {path: life for path, life in tree_of(http).lives().items() if path in others} == others

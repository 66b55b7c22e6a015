"""Whatever fails, hangs or blocks in one place: its siblings live on, the API answers, and health names the culprit."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx2
import pytest
import trio

from .conftest import start_faulty_daemon
from .daemon import Daemon
from .faults import misbehave, wait_until
from .tree import node_of, tree_of

BACK_WITHIN_S = 1.0
ANSWERS_WITHIN_S = 0.25
"""The 99th percentile of GET /health while a thread is blocked."""
REQUESTS = 200
SLEEP_S = 5.0
PATIENCE_S = 20.0

Error = dict[str, Any]


@contextmanager
def only_restarting(daemon: Daemon, *paths: str) -> Generator[None]:
    """See that in the block these actors, and no others, begin a new life, and that the daemon goes on."""
    with daemon.http as http:
        before = tree_of(http).lives()
    yield
    with daemon.http as http:
        wait_until(lambda: all(node.state in ("running", "idle", "ignored") for node in tree_of(http).walk()))
        after = tree_of(http).lives()
        assert {path for path in after if after[path] != before[path]} == set(paths)
        assert http.get("/health").status_code == 200
    assert daemon.is_running


def errors(http: httpx2.Client, search: str) -> list[Error]:
    return http.get("/api/v1/health/errors", params={"search": search, "limit": 100}).raise_for_status().json()


def error_of(http: httpx2.Client, source: str, text: str) -> Error:
    """The latest error of `source` with that text, as soon as it is there."""
    wait_until(lambda: any(error["source"] == source for error in errors(http, text)))
    return next(error for error in errors(http, text) if error["source"] == source)


def time_until_life(daemon: Daemon, life: int) -> float:
    """How long until a new connection is answered by that incarnation of the listener."""
    started = time.monotonic()
    while True:
        try:
            with daemon.http as http:
                if node_of(http, "http").incarnation == life:
                    return time.monotonic() - started
        except httpx2.TransportError:
            pass  # it does not listen at this moment
        assert time.monotonic() < started + PATIENCE_S, daemon.log
        time.sleep(0.005)


# A connection ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "raised"),
    [
        ("raise", "a request's handler raises"),
        ("end", "a request's handler raises a BaseException"),
        ("stream", "a stream fails"),
        ("stream_end", "a stream raises a BaseException"),
    ],
)
def test_what_fails_in_one_connection_is_that_connections_own(faulty: Daemon, how: str, raised: str) -> None:
    with only_restarting(faulty), faulty.http as other, faulty.http as http:
        assert other.get("/health").status_code == 200
        try:
            answer = http.post("/api/v1/faults", json={"how": how})
        except httpx2.RemoteProtocolError:
            assert how.startswith("stream")  # its end never came, and the client can tell
        else:
            assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
            assert "Planned" not in answer.text
        assert other.get("/health").status_code == 200, "the other connection is as it was"
        error = error_of(http, "http", raised)
        assert "faulty_daemon.py" in error["traceback"]


def test_the_listener_is_back_within_a_second_after_it_crashed(faulty: Daemon) -> None:
    with only_restarting(faulty, "http"), faulty.http as http:
        url, life = faulty.url, node_of(http, "http").incarnation
        with suppress(httpx2.TransportError):  # the answer may still get out
            http.post("/api/v1/faults", json={"how": "listener"})
        took_s = time_until_life(faulty, life + 1)
        assert took_s < BACK_WITHIN_S
        with faulty.http as again:
            assert error_of(again, "http", "the listener is killed")
        assert faulty.url == url
        print(f"\nlistener back after its crash: {took_s:.3f} s")


def test_the_listener_is_back_within_a_second_after_an_operator_restarts_it(faulty: Daemon) -> None:
    with (
        only_restarting(faulty, "http"),
        faulty.http as http,
        faulty.http as idle,
        faulty.http as listening,
        listening.stream("GET", "/api/v1/events/stream") as events,
    ):
        assert events.status_code == 200
        url, life = faulty.url, node_of(http, "http").incarnation
        assert idle.get("/health").status_code == 200
        restart = threading.Thread(target=http.post, args=("/api/v1/runtime/actors/http/restart",))
        restart.start()
        took_s = time_until_life(faulty, life + 1)
        restart.join()
        assert took_s < BACK_WITHIN_S
        assert faulty.url == url
        print(f"\nlistener back after an operator's restart: {took_s:.3f} s")


# Handlers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("actor", ["task", "thread"])
@pytest.mark.parametrize(("how", "raised"), [("raise", "PlannedFailure"), ("end", "PlannedEnd")])
def test_a_crash_is_its_actors_own_and_is_told_with_its_stack(
    faulty: Daemon, actor: str, how: str, raised: str
) -> None:
    path = f"faulty/{actor}"
    with only_restarting(faulty, path), faulty.http as http:
        answer = misbehave(http, actor, how)
        assert (answer.status_code, answer.json()["code"]) == (503, "actor_died")
        error = error_of(http, path, raised)
        assert "in misbehave" in error["traceback"]
        assert raised in str(node_of(http, path).last_error)
        assert misbehave(http, actor, "wait").status_code == 200, "its next life works"


def test_a_handler_that_never_returns_is_ended_and_named(faulty: Daemon) -> None:
    with only_restarting(faulty, "faulty/task"), faulty.http as http:
        answer = misbehave(http, "task", "hang")
        assert (answer.status_code, answer.json()["code"]) == (503, "actor_died")
        error = error_of(http, "faulty/task", "HandlerTimeout")
        assert "Misbehave took longer than 0.5 s" in error["message"]
        assert "in misbehave" in error["traceback"]
        assert misbehave(http, "task", "wait").status_code == 200


def test_a_task_that_holds_up_the_loop_is_named_with_its_stack(faulty: Daemon) -> None:
    with only_restarting(faulty), faulty.http as http:
        assert misbehave(http, "task", "block", seconds=1.0).status_code == 200
        error = error_of(http, "faulty/task", "the loop stood still")
        assert "hold_up_the_loop" in error["traceback"]
        wait_until(lambda: "event_loop:faulty/task" in issues(http))


def issues(http: httpx2.Client) -> dict[str, str]:
    """What the health engine finds wrong now, by the check's id."""
    view = http.get("/api/v1/health").raise_for_status().json()
    return {issue["check_id"]: issue["message"] for issue in view["issues"]}


async def test_a_thread_that_sleeps_slows_nobody_and_is_named_with_its_stack(faulty: Daemon) -> None:
    with only_restarting(faulty):
        took_s = await ask_health_while_a_thread_sleeps(faulty.url)
        with faulty.http as http:
            error = error_of(http, "faulty/thread", "has been running for")
            assert "sleep_on_the_thread" in error["traceback"]
    assert len(took_s) >= REQUESTS
    p50, p99 = (quantiles(took_s, n=100)[at] for at in (49, 98))
    print(f"\n/health while a thread sleeps: {len(took_s)} requests, p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms")
    assert p99 < ANSWERS_WITHIN_S


async def ask_health_while_a_thread_sleeps(url: str) -> list[float]:
    """How long each request took."""
    took_s: list[float] = []
    async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=30) as client, trio.open_nursery() as nursery:
        body = {"how": "block", "seconds": SLEEP_S}
        nursery.start_soon(lambda: client.post("/api/v1/faults/thread", json=body))
        until = trio.current_time() + SLEEP_S
        while trio.current_time() < until:
            before = time.perf_counter()
            assert (await client.get("/health")).status_code == 200
            took_s.append(time.perf_counter() - before)
            await trio.sleep(0.01)
    return took_s


# Stops ----------------------------------------------------------------------------------------------------------------


def test_a_stop_that_never_returns_is_cut_short(faulty: Daemon) -> None:
    with only_restarting(faulty, "faulty/reluctant"), faulty.http as http:
        assert misbehave(http, "reluctant", "hang").status_code == 200
        before = time.monotonic()
        assert http.post("/api/v1/runtime/actors/faulty/reluctant/restart").json()["incarnation"] == 2
        assert time.monotonic() - before < 10.0
        assert error_of(http, "faulty/reluctant", "killed")


def test_a_stop_that_cannot_even_be_cancelled_is_left_behind_and_counted(tmp_path: Path) -> None:
    daemon = start_faulty_daemon(tmp_path)
    try:
        with only_restarting(daemon, "faulty/stubborn"), daemon.http as http:
            assert misbehave(http, "stubborn", "hang").status_code == 200
            http.post("/api/v1/runtime/actors/faulty/stubborn/restart").raise_for_status()
            wait_until(lambda: node_of(http, "faulty/stubborn").incarnation == 2)
            assert "was abandoned" in error_of(http, "faulty/stubborn", "abandoned")["message"]
            wait_until(lambda: "actors:abandoned" in issues(http))
            assert misbehave(http, "stubborn", "wait").status_code == 200
        assert daemon.stop() == 1
        assert "left behind" in daemon.log
    finally:
        daemon.close()

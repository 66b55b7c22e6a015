"""SIGKILL the daemon before, during and after what is due: it comes once, late if need be."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing

import httpx2
import pytest

from ..fakes.model_server import Reply
from .conftest import MakeDaemon
from .daemon import Daemon, with_model_server
from .model_server_process import ModelServerProcess

SETTLE_S = 20.0


def ask(daemon: Daemon, method: str, path: str, body: object = None) -> httpx2.Response:
    with daemon.http as client:
        return client.request(method, f"/api/v1{path}", json=body)


def history(daemon: Daemon, session_id: str) -> list[dict[str, object]]:
    answer = ask(daemon, "GET", f"/sessions/{session_id}/history?limit=100")
    return answer.json() if answer.status_code == 200 else []


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + SETTLE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def ledger(daemon: Daemon) -> list[tuple[str, str]]:
    """The job and the state of each run."""
    with closing(sqlite3.connect(daemon.home.database)) as connection:
        return connection.execute("SELECT job_id, state FROM runs").fetchall()


def test_reminders_come_once_however_the_daemon_dies(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.start()
    session_id = ask(daemon, "POST", "/sessions", {}).json()["id"]
    for seconds in (1, 2, 3, 4):
        words = f"in {seconds} seconds number {seconds}"
        made = ask(daemon, "POST", "/reminders", {"message": words, "session_id": session_id})
        assert made.status_code == 200
    wait_until(lambda: len(history(daemon, session_id)) >= 1)
    daemon.kill()
    time.sleep(4.0)
    daemon.start()
    wait_until(lambda: len(history(daemon, session_id)) >= 4)
    daemon.kill()
    daemon.start()
    time.sleep(1.0)
    said = [str(message["content"]) for message in history(daemon, session_id)]
    assert sorted(said) == [f"Reminder: Number {number}" for number in (1, 2, 3, 4)]
    assert ask(daemon, "GET", "/reminders").json() == {"reminders": []}
    assert [state for _, state in ledger(daemon)] == ["done"] * 4


@pytest.mark.parametrize("after_s", [0.0, 0.2, 0.6])
def test_an_intention_that_is_cut_off_is_carried_out_once(
    make_daemon: MakeDaemon, model_server: ModelServerProcess, after_s: float
) -> None:
    model_server.answer_always(Reply(chunks=5, delay_s=0.1, chunk_delay_s=0.1))
    daemon = make_daemon(settings=with_model_server(model_server.base_url))
    daemon.start()
    intention = {"name": "Brief", "prompt": "write it", "trigger": {"type": "cron", "schedule": "0 0 1 1 *"}}
    intention_id = ask(daemon, "POST", "/intentions", intention).json()["intention"]["id"]
    session_id = ask(daemon, "POST", f"/intentions/{intention_id}/run").json()["session_id"]
    time.sleep(after_s)
    daemon.kill()
    daemon.start()
    wait_until(lambda: ledger(daemon) == [(intention_id, "done")])
    assert [message["role"] for message in history(daemon, session_id)] == ["user", "assistant"]

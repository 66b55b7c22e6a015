"""SIGKILL the daemon before, during and after what is due: it comes once, late if need be."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

import httpx2
import pytest

from ..fakes.model_server import Reply
from .conftest import MakeDaemon
from .daemon import Daemon, with_model_server
from .model_server_process import ModelServerProcess

SETTLE_S = 20.0


def history(client: httpx2.Client, session_id: str) -> list[dict[str, object]]:
    answer = client.get(f"/api/v1/sessions/{session_id}/history", params={"limit": 100})
    return answer.json() if answer.status_code == 200 else []


def wait_for(client: httpx2.Client, session_id: str, messages: int) -> list[dict[str, object]]:
    until = time.monotonic() + SETTLE_S
    while len(said := history(client, session_id)) < messages:
        assert time.monotonic() < until, said
        time.sleep(0.05)
    return said


def ledger(daemon: Daemon) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(daemon.home / "pocketpaw.db")) as connection:
        return connection.execute("SELECT job_id, state FROM runs").fetchall()


def test_reminders_come_once_however_the_daemon_dies(make_daemon: MakeDaemon, model_server: ModelServerProcess) -> None:
    daemon = make_daemon(settings=with_model_server(model_server.base_url))
    daemon.start()
    with daemon.http() as client:
        session_id = client.post("/api/v1/sessions", json={}).json()["id"]
        for seconds in (1, 2, 3, 4):
            words = f"in {seconds} seconds number {seconds}"
            assert client.post("/api/v1/reminders", json={"message": words, "session_id": session_id}).is_success
        wait_for(client, session_id, 1)
    daemon.kill()
    time.sleep(4.0)
    daemon.start()
    with daemon.http() as client:
        assert len(wait_for(client, session_id, 4)) == 4
    daemon.kill()
    daemon.start()
    with daemon.http() as client:
        time.sleep(1.0)
        said = history(client, session_id)
        assert client.get("/api/v1/reminders").json() == {"reminders": []}
    assert sorted(str(one["content"]) for one in said) == [f"Reminder: Number {number}" for number in (1, 2, 3, 4)]
    daemon.stop()
    runs = ledger(daemon)
    assert (len(runs), {state for _, state in runs}) == (4, {"done"})


@pytest.mark.parametrize("after_s", [0.0, 0.2, 0.6])
def test_an_intention_that_is_cut_off_is_carried_out_once(
    make_daemon: MakeDaemon, model_server: ModelServerProcess, after_s: float
) -> None:
    model_server.answer_always(Reply(chunks=5, delay_s=0.1, chunk_delay_s=0.1))
    daemon = make_daemon(settings=with_model_server(model_server.base_url))
    daemon.start()
    intention = {"name": "Brief", "prompt": "write it", "trigger": {"type": "cron", "schedule": "0 0 1 1 *"}}
    with daemon.http() as client:
        made = client.post("/api/v1/intentions", json=intention).json()["intention"]
        session_id = client.post(f"/api/v1/intentions/{made['id']}/run").json()["session_id"]
        time.sleep(after_s)
    daemon.kill()
    daemon.start()
    with daemon.http() as client:
        wait_for(client, session_id, 2)
        until = time.monotonic() + SETTLE_S
        while ledger(daemon) != [(made["id"], "done")]:
            assert time.monotonic() < until, ledger(daemon)
            time.sleep(0.05)
        assert [one["role"] for one in history(client, session_id)] == ["user", "assistant"]

"""SIGKILL the embedded model's process: the daemon lives, the chat ends whole or with one typed error."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator

import httpx2
import pytest

from .conftest import MakeDaemon

KILLS = 1
SOAK_KILLS = 20

Event = tuple[str, dict[str, object]]


def test_a_killed_model_ends_one_answer_at_most(make_daemon: MakeDaemon) -> None:
    kill_while_it_answers(make_daemon, KILLS)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_model_killed_twenty_times_ends_one_answer_at_most_each_time(make_daemon: MakeDaemon) -> None:
    kill_while_it_answers(make_daemon, SOAK_KILLS)


def test_a_model_killed_while_it_loads_is_loaded_again_and_answers(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.start()
    with daemon.http as client:
        with client.stream("POST", "/api/v1/chat/stream", json={"content": "Say hello."}) as response:
            os.kill(wait_for_model(client), signal.SIGKILL)
            events = list(read(response))
        assert is_whole(events), events
        assert embedded(client)["restarts"] == 1


def kill_while_it_answers(make_daemon: MakeDaemon, kills: int) -> None:
    daemon = make_daemon()
    daemon.start()
    pid = daemon.pid
    with daemon.http as client:
        for _ in range(kills):
            events = chat_and_kill(client)
            assert is_whole(events) or ends_with_one_typed_error(events), events
        assert is_whole(chat(client)), "the next chat works"
        model = embedded(client)
        assert model["restarts"] == kills
        assert "SIGKILL" in str(model["last_error"])
        errors = client.get("/api/v1/health/errors", params={"search": "SIGKILL"}).json()
        assert any("embedded" in error["source"] for error in errors), errors
    assert daemon.pid == pid
    assert daemon.is_running


def chat_and_kill(client: httpx2.Client) -> list[Event]:
    """Ask for something long, and kill the model at the first word of the answer."""
    events: list[Event] = []
    with client.stream("POST", "/api/v1/chat/stream", json={"content": "Tell a long story."}) as response:
        for event in read(response):
            if event[0] == "chunk" and not any(name == "chunk" for name, _ in events):
                os.kill(int(str(embedded(client)["pid"])), signal.SIGKILL)
            events.append(event)
    return events


def chat(client: httpx2.Client) -> list[Event]:
    with client.stream("POST", "/api/v1/chat/stream", json={"content": "Say hello."}) as response:
        return list(read(response))


def read(response: httpx2.Response) -> Iterator[Event]:
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def is_whole(events: list[Event]) -> bool:
    names = [name for name, _ in events]
    return names[0] == "stream_start" and names[-1] == "stream_end" and "chunk" in names and "error" not in names


def ends_with_one_typed_error(events: list[Event]) -> bool:
    errors = [data for name, data in events if name == "error"]
    return (
        len(errors) == 1 and bool(errors[0]["detail"]) and [name for name, _ in events][-2:] == ["error", "stream_end"]
    )


def embedded(client: httpx2.Client) -> dict[str, object]:
    return client.get("/api/v1/runtime/actors/models/embedded").raise_for_status().json()["node"]


def wait_for_model(client: httpx2.Client) -> int:
    """The number of the model's process, as soon as there is one: it is still loading then."""
    deadline = time.monotonic() + 10
    while not (pid := embedded(client).get("pid")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return int(str(pid))

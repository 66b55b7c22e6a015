"""The listener: supervised, told by its address, and heard when a connection fails."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx2
import pytest
import trio
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.config import open_home
from pocketpaw.http.listener import Http, url_of
from pocketpaw.runtime import Child, Supervisor
from structlog.testing import capture_logs

from ..conftest import Running
from .conftest import Serve, eventually
from .sse_client import open_events


def live_at(tmp_path: Path, port: int) -> LiveSettings:
    return LiveSettings(open_home(tmp_path), {}, {"web_port": port})


async def test_the_address_is_told_once_it_answers(serve: Serve) -> None:
    async with serve() as daemon:
        assert daemon.url.startswith("http://127.0.0.1:")
        async with daemon.client() as client:
            assert (await client.get("/health/live")).status_code == 200


@pytest.mark.parametrize(
    ("host", "url"), [("127.0.0.1", "http://127.0.0.1:1"), ("::1", "http://[::1]:1"), ("0.0.0.0", "http://0.0.0.0:1")]
)
def test_an_address_is_a_link(host: str, url: str) -> None:
    assert url_of(host, 1) == url


async def test_a_port_that_is_in_use_is_named(tmp_path: Path, running: Running) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        tree = Supervisor("root", [Child(Http, live_at(tmp_path, port), on_limit="park", max_restarts=0)])
        async with running(tree) as system:
            http = system.node("http")
            assert http.state == "parked"
            assert f"port {port} on 127.0.0.1 is in use" in str(http.last_error)


async def test_a_stop_lets_the_request_in_hand_end(serve: Serve) -> None:
    answers: list[int] = []
    async with serve() as daemon, trio.open_nursery() as nursery:
        gate = daemon.model.hold()

        async def ask() -> None:
            async with daemon.client() as client:
                answers.append((await client.post("/api/v1/chat", json={"content": "hi"})).status_code)

        async def is_heard() -> bool:
            return bool(daemon.model.asked)

        nursery.start_soon(ask)
        await eventually(is_heard)
        for _ in range(10):
            gate.release()
        await daemon.system.stop()
    assert answers == [200]


async def test_a_restart_binds_the_port_again(tmp_path: Path, running: Running) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    urls: list[str] = []
    tree = Supervisor("root", [Child(Http, live_at(tmp_path, port), urls.append)])
    async with running(tree) as system:
        system.node("http").kill(RuntimeError("the listener is hit"))

        async def is_bound_again() -> bool:
            return len(urls) > 1

        await eventually(is_bound_again, 5.0)
        assert urls == [f"http://127.0.0.1:{port}"] * 2
        assert system.node("http").number == 2


@pytest.mark.parametrize("path", ["/api/v1/events/stream", "/api/v1/agent/status/stream"])
async def test_a_stream_without_end_ends_with_the_server_and_does_not_hold_it_up(serve: Serve, path: str) -> None:
    async with serve() as daemon, open_events(daemon.port, path) as events:
        await anext(events)
        before = trio.current_time()
        await daemon.system.root.restart_child("http")
        assert trio.current_time() - before < 2.5  # the server's grace is longer
        with trio.fail_after(5):
            await events.rest()  # a response that is cut off would be a protocol error


async def test_a_failure_is_logged_where_nobody_keeps_it(
    tmp_path: Path, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken inside")

    monkeypatch.setattr("pocketpaw.http.app.App._respond", fail)
    urls: list[str] = []
    async with running(Supervisor("root", [Child(Http, live_at(tmp_path, 0), urls.append)])):
        with capture_logs() as lines:
            async with httpx2.AsyncClient(base_url=urls[0], trust_env=False) as client:
                assert (await client.get("/api/v1/version", headers={"X-Request-ID": "r-7"})).status_code == 500
    (line,) = (line for line in lines if line["log_level"] == "error")
    assert (line["event"], line["request_id"]) == ("a request failed: RuntimeError: broken inside", "r-7")
    assert "in fail" in line["exception"]
    assert "health" in line["not_kept"]

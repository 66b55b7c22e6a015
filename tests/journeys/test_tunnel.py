"""The tunnel of the real daemon: healed, told, closed to strangers, and gone with the daemon, however that ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import msgspec
import psutil
import pytest

from ..fakes.cloudflared import FakeCloudflared, place
from .conftest import MakeDaemon
from .daemon import Daemon

WITHIN_S = 20.0


class Status(msgspec.Struct):
    active: bool
    url: str | None
    state: str
    error: str | None


class Told(msgspec.Struct):
    content: str
    metadata: dict[str, object]


@pytest.fixture
def fake(tmp_path: Path) -> FakeCloudflared:
    return place(tmp_path / "bin")


@pytest.fixture
def daemon(make_daemon: MakeDaemon, fake: FakeCloudflared) -> Daemon:
    made = make_daemon(settings={"cloudflared_path": str(fake.program), "api_rate_limit_per_key": "0"})
    made.start()
    return made


@pytest.fixture
def http(daemon: Daemon) -> Iterator[httpx2.Client]:
    """With the access token, as nobody is local while the tunnel is open."""
    with daemon.http as client:
        client.headers["Authorization"] = f"Bearer {daemon.token}"
        yield client


def ask(http: httpx2.Client, what: str) -> Status:
    method = "GET" if what == "status" else "POST"
    answer = http.request(method, f"/api/v1/remote/{what}", timeout=60.0).raise_for_status()
    return msgspec.json.decode(answer.content, type=Status)


def wait_for(condition: Callable[[], object], within_s: float = WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def listen_until(lines: Iterator[str], text: str) -> Told:
    for line in lines:
        if line.startswith("data: {") and text in line:
            return msgspec.json.decode(line.removeprefix("data: "), type=Told)
    raise AssertionError("the stream has ended")


def zombies(daemon: Daemon) -> list[psutil.Process]:
    children = psutil.Process(daemon.pid).children(recursive=True)
    return [process for process in children if process.status() == psutil.STATUS_ZOMBIE]


def pipes_and_sockets(daemon: Daemon) -> int:
    """Its descriptors but for files: a reader of the database opens its own when it is first needed."""
    process = psutil.Process(daemon.pid)
    return process.num_fds() - len(process.open_files())


def test_a_tunnel_that_dies_is_back_and_its_new_address_is_published(
    daemon: Daemon, http: httpx2.Client, fake: FakeCloudflared
) -> None:
    fake.told(stderr_bytes=2**20, ignores_sigterm=True, has_child=True)
    before = pipes_and_sockets(daemon)
    with http.stream("GET", "/api/v1/events/stream", params={"topics": "remote_status"}) as stream:
        events = stream.iter_lines()
        first = ask(http, "start")
        assert (first.active, first.state, first.url) == (True, "connected", fake.runs()[0].url)
        wait_for(lambda: fake.has_chattered)
        assert listen_until(events, "is open").metadata["url"] == first.url

        os.kill(fake.runs()[0].pid, signal.SIGKILL)
        assert "killed by SIGKILL" in listen_until(events, "is down").content
        assert listen_until(events, "is open").metadata["url"] == fake.runs()[1].url != first.url
        assert ask(http, "status") == Status(active=True, url=fake.runs()[1].url, state="connected", error=None)
        assert zombies(daemon) == []

        asked = time.monotonic()
        assert ask(http, "stop") == Status(active=False, url=None, state="off", error=None)
        print(f"\nclosed in {time.monotonic() - asked:.1f} s although it ignores SIGTERM")
        listen_until(events, "is closed")
    pids = {run.pid for run in fake.runs()}
    wait_for(lambda: not pids & {process.pid for process in daemon.processes()})
    wait_for(lambda: len(daemon.processes()) == 1)
    assert zombies(daemon) == []
    wait_for(lambda: pipes_and_sockets(daemon) <= before + 1)  # the kept-alive connection of this client


def test_who_comes_through_the_tunnel_needs_a_credential(
    daemon: Daemon, http: httpx2.Client, fake: FakeCloudflared
) -> None:
    url = ask(http, "start").url or ""
    edge = f"http://127.0.0.1:{fake.runs()[0].edge_port}"
    host = {"Host": url.removeprefix("https://")}
    with httpx2.Client(base_url=edge, trust_env=False, headers=host) as visitor, daemon.http as local:
        assert visitor.get("/api/v1/sessions").status_code == 401
        assert local.get("/api/v1/sessions").status_code == 401
        granted = {"Authorization": f"Bearer {daemon.token}", "Origin": url}
        assert visitor.post("/api/v1/sessions", json={}, headers=granted).status_code == 200
        http.post("/api/v1/runtime/actors/guard/restart").raise_for_status()
        assert local.get("/api/v1/sessions").status_code == 401
        ask(http, "stop")
        assert local.get("/api/v1/sessions").status_code == 200


def test_the_tunnel_ends_with_the_daemon_however_that_ends_and_is_not_opened_again(
    daemon: Daemon, http: httpx2.Client, fake: FakeCloudflared
) -> None:
    fake.told(ignores_sigterm=True, has_child=True)
    ask(http, "start")
    daemon.kill()
    wait_for(lambda: daemon.processes() == [])
    daemon.start()
    with daemon.http as local:
        assert ask(local, "status") == Status(active=False, url=None, state="off", error=None)
        assert len(fake.runs()) == 1

    fake.told(hangs=True, has_child=True)
    opening = threading.Thread(target=start_in_vain, args=(daemon,))
    opening.start()
    wait_for(lambda: len(fake.runs()) == 2)
    assert daemon.stop() == 0
    opening.join()
    wait_for(lambda: daemon.processes() == [])


def start_in_vain(daemon: Daemon) -> None:
    with daemon.http as local:
        try:
            answer = local.post("/api/v1/remote/start", timeout=60.0)
        except httpx2.TransportError:
            return  # cut off with the daemon
    assert answer.status_code == 503 or answer.json()["url"] is None


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_tunnel_that_leads_nowhere_for_a_minute_is_replaced(
    daemon: Daemon, http: httpx2.Client, fake: FakeCloudflared
) -> None:
    first = ask(http, "start").url
    fake.be_ready(False)
    wait_for(lambda: len(fake.runs()) == 2, within_s=120.0)
    fake.be_ready(True)
    wait_for(lambda: ask(http, "status").state == "connected")
    assert ask(http, "status").url == fake.runs()[-1].url != first
    assert zombies(daemon) == []

"""A thousand WebSocket clients and two hundred chats at once; then all leave, and nothing of them stays."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable

import httpx2
import psutil
import pytest
import trio
from pocketpaw.actors.models.connections import KEPT_IDLE
from trio_websocket import WebSocketConnection, open_websocket_url

from .conftest import MakeDaemon
from .daemon import Daemon, with_model_server
from .model_server_process import ModelServerProcess

UNLIMITED = {"api_rate_limit_per_key": "0", "ws_rate_limit_per_peer": "0"}
SETTLE_S = 30.0
GROWTH = 1.05
"""Memory after a crowd, over what it was after the crowd before: Python keeps the arenas of its peak, no more."""


async def test_a_hundred_clients_and_fifty_chats_leave_nothing_behind(
    make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    await crowd(make_daemon, model_server, clients=100, chats=50)


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_a_thousand_clients_and_two_hundred_chats_leave_nothing_behind(
    make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    await crowd(make_daemon, model_server, clients=1000, chats=200)


async def crowd(make_daemon: MakeDaemon, model_server: ModelServerProcess, *, clients: int, chats: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4096), most))
    settings = {**with_model_server(model_server.base_url), **UNLIMITED, "agent_idle_s": "1"}
    daemon = make_daemon(settings=settings)
    await trio.to_thread.run_sync(daemon.start)
    await come_and_go(daemon, clients=clients, chats=chats)  # what is loaded once is loaded now
    before = await settled(daemon)
    await come_and_go(daemon, clients=clients, chats=chats)
    after = await settled(daemon)
    assert after.num_fds <= before.num_fds + KEPT_IDLE  # connections to the model server, kept for the next chat
    assert after.threads == before.threads
    assert after.children == before.children
    assert after.rss < before.rss * GROWTH, (before, after)
    print(f"\n{clients} clients, {chats} chats: {before} -> {after}")


async def come_and_go(daemon: Daemon, *, clients: int, chats: int) -> None:
    """Connect, chat on every n-th connection, check every chunk, and leave."""
    connected, everybody = 0, trio.Event()

    async def client(number: int, talks: bool) -> None:
        nonlocal connected
        url = daemon.url.replace("http", "ws", 1) + "/ws"
        async with open_websocket_url(url) as socket:
            hello = json.loads(await socket.get_message())
            assert hello["type"] == "connection_info", hello
            connected += 1
            if connected == clients:
                everybody.set()
            await everybody.wait()
            if talks:
                await talk(socket, f"I am number {number} of {clients}")

    async with trio.open_nursery() as nursery:
        for number in range(clients):
            nursery.start_soon(client, number, number * chats // clients != (number + 1) * chats // clients)
            if number % 50 == 49:
                await trio.sleep(0.05)  # the listener's backlog is not what is tested here


async def talk(socket: WebSocketConnection, content: str) -> None:
    await socket.send_message(json.dumps({"action": "chat", "content": content}))
    text = ""
    while True:
        message = json.loads(await socket.get_message())
        assert message["type"] != "error", message
        if message["type"] == "chunk":
            text += message["content"]
        elif message["type"] == "stream_end":
            break
    assert text == f"echo: {content}"


class Footprint:
    """What a process holds of the machine."""

    def __init__(self, pid: int) -> None:
        process = psutil.Process(pid)
        self.num_fds = process.num_fds()
        self.threads = process.num_threads()
        self.children = len(process.children(recursive=True))
        self.rss = process.memory_info().rss

    def __repr__(self) -> str:
        return f"{self.num_fds} descriptors, {self.threads} threads, {self.children} children, {self.rss >> 20} MB"


async def settled(daemon: Daemon) -> Footprint:
    """What it holds when every agent has been put to sleep and every connection is gone."""
    with daemon.http as http:
        await until(lambda: not agents(http))
    await trio.sleep(1)
    return Footprint(daemon.pid)


def agents(http: httpx2.Client) -> list[object]:
    tree = http.get("/api/v1/runtime/tree").raise_for_status().json()
    return next(child["children"] for child in tree["children"] if child["name"] == "agents")


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SETTLE_S
    while not holds():
        assert time.monotonic() < deadline, "it does not come to rest"
        await trio.sleep(0.05)

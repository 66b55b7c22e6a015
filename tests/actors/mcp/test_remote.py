"""Servers over HTTP and SSE: a real server process on loopback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import httpx2
import pytest
from pocketpaw.actors.tools.protocol import ToolOutput
from pocketpaw.runtime.errors import PocketPawError, TimedOut, Unavailable

from .conftest import PROGRAM, RunMcp
from .test_server import set_timeout

# The SDK and httpx2 leave the generators of a stream that has said all to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator '(httpx2|httpcore2):ResourceWarning")

Serve = Callable[..., str]
TOKEN = "secret-token-0123"


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve("--token", "…")` runs a server, and returns its address."""
    servers: list[subprocess.Popen[str]] = []

    def start(*options: str) -> str:
        command = [sys.executable, "-S", PROGRAM, "--http", *options]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={})
        servers.append(server)
        assert server.stdout is not None
        return server.stdout.readline().strip()

    yield start
    for server in servers:
        server.kill()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()


def remote(url: str, transport: str, **fields: object) -> dict[str, object]:
    return {"name": "fake", "transport": transport, "url": url, **fields}


@pytest.mark.parametrize(
    ("transport", "path"),
    [("streamable-http", "/mcp"), ("http", "/mcp"), ("sse", "/sse"), ("http", "/sse")],
    ids=["streamable", "auto", "sse", "auto to sse"],
)
async def test_a_server_is_reached(run_mcp: RunMcp, serve: Serve, transport: str, path: str) -> None:
    async with run_mcp(remote(serve() + path, transport)) as mcp:
        status = await mcp.connected()
        assert (status.transport, status.restarts) == (transport, 0)
        assert await mcp.call("echo", text="hello") == ToolOutput("fake: hello", source="mcp fake")


@pytest.mark.parametrize(("transport", "path"), [("streamable-http", "/mcp"), ("sse", "/sse")])
async def test_credentials_are_sent_and_a_refusal_is_for_the_operator(
    run_mcp: RunMcp, serve: Serve, transport: str, path: str
) -> None:
    headers = {"Authorization": "Bearer ${TOKEN}"}
    url = serve("--token", TOKEN) + path
    good = remote(url, transport, headers=headers, env={"TOKEN": TOKEN})
    bad = {**remote(url, transport, headers=headers, env={"TOKEN": "wrong-secret-0123"}), "name": "bad"}
    async with run_mcp(good, bad) as mcp:
        await mcp.connected()
        status = await mcp.until(lambda status: status.state == "parked", "bad")
    assert status.error == "it refused our credentials (HTTP 401): correct its headers or env"
    assert status.restarts == 0


async def test_a_server_that_forgot_the_session_is_connected_to_anew(run_mcp: RunMcp, serve: Serve) -> None:
    url = serve()
    async with run_mcp(remote(f"{url}/mcp", "streamable-http")) as mcp:
        await mcp.connected()
        async with httpx2.AsyncClient(trust_env=False) as client:
            await client.post(f"{url}/forget", json={})
        with pytest.raises(PocketPawError, match="it has forgotten our session"):
            await mcp.call("echo", text="hello")
        await mcp.until(lambda status: status.connected and status.restarts == 1)
        assert (await mcp.call("echo", text="hello")).text == "fake: hello"


async def test_a_call_that_takes_too_long_is_given_up_and_the_session_goes_on(run_mcp: RunMcp, serve: Serve) -> None:
    async with run_mcp(remote(f"{serve()}/mcp", "streamable-http")) as mcp:
        await mcp.connected()
        set_timeout(mcp.live, 0.3)
        with pytest.raises(TimedOut):
            await mcp.call("wait", seconds=60)
        assert (await mcp.call("count")).text == "1"
        assert (await mcp.status("fake")).restarts == 0


async def test_a_proxy_that_cannot_be_used_is_for_the_operator(
    run_mcp: RunMcp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1")
    async with run_mcp(remote("https://mcp.example", "streamable-http")) as mcp:
        status = await mcp.until(lambda status: status.state == "parked")
        assert "socks5" in status.error


async def test_nobody_at_the_address_is_tried_again(run_mcp: RunMcp) -> None:
    async with run_mcp(remote("http://127.0.0.1:9/mcp", "streamable-http")) as mcp:
        status = await mcp.until(lambda status: status.restarts >= 2 and status.error)
        assert status.error == "all attempts to connect to 127.0.0.1:9 failed"
        with pytest.raises(Unavailable):
            await mcp.call("echo", text="hello")


async def test_an_answer_beyond_the_limit_is_not_read(
    run_mcp: RunMcp, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketpaw.actors.mcp.remote.MESSAGE_LIMIT_BYTES", 1024 * 1024)
    async with run_mcp(remote(f"{serve()}/mcp", "streamable-http")) as mcp:
        await mcp.connected()
        with pytest.raises(PocketPawError):
            await mcp.call("big", size=2_000_000)
        await mcp.until(lambda status: status.connected and status.restarts == 1)


async def test_what_is_no_mcp_server_is_said_to_be_none(run_mcp: RunMcp, serve: Serve) -> None:
    async with run_mcp(remote(f"{serve()}/nothing", "streamable-http")) as mcp:
        status = await mcp.until(lambda status: status.error)
    assert status.error == "Server returned an error response (HTTP 405)"

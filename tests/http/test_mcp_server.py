"""/mcp over real sockets: who gets in, and what a failure, a client that leaves and a slow answer come to."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import httpx2
import mcp_types as types
import pytest
import trio
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from pocketpaw.http import mcp_server
from pocketpaw.runtime.errors import Unavailable

from .conftest import REPLY, Daemon, Serve, eventually

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}
ACCEPT = {"Accept": "application/json, text/event-stream"}


@asynccontextmanager
async def mcp_client(daemon: Daemon, **headers: str) -> AsyncGenerator[Client]:
    """The SDK's client. (With an older protocol it leaves connections to the garbage collector: see the journeys.)"""
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False) as http,
        Client(streamable_http_client(f"{daemon.url}/mcp", http_client=http)) as client,
    ):
        yield client


async def post_older(http: httpx2.AsyncClient, name: str, arguments: dict[str, object]) -> dict[str, Any]:
    """Call a tool as a client of 2025 does; returns the whole JSON-RPC answer."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
    answer = await http.post("/mcp", json=body, headers={**ACCEPT, "MCP-Protocol-Version": "2025-06-18"})
    assert answer.status_code == 200, answer.text
    (data,) = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return cast("dict[str, Any]", json.loads(data))


def text_of(result: types.CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    return content.text


# Who gets in ----------------------------------------------------------------------------------------------------------


async def test_a_stranger_needs_a_credential(serve: Serve) -> None:
    async with serve() as daemon:
        async with daemon.stranger() as stranger:
            refused = await stranger.post("/mcp", json=INITIALIZE, headers=ACCEPT)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        async with daemon.stranger(daemon.live.access_token) as known:
            taken = await known.post("/mcp", json=INITIALIZE, headers=ACCEPT)
            assert taken.status_code == 200, taken.text
        headers = {"X-Forwarded-For": "203.0.113.9", "Authorization": f"Bearer {daemon.live.access_token}"}
        async with mcp_client(daemon, **headers) as client:
            assert (await client.list_tools()).tools


async def test_a_page_from_elsewhere_does_not_get_in(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}):
            refused = await client.post("/mcp", json=INITIALIZE, headers={**ACCEPT, **headers})
            assert refused.status_code in (401, 403), headers


async def test_what_is_no_message_is_refused(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        for content, kind, status in (
            (b"{", "application/json", 422),
            (b"{}", "application/json", 400),
            (b"[]", "application/json", 400),
            (b'{"jsonrpc": "2.0"}', "text/plain", 415),
            (b'"' + b"x" * 5_000_000 + b'"', "application/json", 413),
        ):
            refused = await client.post("/mcp", content=content, headers={**ACCEPT, "Content-Type": kind})
            assert refused.status_code == status, (content[:20], refused.text)
            assert refused.headers["x-content-type-options"] == "nosniff"
        assert (await client.post("/mcp", json=INITIALIZE, headers={"Accept": "text/html"})).status_code == 406
        for method in ("GET", "DELETE"):  # there is no stream to listen to, and no session to end
            refused = await client.request(method, "/mcp", headers=ACCEPT)
            assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


async def test_an_answer_has_what_every_response_has(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        taken = await client.post("/mcp", json=INITIALIZE, headers={**ACCEPT, "X-Request-ID": "req-1"})
        assert taken.headers["x-request-id"] == "req-1"
        assert taken.headers["x-content-type-options"] == "nosniff"
        assert "mcp-session-id" not in taken.headers


# Calls ----------------------------------------------------------------------------------------------------------------


async def test_a_chat_is_a_turn_like_any_other(serve: Serve) -> None:
    async with serve() as daemon, mcp_client(daemon) as client:
        first = await client.call_tool("chat", {"content": "hello"})
        assert not first.is_error
        answer = cast("dict[str, str]", first.structured_content)
        assert answer["content"] == "".join(REPLY)
        await client.call_tool("chat", {"content": "and again", "session_id": answer["session_id"]})
        history = await client.call_tool("get_session_history", {"session_id": answer["session_id"]})
        messages = cast("dict[str, list[dict[str, Any]]]", history.structured_content)["result"]
        assert [message["content"] for message in messages] == ["hello", "".join(REPLY), "and again", "".join(REPLY)]
        listed = await client.call_tool("list_sessions", {})
        sessions = cast("dict[str, Any]", listed.structured_content)["sessions"]
        assert [session["channel"] for session in sessions] == ["mcp"]


async def test_a_failure_is_told_to_the_model(serve: Serve) -> None:
    async with serve() as daemon, mcp_client(daemon) as client:
        daemon.model.fails = Unavailable("the model is out for lunch")
        failed = await client.call_tool("chat", {"content": "hello"})
        assert (failed.is_error, text_of(failed)) == (True, "the model is out for lunch")
        unknown = await client.call_tool("get_session_history", {"session_id": "nosuch"})
        assert unknown.is_error
        assert "nosuch" in text_of(unknown)
        async with daemon.client() as http:
            older = await post_older(http, "chat", {"content": "hello"})
        assert older["result"]["isError"] is True


async def test_a_crash_is_one_requests_own_and_is_recorded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(*_: object) -> None:
        raise RuntimeError("secret inside")

    async with serve() as daemon, mcp_client(daemon) as client, daemon.client() as http:
        await client.list_tools()
        with monkeypatch.context() as broken:
            broken.setattr(mcp_server, "use", crash)
            with pytest.raises(MCPError, match="something failed that should not"):
                await client.call_tool("daemon_health", {})
            older = await post_older(http, "daemon_health", {})
            assert older["error"]["message"].startswith("something failed that should not")

        async def is_recorded() -> bool:
            errors = (await http.get("/api/v1/health/errors")).json()
            return any("RuntimeError: secret inside" in error["traceback"] for error in errors)

        await eventually(is_recorded)
        assert not (await client.call_tool("daemon_health", {})).is_error


async def test_a_turn_goes_on_when_the_client_leaves(serve: Serve) -> None:
    async with serve() as daemon, mcp_client(daemon) as client:
        gate = daemon.model.hold()

        async def is_asked() -> bool:
            return bool(daemon.model.asked)

        async def is_answered() -> bool:
            history = await client.call_tool("get_session_history", {"session_id": "s-1"})
            return "jumps." in text_of(history)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(client.call_tool, "chat", {"content": "hello", "session_id": "s-1"}))
            await eventually(is_asked)
            nursery.cancel_scope.cancel()
        for _ in REPLY:
            gate.release()
        await eventually(is_answered)

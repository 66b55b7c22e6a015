"""`pocketpaw mcp`: the daemon's MCP tools on standard input and output, for programs that start their servers.

The daemon serves them at /mcp; here they are passed on. Each request finds the daemon anew, so that its restart goes
unnoticed.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

import httpx2
import trio
from mcp.client import Client as McpClient
from mcp.client.streamable_http import streamable_http_client
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    CallToolRequestParams,
    CallToolResult,
    InputRequiredResult,
    ListToolsResult,
    PaginatedRequestParams,
)

from ..exits import leaf
from .client import CONNECT_S, SILENCE_S, Client, is_loopback
from .failure import Failure, NoDaemon

Context = ServerRequestContext[Any, Any]
FindDaemon = Callable[[], Client]


def serve(find: FindDaemon) -> None:
    """Serve until standard input ends. Raises: NoDaemon, Refused, Failure."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a thread that waits for input cannot be cancelled
    find().get_raw("/version")  # whose refusal says why; the SDK's errors do not
    try:
        instructions = trio.run(_ask_for_instructions, find)
        trio.run(_serve, find, instructions)
    except (MCPError, BaseExceptionGroup) as error:
        cause = leaf(error)
        raise Failure(f"{find().url}/mcp: {cause.message}") if isinstance(cause, MCPError) else cause from error


async def _ask_for_instructions(find: FindDaemon) -> str | None:
    async with _daemon(find) as daemon:
        return daemon.instructions


async def _serve(find: FindDaemon, instructions: str | None) -> None:
    server = Server(
        "pocketpaw",
        version=version("pocketpaw"),
        title="PocketPaw",
        instructions=instructions,
        on_list_tools=partial(_list_tools, find),
        on_call_tool=partial(_call_tool, find),
    )
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


async def _list_tools(find: FindDaemon, _: Context, asked: PaginatedRequestParams | None) -> ListToolsResult:
    async with _answering(find) as daemon:
        return await daemon.list_tools(cursor=asked.cursor if asked is not None else None)


async def _call_tool(
    find: FindDaemon, context: Context, asked: CallToolRequestParams
) -> CallToolResult | InputRequiredResult:
    async with _answering(find) as daemon:
        return await daemon.call_tool(asked.name, asked.arguments, progress_callback=context.session.report_progress)


@asynccontextmanager
async def _answering(find: FindDaemon) -> AsyncGenerator[McpClient]:
    """As `_daemon`, for a request: a daemon that is away is an answer."""
    try:
        async with _daemon(find) as daemon:
            yield daemon
    except (Failure, BaseExceptionGroup) as error:
        cause = leaf(error)
        if isinstance(cause, Failure):
            raise MCPError(INTERNAL_ERROR, cause.message) from error
        raise cause from None


@asynccontextmanager
async def _daemon(find: FindDaemon) -> AsyncGenerator[McpClient]:
    """A client of the daemon's /mcp. Raises: NoDaemon."""
    daemon = find()
    headers = {"authorization": f"Bearer {daemon.token}"} if daemon.token else {}
    timeout = httpx2.Timeout(SILENCE_S, connect=CONNECT_S)
    try:
        async with (
            httpx2.AsyncClient(headers=headers, timeout=timeout, trust_env=not is_loopback(daemon.url)) as http,
            McpClient(streamable_http_client(f"{daemon.url}/mcp", http_client=http)) as client,
        ):
            yield client
    except httpx2.TransportError as error:
        raise NoDaemon(f"nothing answers at {daemon.url} ({str(error) or type(error).__name__})") from error

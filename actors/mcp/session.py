"""One MCP session on the SDK, in our words. Importing this module costs 60 MB: it is done for the first server.

Invariant: the SDK's contexts are entered and left by the task that calls `run`; others only send requests through them.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TypeVar

import httpx2
import mcp_types as types
import trio
from mcp.client.session import ClientSession
from mcp.shared.exceptions import MCPError
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp.shared.transport_context import TransportContext
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import TypeAdapter, ValidationError

from ...runtime.errors import BadRequest, NeedsOperator, PocketPawError, TimedOut, TransientFailure, Unavailable
from ...runtime.exits import is_cancellation, members
from ..tools.protocol import ToolInfo, ToolOutput, ToolProgress
from .configuration import ServerConfig, Transport
from .content import resource_text, shortened, tool_info, tool_output
from .link import Link, Streams, WatchedStream
from .protocol import Offer
from .remote import open_remote
from .stdio import open_stdio
from .tasks import call_as_task, needs_task

PING_TIMEOUT_S = 10.0
ANSWER_S = 30.0
"""For whatever is not a tool's call."""
PAGES = 50
"""Of a list that a server gives out in pages; one that never ends is cut."""
TOOLS = 500
QUOTE_LIMIT = 500
"""Of what a server says of itself, in characters."""

_CLOSED, _TIMED_OUT = ("Connection closed", "SSE stream "), " timed out"
"""The SDK's own words, by which its errors can be told from those of a server with the same code."""

TOO_OLD = (400, 404, 405, 406)
"""What a server that knows only SSE answers to the first request over streamable HTTP."""

CLIENT = types.Implementation(name="pocketpaw", version="1")
_RESULT: TypeAdapter[types.CallToolResult | types.InputRequiredResult] = TypeAdapter(
    types.CallToolResult | types.InputRequiredResult
)

P = TypeVar("P", bound=types.PaginatedResult)
Report = Callable[[ToolProgress], Awaitable[None]]


class Session:
    """`tools` are what the server offers now, and by which names it knows them."""

    def __init__(self, config: ServerConfig, address: str) -> None:
        self._config = config
        self._address = address
        self._link = Link()
        self._client: ClientSession | None = None
        self.tools: dict[str, ToolInfo] = {}
        self._theirs: dict[str, types.Tool] = {}
        self.changed = trio.Event()
        """Set when the server says that its tools are others now."""

    async def run(self, while_connected: Callable[[], Awaitable[None]]) -> None:
        """Connect, and disconnect when `while_connected` has returned.

        Raises:
            TransientFailure: it could not be reached, did not answer in time, or ended.
            NeedsOperator: there is no such program, or it refuses our credentials.
        """
        first, *others = _transports(self._config.transport)
        try:
            await self._run(first, while_connected)
        except TransientFailure:
            if not others or self.is_connected or self._link.status not in TOO_OLD:
                raise
            self._link = Link()
            await self._run(others[0], while_connected)

    @property
    def is_connected(self) -> bool:
        return self._client is not None

    async def _run(self, transport: Transport, while_connected: Callable[[], Awaitable[None]]) -> None:
        limit_s = self._config.timeout
        try:
            with trio.CancelScope(deadline=trio.current_time() + limit_s) as connecting:
                async with self._open(transport) as client:
                    await _greet(client)
                    await self.refresh(client)
                    connecting.deadline = math.inf
                    self._client = client
                    await self._stay(while_connected)
        except Exception as error:  # noqa: BLE001 it is raised again, as what it means
            raise self._explained(error) from None
        if connecting.cancelled_caught:
            raise self._link.failure or TransientFailure(f"it did not say within {limit_s:g} s what it offers")

    @asynccontextmanager
    async def _open(self, transport: Transport) -> AsyncGenerator[ClientSession]:
        wire: AbstractAsyncContextManager[Streams]
        if transport == "stdio":
            wire = open_stdio(self._config, self._link)
        else:
            wire = open_remote(self._config, transport, self._link)
        async with wire as (incoming, outgoing):
            self._dispatcher = JSONRPCDispatcher[TransportContext](WatchedStream(incoming, self._link), outgoing)
            async with ClientSession(
                dispatcher=self._dispatcher,
                read_timeout_seconds=ANSWER_S,
                message_handler=self._hear,
                client_info=CLIENT,
            ) as client:
                yield client

    async def _stay(self, while_connected: Callable[[], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fail_at_end)
            await while_connected()
            nursery.cancel_scope.cancel()

    async def _fail_at_end(self) -> None:
        await self._link.ended.wait()
        raise self._link.reason()

    async def _hear(self, message: types.ServerNotification | Exception) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self.changed.set()

    # Requests ---------------------------------------------------------------------------------------------------------

    async def call(self, name: str, arguments: dict[str, object], timeout_s: float, report: Report) -> ToolOutput:
        """Call a tool by the name that it has here; cancelling tells the server.

        Raises:
            TimedOut: no answer within `timeout_s`.
            Unavailable: there is no such tool, or the connection is gone.
        """
        tool = self._theirs.get(name)
        if tool is None:
            raise Unavailable(f"MCP server {self._config.name} offers no tool {name} at present")

        has_ended = False

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            if not has_ended:  # the SDK may come with it after the result
                await report(ToolProgress(shortened(message or ""), progress, total))

        request = types.CallToolRequest(params=types.CallToolRequestParams(name=tool.name, arguments=arguments))
        try:
            if needs_task(tool):
                result = await call_as_task(self._dispatcher, tool.name, arguments, timeout_s)
            else:
                result = await self._connected.send_request(request, _RESULT, timeout_s, progress_callback=on_progress)
        except MCPError as error:
            if error.code == types.REQUEST_TIMEOUT and error.message.endswith(_TIMED_OUT):
                raise TimedOut(f"{self._config.name} did not answer {tool.name} within {timeout_s:g} s") from None
            if self._is_end(error):
                raise self._gone() from None
            return self._failed(str(error))
        except ValidationError:
            return self._failed("it answered with what is no result of a tool")
        finally:
            has_ended = True
        if isinstance(result, types.InputRequiredResult):
            return self._failed("it asks for more input, which cannot be given here")
        return tool_output(result, self._source)

    async def ping(self) -> None:
        """See that the server still answers; raises TransientFailure."""
        client = self._connected
        with trio.move_on_after(PING_TIMEOUT_S) as scope:
            try:
                if client.protocol_version in MODERN_PROTOCOL_VERSIONS:
                    await self.refresh(client)  # that revision has neither pings nor word of a change
                else:
                    await client.send_ping()
            except MCPError as error:
                if self._is_end(error):
                    raise self._link.reason() from None
        if scope.cancelled_caught:
            raise TransientFailure(f"it did not answer a ping within {PING_TIMEOUT_S:g} s")

    async def refresh(self, client: ClientSession | None = None) -> None:
        """Ask what tools there are."""
        client = client or self._connected
        found: list[types.Tool] = []
        if _offers(client).tools is not None:
            async for page in _pages(client.list_tools):
                found += page.tools
        ours = [(tool_info(self._config.name, tool, self._address), tool) for tool in found[:TOOLS]]
        self.tools = {info.name: info for info, _ in ours if info is not None}
        self._theirs = {info.name: tool for info, tool in ours if info is not None}

    async def resources(self) -> list[Offer]:
        """List what can be read; raises BadRequest, Unavailable."""
        client, found = self._connected, list[Offer]()
        with self._refusals():
            if _offers(client).resources is not None:
                async for page in _pages(client.list_resources):
                    found += [Offer(str(item.uri), item.description or item.name) for item in page.resources]
        return found

    async def prompts(self) -> list[Offer]:
        """List the prompts; raises BadRequest, Unavailable."""
        client, found = self._connected, list[Offer]()
        with self._refusals():
            if _offers(client).prompts is not None:
                async for page in _pages(client.list_prompts):
                    found += [Offer(item.name, item.description or item.title or "") for item in page.prompts]
        return found

    async def read(self, uri: str) -> ToolOutput:
        """Read a resource; raises BadRequest, Unavailable."""
        with self._refusals():
            result = await self._connected.read_resource(uri)
        return ToolOutput(resource_text(result.contents), source=self._source)

    # Details ----------------------------------------------------------------------------------------------------------

    @property
    def _connected(self) -> ClientSession:
        if self._client is None:
            raise self._gone()
        return self._client

    @property
    def _source(self) -> str:
        return f"mcp {self._config.name}"

    @contextmanager
    def _refusals(self) -> Generator[None]:
        """Have what the server refuses be an answer."""
        try:
            yield
        except MCPError as error:
            if self._is_end(error):
                raise self._gone() from None
            raise BadRequest(f"MCP server {self._config.name}: {_quoted(error)}") from None
        except (ValidationError, RuntimeError):  # the SDK's for an answer of a kind that it was not asked for
            raise BadRequest(f"MCP server {self._config.name} gave no answer that can be read") from None

    def _is_end(self, error: MCPError) -> bool:
        """Whether the connection is at its end: the SDK says so by a code that servers use for whatever they like."""
        is_closed = error.code == types.CONNECTION_CLOSED and error.message.startswith(_CLOSED)
        return is_closed or self._link.ended.is_set()

    def _gone(self) -> Unavailable:
        return Unavailable(f"the connection to MCP server {self._config.name} is gone: {self._link.reason().detail}")

    def _failed(self, text: str) -> ToolOutput:
        return ToolOutput(shortened(text), is_error=True, source=self._source)

    def _explained(self, error: Exception) -> Exception:
        """What ended the session, as a failure that says so; a fault of ours stays what it is."""
        causes = list(_leaves(error))
        ours = [cause for cause in causes if isinstance(cause, PocketPawError)]
        if self._link.failure is not None or ours:
            return self._link.failure or ours[0]
        for cause in causes:
            if isinstance(cause, httpx2.HTTPStatusError):
                return TransientFailure(f"it answered with HTTP {cause.response.status_code}")
            if isinstance(cause, httpx2.InvalidURL):
                return NeedsOperator(f"its address cannot be used: {cause}")
            if isinstance(cause, ValidationError):
                return TransientFailure("what it says is not MCP")
            if isinstance(cause, OSError | httpx2.HTTPError | MCPError):
                status = f" (HTTP {self._link.status})" if self._link.status else ""
                return TransientFailure(f"{_quoted(cause)}{status}")
        return error


def _quoted(error: Exception) -> str:
    """A server's words, of which it may have written megabytes."""
    return str(error)[:QUOTE_LIMIT] or type(error).__name__


async def _greet(client: ClientSession) -> None:
    """Agree on a protocol version: by the handshake that every server of today knows, else by its successor."""
    try:
        await client.initialize()
    except MCPError as error:
        if error.code not in (types.UNSUPPORTED_PROTOCOL_VERSION, types.METHOD_NOT_FOUND):
            raise
        await client.discover()
    except RuntimeError as error:  # the SDK's, for the version that the server proposes
        raise NeedsOperator(f"{_quoted(error)}: another version of the server may do") from None


async def _pages(ask: Callable[..., Awaitable[P]]) -> AsyncGenerator[P]:
    params: types.PaginatedRequestParams | None = None
    for _ in range(PAGES):
        page = await ask(params=params)
        yield page
        if not page.next_cursor:
            return
        params = types.PaginatedRequestParams(cursor=page.next_cursor)


def _transports(configured: Transport) -> list[Transport]:
    return ["streamable-http", "sse"] if configured == "http" else [configured]


def _offers(client: ClientSession) -> types.ServerCapabilities:
    assert client.server_capabilities is not None
    return client.server_capabilities


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The causes in an error that may be a group; cancellations are none."""
    inside = members(error)
    if not inside and not is_cancellation(error):
        yield error
    for inner in inside:
        yield from _leaves(inner)

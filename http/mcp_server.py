"""PocketPaw as an MCP server, over streamable HTTP at /mcp (https://modelcontextprotocol.io/specification).

The protocol is the SDK's. There are no sessions: each request stands for itself, has its own credential, and ends with
all that it started, so a restart of the daemon goes unnoticed and what fails is one request's own.
"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import trio

from ..actors.mcp.serving import INSTRUCTIONS, Described, described, use
from ..runtime.errors import PocketPawError
from .asgi_response import AsgiResponse
from .call import Call
from .health import daemon_version
from .route import post
from .sse import MEDIA_TYPE

if TYPE_CHECKING:
    from mcp.server import ServerRequestContext
    from mcp_types import CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams, Tool

    Context = ServerRequestContext[Any, Any]


class JsonRpc(msgspec.Struct, frozen=True):
    """A message of JSON-RPC 2.0, of which MCP's specification says what it can be."""

    jsonrpc: Literal["2.0"]
    method: str
    id: str | int | None = None
    params: dict[str, object] | None = None


async def serve_mcp(call: Call, body: msgspec.Raw) -> AsgiResponse:
    """Speak MCP (streamable HTTP): the daemon's chats, sessions, memory and health as tools."""
    await trio.to_thread.run_sync(import_module, "mcp.server.streamable_http_manager")  # 0.6 s, the first time
    return AsgiResponse(partial(_answer, call), bytes(body))


async def _answer(call: Call, scope: Any, receive: Any, send: Any) -> None:
    from mcp.server import Server
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
    from mcp.shared.exceptions import MCPError
    from mcp_types import INTERNAL_ERROR

    failures: list[Exception] = []

    async def call_tool(context: Context, asked: CallToolRequestParams) -> CallToolResult:
        try:
            return await _call_tool(call, context, asked)
        except Exception as error:  # noqa: BLE001 - raised again below, to be reported
            failures.append(error)  # the SDK would tell the client, and not us
            raise MCPError(INTERNAL_ERROR, "something failed that should not; health/errors says what") from None

    server = Server(
        "pocketpaw",
        version=daemon_version(),
        title="PocketPaw",
        instructions=INSTRUCTIONS,
        on_list_tools=partial(_list_tools, call),
        on_call_tool=call_tool,
    )
    manager = StreamableHTTPSessionManager(server, stateless=True)
    async with manager.run():
        await manager.handle_request(scope, receive, send)
    if failures:
        raise failures[0]


async def _list_tools(call: Call, _: Context, __: PaginatedRequestParams | None) -> ListToolsResult:
    from mcp_types import ListToolsResult

    return ListToolsResult(tools=[_tool(tool) for tool in described(call.principal)])


async def _call_tool(call: Call, context: Context, asked: CallToolRequestParams) -> CallToolResult:
    from mcp_types import CallToolResult, TextContent

    told = 0

    async def tell(text: str) -> None:
        nonlocal told
        told += 1
        await context.session.report_progress(told, None, text)

    try:
        answer = await use(call, asked.name, asked.arguments or {}, tell)
    except PocketPawError as error:
        return CallToolResult(content=[TextContent(type="text", text=error.detail)], is_error=True)
    text = msgspec.json.encode(answer).decode()
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=answer)


def _tool(tool: Described) -> Tool:
    from mcp_types import Tool, ToolAnnotations

    return Tool(
        name=tool.name,
        description=tool.description,
        input_schema=tool.arguments,
        output_schema=tool.reply,
        annotations=ToolAnnotations(
            read_only_hint=tool.effect == "reads",
            destructive_hint=tool.effect in ("deletes", "acts"),
            open_world_hint=tool.effect == "acts",
        ),
    )


_ERROR = dict[str, object]
ROUTES = [
    post(
        "/mcp",
        serve_mcp,
        scope="mcp",
        at_root=True,
        audit=False,  # what it calls is a tool, and the store enters those
        produces=f"application/json, {MEDIA_TYPE}",
        described_as=[JsonRpc],
        responses={
            HTTPStatus.ACCEPTED: ("A notification was taken.", None),
            HTTPStatus.BAD_REQUEST: ("It is no JSON, or no message of MCP.", _ERROR),
            HTTPStatus.NOT_FOUND: ("There is no such method.", _ERROR),
            HTTPStatus.NOT_ACCEPTABLE: ("The client takes neither JSON nor an event stream.", None),
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ("The body is too large.", _ERROR),
        },
    )
]

"""The configured MCP servers, and the catalogue of others."""

from __future__ import annotations

from ..actors.mcp.presets import DOWNLOAD_S
from ..actors.mcp.protocol import (
    AddMcpServer,
    GetMcpStatus,
    Installed,
    InstallMcpPreset,
    ListMcpPresets,
    RemoveMcpServer,
    ToggleMcpServer,
    Trial,
    TryMcpServer,
)
from .call import Call
from .route import get, post

SCOPE = "mcp"
ANSWER_S = 10.0
"""On top of the time that the server itself may take."""


async def try_mcp_server(call: Call, message: TryMcpServer) -> Trial:
    """Connect to an MCP server once, without saving it, and say what it offers."""
    return await call.ask(message, timeout_s=message.timeout + ANSWER_S)


async def install_mcp_preset(call: Call, message: InstallMcpPreset) -> Installed:
    """Save a server of the catalogue, connect to it, and say whether that has worked yet."""
    return await call.ask(message, timeout_s=DOWNLOAD_S + ANSWER_S)


ROUTES = [
    get("/mcp/status", GetMcpStatus, scope=SCOPE),
    post("/mcp/add", AddMcpServer, scope=SCOPE),
    post("/mcp/remove", RemoveMcpServer, scope=SCOPE),
    post("/mcp/toggle", ToggleMcpServer, scope=SCOPE),
    post("/mcp/test", try_mcp_server, scope=SCOPE),
    get("/mcp/presets", ListMcpPresets, scope=SCOPE),
    post("/mcp/presets/install", install_mcp_preset, scope=SCOPE),
]

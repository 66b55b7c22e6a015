"""Calls as tasks: for tools that a server runs no other way (MCP 2025-11-25, basic/utilities/tasks).

That revision is the only one that has them, and the SDK's session takes no task for an answer: they go past it.
"""

from __future__ import annotations

from typing import Any

import mcp_types as types
import trio
from mcp.shared.dispatcher import Dispatcher
from mcp.shared.exceptions import MCPError

CANCEL_S = 1.0
"""For word to the server that nobody wants the answer any more."""


def needs_task(tool: types.Tool) -> bool:
    return tool.execution is not None and tool.execution.task_support == "required"


async def call_as_task(
    dispatcher: Dispatcher[Any], name: str, arguments: dict[str, object], timeout_s: float
) -> types.CallToolResult:
    """Begin a task and wait for its result; whoever leaves has the server leave off.

    Raises:
        MCPError: the server refuses, or does not answer in time.
        ValidationError: it answers with what is no task, or no result of a tool.
    """
    params = {"name": name, "arguments": arguments, "task": {"ttl": int(timeout_s * 1000)}}
    begun = await dispatcher.send_raw_request("tools/call", params, {"timeout": timeout_s})
    id_ = types.CreateTaskResult.model_validate(begun, by_name=False).task.task_id
    has_answered = False
    try:
        result = await dispatcher.send_raw_request("tasks/result", {"taskId": id_}, {"timeout": timeout_s})
        has_answered = True
    finally:
        if not has_answered:
            with trio.move_on_after(CANCEL_S, shield=True):
                await _leave_off(dispatcher, id_)
    return types.CallToolResult.model_validate(result, by_name=False)


async def _leave_off(dispatcher: Dispatcher[Any], id_: str) -> None:
    try:
        await dispatcher.send_raw_request("tasks/cancel", {"taskId": id_}, {})
    except MCPError:
        pass  # it has ended meanwhile, or the connection has

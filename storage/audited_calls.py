"""Calls of tools in the audit: entered in the transaction that changes the call, so that neither is without the other.

What a call was made with stays in its own row: it may hold secrets, and an entry cannot be taken back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from .audit import Act, append

if TYPE_CHECKING:
    from .tool_calls import CallRecord

STATUS: Mapping[str, str] = {
    "done": "success",
    "failed": "failed",
    "denied": "refused",
    "expired": "refused",
    "interrupted": "interrupted",
}
"""By the state in which a call has ended."""

CATEGORY = "tools"


def enter_end(connection: Connection, call: CallRecord) -> None:
    """Enter what came of a call, for whom the agent made it."""
    status = STATUS[call.state]
    _enter(connection, call, "call_tool", call.principal, f"The agent called {call.tool}: {call.state}", status)


def enter_decision(connection: Connection, call: CallRecord, by: str, scope: str) -> None:
    """Enter what a person has decided about a call; `scope` is how far a yes goes."""
    if call.state == "denied":
        _enter(connection, call, "deny_tool", by, f"A call of {call.tool} was denied", "success")
    else:
        text = f"A call of {call.tool} was approved ({scope})"
        _enter(connection, call, "approve_tool", by, text, "success", approved_for=scope)


def _enter(
    connection: Connection, call: CallRecord, action: str, actor: str, description: str, status: str, **more: str
) -> None:
    context: dict[str, object] = {
        "tool": call.tool,
        "effect": call.effect,
        "request_id": call.request_id,
        "session_id": call.session_id,
        "turn_id": call.turn_id,
        "provenance": call.provenance,
        **more,
    }
    act = Act(actor=actor, action=action, category=CATEGORY, description=description, context=context, status=status)
    append(connection, [act])

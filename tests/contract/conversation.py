"""For each action of the contract's WebSocket: what is said, and of which type the answer is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from .departures import CONTRACT, NULL
from .exchanges import intention, new_intention, reminder, running_turn
from .world import World


class Saying(msgspec.Struct, frozen=True):
    """`fields` may be callable, as in an exchange. `told` is the type of the last message that answers it.

    With `follows`, the client has come back to the session that it names.
    """

    told: str
    fields: Mapping[str, Any] | Callable[[World], Mapping[str, Any]] = {}
    follows: bool = False


def named_intention(world: World) -> dict[str, str]:
    return {"id": intention(world)}


SAYINGS: Mapping[str, Saying] = {
    "chat": Saying("stream_end", {"message": "hello"}),
    "message": Saying("stream_end", {"content": "hello"}),
    "stop": Saying("stream_end", running_turn, follows=True),
    "new_session": Saying("new_session"),
    "switch_session": Saying("session_history", lambda world: {"session_id": world.session()}),
    "approve": Saying("approval_decided", lambda world: {"request_id": world.approval(), "approved": True}),
    "approve_plan": Saying("plan_approved", lambda world: {"session_key": world.plan()}),
    "reject_plan": Saying("plan_rejected", lambda world: {"session_key": world.plan()}),
    "ping": Saying("pong"),
    "get_settings": Saying("settings"),
    "settings": Saying("settings_saved", {"tool_profile": "full"}),
    "get_health": Saying("health_update"),
    "run_health_check": Saying("health_update"),
    "get_health_errors": Saying("health_errors"),
    "get_skills": Saying("skills"),
    "run_skill": Saying("stream_end", lambda world: {"name": world.skill(), "args": "about rain"}),
    "browse": Saying("files", {"path": "~", "context": "modal"}),
    "navigate": Saying("message", {"path": "~"}),
    "get_reminders": Saying("reminders"),
    "add_reminder": Saying("reminder_added", {"message": "in 3 hours to feed the cat"}),
    "delete_reminder": Saying("reminder_deleted", lambda world: {"id": reminder(world)}),
    "get_intentions": Saying("intentions"),
    "create_intention": Saying("intention_created", new_intention),
    "update_intention": Saying(
        "intention_updated", lambda world: {**named_intention(world), "updates": {"name": "Evening"}}
    ),
    "toggle_intention": Saying("intention_toggled", named_intention),
    "run_intention": Saying("intention_completed", named_intention),
    "delete_intention": Saying("intention_deleted", named_intention),
    "type:message": Saying("stream_end", {"content": "hello", "agentId": "d-1"}),
    "type:subscribe": Saying("subscribed", {"channels": ["agent.status", "agent.message"]}),
    "type:unsubscribe": Saying("subscribed", {"channels": ["agent.message"]}),
}

BESIDES = {
    "connect": "what is told first; looked at by itself",
    "tool": "its tools have their own endpoints: status, fetch, panic; the contract does not name it",
    "save_api_key": "settings does that; the contract does not name it",
    "toggle_agent": "a switch of old that does nothing; the contract does not name it",
}
"""What was recorded besides the contract's actions, and why it is not among them."""

FAILED = "an error is `error {detail}` here: the contract writes it so"

TOLD_OTHERWISE: Mapping[str, str] = {
    "connect connection_info.content: is missing": "a greeting; the contract has the version instead",
    "chat message: is missing": "its pieces are `chunk`: " + CONTRACT,
    "get_settings settings.content.*: is missing": "the same as GET settings, in its names: " + CONTRACT,
    "settings health_update: is missing": "a change of settings is no news of health here",
    "get_health health_update.data.message: is missing": NULL,
    "run_health_check health_update.data.message: is missing": NULL,
    "browse files.error: string is null": "null where there is none",
    "run_intention notification: is missing": "intention_started says it",
    "delete_intention error: is missing": FAILED,
    "approve_plan error: is missing": FAILED,
    "reject_plan error: is missing": FAILED,
    "add_reminder reminder_error: is missing": "what succeeds is tried here; tests/http/test_actions.py tries the rest",
    "delete_reminder reminder_error: is missing": "as above",
}

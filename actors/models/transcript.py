"""A conversation as one text, for programs that take nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from .protocol import ChatMessage

_SPEAKERS = {"user": "User", "assistant": "Assistant", "tool": "Result of a tool"}


def transcript(messages: Sequence[ChatMessage]) -> str:
    """Write what the system says, what was said before, and what is to be answered now."""
    system = [message.content for message in messages if message.role == "system"]
    talk = [message for message in messages if message.role != "system" and message.content]
    *earlier, last = talk or [ChatMessage("user", "")]
    parts = ["\n\n".join(system)]
    if earlier:
        said = "\n\n".join(f"{_SPEAKERS[message.role]}: {message.content}" for message in earlier)
        parts.append(f"What has been said so far:\n\n{said}\n\nAnswer only what comes next.")
    parts.append(last.content if last.role == "user" else f"{_SPEAKERS[last.role]}: {last.content}")
    return "\n\n".join(part for part in parts if part)

"""Takes out of a request what a backend cannot do, so that it is told in words instead of being refused."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from .protocol import ChatMessage, Generate


def suited_to(request: Generate, capabilities: Collection[str]) -> Generate:
    """Give the request without the tools, or the images, that a backend with these capabilities does not take."""
    if "tools" not in capabilities:
        request = without_tools(request)
    if "vision" not in capabilities:
        request = without_images(request)
    return _with_one_system_message(request)


def without_images(request: Generate) -> Generate:
    """Put words in the place of the images."""
    if not has_images(request):
        return request
    return msgspec.structs.replace(request, messages=tuple(map(_unseen, request.messages)))


def has_images(request: Generate) -> bool:
    return any(message.images for message in request.messages)


def without_tools(request: Generate) -> Generate:
    """Offer no tools, and tell what earlier calls came to as if a person had passed it on."""
    names = {call.id: call.name for message in request.messages for call in message.tool_calls}
    if not names and not request.tools:
        return request
    messages = [
        _told(message, names)
        for message in request.messages
        if not message.for_tools and (message.content or not message.tool_calls)
    ]
    return msgspec.structs.replace(request, messages=tuple(messages), tools=())


def _with_one_system_message(request: Generate) -> Generate:
    """Join what was said for models with tools to the rest of it."""
    if not any(message.for_tools for message in request.messages):
        return request
    head = [message.content for message in request.messages if message.role == "system"]
    talk = [message for message in request.messages if message.role != "system"]
    return msgspec.structs.replace(request, messages=(ChatMessage("system", "\n\n".join(head)), *talk))


def _unseen(message: ChatMessage) -> ChatMessage:
    if not message.images:
        return message
    count = len(message.images)
    note = "(an image came with this, which you cannot see)"
    if count > 1:
        note = f"({count} images came with this, which you cannot see)"
    return msgspec.structs.replace(message, content=f"{message.content}\n{note}", images=())


def _told(message: ChatMessage, names: dict[str, str]) -> ChatMessage:
    if message.role == "tool":
        name = names.get(message.tool_call_id or "", "a tool")
        return ChatMessage("user", f"({name} gave this result)\n{message.content}")
    return msgspec.structs.replace(message, tool_calls=(), thoughts=())

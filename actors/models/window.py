"""Fits a conversation into a model's window: what is oldest goes first, what was asked last stays."""

from __future__ import annotations

from collections.abc import Sequence

from .protocol import ChatMessage

BYTES_PER_TOKEN = 3
"""On the safe side: English has about four, code and most other languages fewer."""

TOKENS_PER_MESSAGE = 8
"""What a chat template adds to each message, about."""


def estimate_tokens(message: ChatMessage) -> int:
    calls = sum(len(call.name) + len(call.arguments.encode()) for call in message.tool_calls)
    return (len(message.content.encode()) + calls) // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE


def fit(messages: Sequence[ChatMessage], limit_tokens: int) -> tuple[ChatMessage, ...]:
    """Leave out the oldest messages until the rest is within `limit_tokens`, by estimate.

    What is left begins with a question: no answer or tool's result is without what it belongs to. The system's message
    and all from the last question on always stay: if they alone are too long, the model is left to say so.
    """
    first = messages[:1] if messages[0].role == "system" else messages[:0]
    talk = messages[len(first) :]
    questions = [index for index, message in enumerate(talk) if message.role == "user"] or [0]
    start = end = questions.pop()
    left = limit_tokens - sum(map(estimate_tokens, (*first, *talk[start:])))
    for index in reversed(questions):
        left -= sum(map(estimate_tokens, talk[index:end]))
        if left < 0:
            break
        start = end = index
    return (*first, *talk[start:])

"""Fits a conversation into a model's window: what is oldest goes first, what was asked last stays."""

from __future__ import annotations

from collections.abc import Sequence

from .protocol import ChatMessage

BYTES_PER_TOKEN = 3
"""On the safe side: English has about four, code and most other languages fewer."""

TOKENS_PER_MESSAGE = 8
"""What a chat template adds to each message, about."""


def estimate_tokens(message: ChatMessage) -> int:
    return len(message.content.encode()) // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE


def fit(messages: Sequence[ChatMessage], limit_tokens: int) -> tuple[ChatMessage, ...]:
    """Leave out the oldest messages until the rest is within `limit_tokens`, by estimate.

    The system's message and the last one always stay: if they alone are too long, the model is left to say so.
    """
    first = messages[:1] if messages[0].role == "system" else messages[:0]
    *middle, last = messages[len(first) :]
    left = limit_tokens - sum(map(estimate_tokens, (*first, last)))
    kept: list[ChatMessage] = []
    for message in reversed(middle):
        left -= estimate_tokens(message)
        if left < 0:
            break
        kept.append(message)
    return (*first, *reversed(kept), last)

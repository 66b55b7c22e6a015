"""What travels with a message: who asks, under which trace, where the answer goes."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import msgspec

from .message import Message
from .reply import Reply, StreamReply


class Principal(msgspec.Struct, frozen=True):
    """On whose behalf a message is sent, and what they may do. `admin` among the scopes implies all."""

    name: str
    scopes: frozenset[str] = frozenset()

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes


SYSTEM = Principal("system", frozenset({"admin"}))


class Envelope(msgspec.Struct, eq=False):
    """A message on its way: the bytes, and what the receiver needs to answer. (A struct, as it is made so often.)"""

    message_type: type[Message[Any]]
    payload: bytes
    sender: str
    reply: Reply | StreamReply | None
    principal: Principal
    trace_id: str
    deadline: float
    """On trio's clock; nobody waits for an answer after it."""
    provenance: tuple[str, ...] = ()
    """Outside content, as `web https://…`, that may have provoked the message: it is data, and gives no orders."""


current_envelope: ContextVar[Envelope | None] = ContextVar("current_envelope", default=None)
"""The message that this task is handling: what it sends inherits principal and trace from it."""

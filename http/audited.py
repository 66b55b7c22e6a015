"""Acts through the API, as the audit has them.

Every endpoint that can change something is audited unless its declaration says otherwise, so none can be forgotten.
The entry is on disk before the answer goes out.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import structlog
import trio

from ..actors.audit.trail import RecordAct, Status
from ..runtime import ActorSystem, Principal
from ..runtime.errors import (
    BadRequest,
    Forbidden,
    InvalidInput,
    NotBuilt,
    PocketPawError,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
    UnsupportedMedia,
)

log = structlog.get_logger()

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

SHOWN = frozenset(
    {"id", "name", "path", "folder", "file", "size", "scopes", "scope", "expires_at", "client_id", "grant_type",
     "action", "updated", "enabled", "channel", "transport", "entries", "fix", "fixed", "total", "issues", "replace"}
)  # fmt: skip
"""The fields of a request and of its answer that an entry shows: what was acted upon, and nothing that is secret."""

NOTHING_ASKED = (BadRequest, InvalidInput, UnsupportedMedia, TooLarge, TooManyRequests, NotBuilt)
"""What is wrong with a request that asks for nothing that could be done."""

CANCELLED_S = 1.0


@dataclass(frozen=True)
class Audited:
    """How an endpoint is audited. With `refusals_only` only who was turned away is told."""

    category: str
    refusals_only: bool = False


def how_audited(method: str, path: str, declared: Audited | str | bool) -> Audited | None:
    """What a declaration means: by itself True is audited under the path's first part if it may change something."""
    if isinstance(declared, Audited):
        return declared
    if isinstance(declared, str):
        return Audited(declared)
    return Audited(path.split("/")[1]) if declared and method not in SAFE_METHODS else None


def facts_in(value: object) -> dict[str, object]:
    """What an entry shows of a message or an answer."""
    if not isinstance(value, msgspec.Struct):
        return {}
    found = {name: getattr(value, name) for name in value.__struct_fields__ if name in SHOWN}
    return {name: msgspec.to_builtins(shown) for name, shown in found.items() if shown is not None}


class Attempt:
    """An act while it is under way: `facts` are told of it, `who` may become known only on the way."""

    def __init__(self, name: str, summary: str, audited: Audited, trace_id: str, peer: str | None) -> None:
        self.who: Principal | None = None
        self.status: Status = "success"
        self.facts: dict[str, object] = {} if peer is None else {"peer": peer}
        self._action = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        self._summary = summary
        self._audited = audited
        self._trace_id = trace_id

    async def record(self, system: ActorSystem, status: Status) -> None:
        """Put it into the audit. Where that fails the log has it: what is done is done, and is answered so."""
        if self._audited.refusals_only and status != "refused":
            return
        act = RecordAct(
            action=self._action,
            category=self._audited.category,
            description=self._summary,
            context=self.facts,
            status=status,
        )
        try:
            await system.ask(act, principal=self.who, trace_id=self._trace_id, sender="http")
        except PocketPawError as error:
            by = "" if self.who is None else self.who.name
            log.warning("an act is not in the audit", reason=error.detail, action=self._action, by=by, status=status)


@asynccontextmanager
async def auditing(system: ActorSystem, attempt: Attempt) -> AsyncGenerator[Attempt]:
    """Do something that is audited, whatever comes of it."""
    try:
        yield attempt
    except trio.Cancelled:
        with trio.move_on_after(CANCELLED_S, shield=True):
            await attempt.record(system, "interrupted")
        raise
    except NOTHING_ASKED:
        raise
    except (Unauthenticated, Forbidden) as error:
        attempt.facts["code"] = error.code
        await attempt.record(system, "refused")
        raise
    except Exception as error:
        attempt.facts["code"] = error.code if isinstance(error, PocketPawError) else "internal_error"
        await attempt.record(system, "failed")
        raise
    await attempt.record(system, attempt.status)


def summary_of(doc: str) -> str:
    """The first sentence of a description."""
    text = " ".join(doc.split("\n\n", 1)[0].split())
    return re.split(r"(?<=[.:;])\s", text, maxsplit=1)[0].rstrip(":;")

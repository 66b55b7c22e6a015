"""The long-term memory: what is kept, and how."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus

import msgspec
from quart import Response

from ..actors.memory import ChangeMemorySettings, GetMemorySettings, GetMemoryStats
from ..storage.memories import DeleteMemory, ListMemories
from .call import Call
from .route import JSON, delete, get, post


class LongTermMemory(msgspec.Struct, frozen=True):
    """`timestamp` is when it was last said."""

    id: str
    content: str
    timestamp: datetime
    tags: list[str]


class Deleted(msgspec.Struct, frozen=True):
    ok: bool = True


async def list_memories(call: Call, message: ListMemories) -> Response:
    """List memories, those last said first; their number is in X-Total-Count.

    With `q`, those that hold all of its words; the last one may be the beginning of a word.
    """
    page = await call.ask(message)
    listed = [LongTermMemory(one.id, one.content, one.updated_at, one.tags) for one in page.memories]
    headers = {"Content-Type": JSON, "X-Total-Count": str(page.total)}
    return Response(msgspec.json.encode(listed), HTTPStatus.OK.value, headers)


async def delete_memory(call: Call, message: DeleteMemory) -> Deleted:
    """Forget a memory."""
    await call.ask(message)
    return Deleted()


LISTED = {HTTPStatus.OK: ("The page.", list[LongTermMemory])}
SCOPE = "memory"
ROUTES = [
    get("/memory/long_term", list_memories, scope=SCOPE, responses=LISTED),
    delete("/memory/long_term/{memory_id}", delete_memory, scope=SCOPE),
    get("/memory/settings", GetMemorySettings, scope=SCOPE),
    post("/memory/settings", ChangeMemorySettings, scope=SCOPE),
    get("/memory/stats", GetMemoryStats, scope=SCOPE),
]

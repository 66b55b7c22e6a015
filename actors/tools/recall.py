"""The long-term memory, as tools: what is worth keeping beyond a session, and how to find it again."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ...storage.memories import AddMemory, DeleteMemory, Memory, Tags
from ..memory import FindMemories
from .protocol import Execute, ToolOutput
from .toolbox import Arguments, Toolbox, tool

SOURCE = "memory"
"""Says that of what was recalled something was learned from outside content."""


class Remember(Arguments, frozen=True):
    content: Annotated[
        str,
        msgspec.Meta(
            description="One fact, as a sentence that makes sense by itself: 'Ann, the user's sister, is vegetarian'",
            min_length=1,
            max_length=5_000,
        ),
    ]
    tags: Annotated[Tags, msgspec.Meta(description="A few words to group it by")] = msgspec.field(
        default_factory=list[str]
    )


class RecallArguments(Arguments, frozen=True):
    query: Annotated[
        str, msgspec.Meta(description="Words that the memory is likely to have in it", min_length=1, max_length=1_000)
    ]
    limit: Annotated[int, msgspec.Meta(description="How many, at most", ge=1, le=50)] = 10


class Forget(Arguments, frozen=True):
    memory_id: Annotated[str, msgspec.Meta(description="The number in brackets that recall shows", max_length=20)]


class Recall(Toolbox):
    """Keeps with a memory what may have provoked it, so that it can be told from what people said."""

    @tool("keep", "memory", subject="content")
    async def remember(self, arguments: Remember, call: Execute) -> str:
        """Keep a lasting fact about the user or their world for all later conversations.

        Use it when the user asks you to remember something, or says something that will matter later. Not for what
        only this conversation needs, and never for passwords or keys.
        """
        remembered = await self.ask(
            AddMemory(
                content=arguments.content,
                tags=arguments.tags,
                source_session=call.session_id,
                provenance=list(self.provenance),
            )
        )
        verb = "Remembered" if remembered.is_new else "Brought up to date"
        return f"{verb}: {_line(remembered.memory)}"

    @tool("read", "memory", subject="query")
    async def recall(self, arguments: RecallArguments, call: Execute) -> ToolOutput:
        """Search the memories of earlier conversations. The newest, and those that match, are known to you already."""
        found = await self.ask(FindMemories(q=arguments.query, limit=arguments.limit))
        if not found:
            return ToolOutput("No memory matches. Other words may: memories are searched by their words.")
        source = SOURCE if any(memory.provenance for memory in found) else ""
        return ToolOutput("\n".join(map(_line, found)), source=source)

    @tool("write", "memory", subject="memory_id")
    async def forget(self, arguments: Forget, call: Execute) -> str:
        """Delete a memory for good. Use recall first, which shows its number in brackets."""
        memory_id = arguments.memory_id.strip("[] ")
        await self.ask(DeleteMemory(memory_id=memory_id))
        return f"Forgot memory [{memory_id}]."


def _line(memory: Memory) -> str:
    about = [memory.updated_at.date().isoformat(), *memory.tags]
    if memory.provenance:
        about.append(f"learned from {', '.join(memory.provenance)}")
    return f"[{memory.id}] {memory.content} ({'; '.join(about)})"

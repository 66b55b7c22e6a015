"""Skills, as a tool: their names and descriptions are known to the agent, their texts it reads when it needs one."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ..skills.format import SKILL_FILE
from ..skills.keeper import ReadSkill
from .protocol import Execute
from .toolbox import Arguments, Toolbox, tool

OUTPUT_LIMIT = 50_000
"""Characters of a text that one call gives."""


class ReadSkillArguments(Arguments, frozen=True):
    name: Annotated[str, msgspec.Meta(description="The skill's name", min_length=1, max_length=255)]
    file: Annotated[
        str,
        msgspec.Meta(description=f"A file of the skill, by its path in the skill's folder: {SKILL_FILE} if left out"),
    ] = SKILL_FILE
    start: Annotated[
        int, msgspec.Meta(description="For reading on in a long text: the character to begin at", ge=0)
    ] = 0


class SkillReader(Toolbox):
    """Skills are the operator's own choice, so what stands in one is no foreign text: it is there to be followed."""

    @tool("read", "skills", subject="name")
    async def read_skill(self, arguments: ReadSkillArguments, call: Execute) -> str:
        """Read a skill's instructions, or a file that comes with it. Do so before you do what the skill is about."""
        read = await self.ask(ReadSkill(name=arguments.name, file=arguments.file))
        start, end = arguments.start, arguments.start + OUTPUT_LIMIT
        parts = [read.text[start:end]]
        if (left := len(read.text) - end) > 0:
            parts.append(f"({left:,} more characters follow: read on with start={end})")
        if arguments.file == SKILL_FILE:
            parts.append(f"(This skill's folder is {read.folder}.)")
            if read.files:
                parts.append("(Its other files: " + ", ".join(read.files) + ")")
        return "\n\n".join(parts)

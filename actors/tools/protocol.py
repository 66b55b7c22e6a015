"""What a tool is, what is asked of it and what it answers, whoever executes it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ...runtime.message import StreamMessage

Effect = Literal["read", "keep", "write", "execute", "egress"]
"""What a call does: looks at what is here, adds to what this daemon keeps for its user, changes or deletes something,
runs a program, or sends something out."""

ToolName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class ToolInfo(msgspec.Struct, frozen=True):
    """A tool on offer. `parameters` is the JSON Schema of its arguments, an object."""

    name: ToolName
    description: str
    parameters: dict[str, object]
    address: str
    """The actor that executes it."""
    effect: Effect
    scope: str
    """What a principal needs to do the same without an agent, as `files:read`."""
    subject: str = ""
    """The argument that rules and grants are matched against, as `path`; none if it is empty."""
    source: str = ""
    """The outside party that gets the arguments and gives the output, as `mcp time`; empty if it is this daemon."""


class ToolProgress(msgspec.Struct, frozen=True, tag="progress"):
    """How far a call has come; `progress` of `total`, where that is known."""

    text: str
    progress: float | None = None
    total: float | None = None


class ToolOutput(msgspec.Struct, frozen=True, tag="output"):
    """What came of a call. A failure that the model should hear of is an output with `is_error`.

    `source` names where the text is from if not from this daemon itself, as `file /home/ann/notes.md`, `web https://…`
    or `mcp time`: such text is data, and what the model does after reading it may have been provoked by it.
    """

    text: str
    is_error: bool = False
    source: str = ""


ToolEvent = ToolProgress | ToolOutput


class Execute(StreamMessage[ToolEvent]):
    """Run one call: any progress, then exactly one output. Only the gate sends it, once policy has been seen to.

    A PocketPawError is told to the model as a failure; any other exception is a crash, and the model is told so too.
    """

    name: str
    arguments: dict[str, object]
    session_id: str
    turn_id: str

"""What can be asked of the importer, and what it reports."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ...runtime import Message
from .old_files import Remark

Kind = Literal[
    "sessions", "memories", "identity", "settings", "reminders", "intentions", "mcp_servers", "api_keys", "other"
]


class Taken(msgspec.Struct, frozen=True):
    """What came of one kind of things: the names of those that were taken, how many were here already, what is left."""

    taken: list[str]
    known: int
    left: list[Remark]


class ImportReport(msgspec.Struct, frozen=True):
    """`path` is the home that was found; with `dry_run` nothing was taken, and this is what would have been."""

    path: str
    dry_run: bool
    kinds: dict[Kind, Taken]


class ImportHome(Message[ImportReport], to="importer"):
    """Take over what an existing PocketPaw's home on this machine holds; nothing is changed there.

    What is set or said here stays as it is. A second time it takes only what is new there.
    """

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=4_096)]
    dry_run: bool = False

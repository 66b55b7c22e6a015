"""Searching files, which computes and so has a process of its own: a regular expression may take for ever."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from ...runtime import Message, ProcessActor

SEARCH_S = 10.0
"""For one search; it answers with what it has found by then."""


class FoundInFiles(msgspec.Struct, frozen=True):
    """What there is, as the model reads it, and the folder that it is in."""

    text: str
    folder: str


class FindInFiles(Message[FoundInFiles], to="tools/search"):
    """Find files by name, or lines by a regular expression, at `path`. `root` and `own` are the jail's."""

    root: str
    own: str
    path: str
    name: str = ""
    text: str = ""
    ignore_case: bool = False


class Search(ProcessActor):
    """Answers `FindInFiles`, one at a time."""

    worker: ClassVar[str] = "pocketpaw.actors.tools.search_worker:SearchWorker"
    takes: ClassVar[tuple[type[Message[Any]], ...]] = (FindInFiles,)

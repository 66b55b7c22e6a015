"""Where a kit's panels have their data from: questions to the actors that know, under the names that kits use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from ...runtime import Message
from ...storage.memories import CountMemories, ListMemories
from ...storage.sessions import ListSessions
from ...storage.usage import GetUsage, ListRecentUsage
from ..files.keeper import ListRecentFiles
from ..health import GetErrors, GetHealth
from ..metrics.metrics import GetSystemMetrics
from ..scheduler.intentions import ListIntentions
from ..scheduler.reminders import ListReminders

API = "api"
WORKFLOW = "workflow"

SHOWN = 20
"""Entries of a list."""


@dataclass(frozen=True)
class Source:
    """`scope` is what it takes to see it; `field` the part of the answer that is shown, by default all of it."""

    scope: str
    question: Callable[[], Message[Any]]
    field: str = ""

    def shown(self, answer: object) -> object:
        """The answer as JSON has it."""
        return msgspec.to_builtins(getattr(answer, self.field) if self.field else answer)


SOURCES: Mapping[str, Source] = {
    "metrics": Source("metrics", GetSystemMetrics),
    "health": Source("kits", GetHealth),
    "issues": Source("kits", GetHealth, "issues"),
    "errors": Source("metrics", lambda: GetErrors(limit=SHOWN)),
    "usage": Source("metrics", GetUsage),
    "replies": Source("metrics", lambda: ListRecentUsage(limit=SHOWN)),
    "reminders": Source("reminders", ListReminders, "reminders"),
    "intentions": Source("reminders", ListIntentions, "intentions"),
    "sessions": Source("sessions", lambda: ListSessions(limit=SHOWN), "sessions"),
    "memories": Source("memory", lambda: ListMemories(limit=SHOWN), "memories"),
    "stats": Source("memory", CountMemories),
    "files": Source("files:read", lambda: ListRecentFiles(limit=SHOWN), "files"),
}
"""What stands behind `api:` in a kit."""

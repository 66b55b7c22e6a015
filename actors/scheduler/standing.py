"""The daemon's own tasks that come by a schedule, such as the self-audit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...config import Settings
from ...runtime import Message


@dataclass(frozen=True)
class Standing:
    """Sends a message to its owner at each slot. It must be safe to send twice: a run that was cut off is repeated."""

    id: str
    name: str
    schedule: Callable[[Settings], str]
    """The cron line by the settings in force; empty while it is switched off."""
    message: Callable[[], Message[Any]]
    timeout_s: float = 600.0

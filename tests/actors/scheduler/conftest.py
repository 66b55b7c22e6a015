"""A home that a scheduler in virtual time can be run in, again and again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pocketpaw.runtime import watchdog

from .virtual import Home, Live, VirtualClock

MakeHome = Callable[..., Home]

WATCHDOG_BEAT_S = 3600.0
"""In virtual time it would beat half a million times a day."""


@pytest.fixture
def make_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeHome:
    """`make_home(start, time_zone="Europe/Berlin")` is a home whose clock begins at `start`."""
    monkeypatch.setattr(watchdog, "BEAT_S", WATCHDOG_BEAT_S)

    def make(start: datetime, **settings: Any) -> Home:
        return Home(tmp_path, VirtualClock(start), Live(**{"time_zone": "UTC", **settings}))

    return make

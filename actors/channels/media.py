"""The files that came with messages: one folder for each channel, in which none grows old."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

from ...config import Home

KEPT = timedelta(days=30)
"""The agent can look at a file for so long."""


def media_folder(home: Home, channel: str) -> Path:
    return home.root / "channels" / channel / "media"


def forget_old_media(home: Home, now: datetime) -> int:
    """Delete what was fetched too long ago; returns how many files. Blocks on the disk. Raises OSError."""
    before = (now - KEPT).timestamp()
    old = [
        entry.path
        for folder in home.root.glob("channels/*/media")
        for entry in os.scandir(folder)
        if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mtime < before
    ]
    for path in old:
        Path(path).unlink(missing_ok=True)
    return len(old)

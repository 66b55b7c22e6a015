"""What a daemon that was killed left half written in a channel's folder."""

from __future__ import annotations

from pathlib import Path

import structlog

from ...config.private_file import temporaries

log = structlog.get_logger()


def sweep(folder: Path) -> None:
    """Remove it, there and among the media. Blocks on the disk; nobody may be writing there."""
    for leftover in (*temporaries(folder), *temporaries(folder / "media")):
        try:
            leftover.unlink(missing_ok=True)
        except OSError as error:
            log.warning("a file that is half written cannot be removed", file=str(leftover), reason=error.strerror)

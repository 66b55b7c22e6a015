"""What is known of the audit's chain beside the database: what was cut off an end of it is missed by nothing else."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ...config.private_file import write_private
from ...storage.audit import AuditHead

FILE = "audit.head"


class Known(msgspec.Struct, frozen=True):
    """The end of the chain, and up to which entry it was archived, or was about to be."""

    head: AuditHead = AuditHead()
    archived: int = 0


def load_head(root: Path) -> Known | str | None:
    """Read what was kept; None if there is nothing, a sentence if it cannot be read."""
    path = root / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Known)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"{path} does not hold the end of an audit: {error}"


def save_head(root: Path, known: Known) -> None:
    """Keep where the chain ends, mode 0600. Raises OSError."""
    write_private(root / FILE, msgspec.json.encode(known) + b"\n")

"""Channels: what came in, what goes out, who may talk."""

from __future__ import annotations

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    pass

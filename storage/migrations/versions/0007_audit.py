"""The audit's chain of rows, and the reports of the self-audit."""

from __future__ import annotations

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    pass

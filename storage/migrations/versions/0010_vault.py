"""Webhooks' secrets are in the vault: the webhooks' actor moves those that are here, as it can see both."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("PRAGMA secure_delete = ON")  # the table is copied: the secrets must not stay in its former pages
    with op.batch_alter_table("webhooks") as table:
        table.alter_column("secret", existing_type=sa.Text(), nullable=True)

"""Jobs, and the ledger of their slots."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

TIME = sa.DateTime(timezone=True)
COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("schedule", sa.Text(), nullable=False),
        sa.Column("recurrence", sa.Text()),
        sa.Column("next_slot", TIME),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("session_id", sa.Text()),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.Column("context_sources", sa.JSON(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("last_run", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.CheckConstraint("kind IN ('reminder', 'intention', 'task')", name="ck_jobs_kind"),
    )
    op.create_index("ix_jobs_next_slot", "jobs", ["next_slot"])
    op.create_table(
        "runs",
        sa.Column("id", COUNTER, nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("slot", TIME, nullable=False),
        sa.Column("until", TIME),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("is_late", sa.Boolean(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("claim", sa.Text()),
        sa.Column("turn_id", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("started_at", TIME),
        sa.Column("ended_at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_runs_job_id", ondelete="CASCADE"),
        sa.UniqueConstraint("job_id", "slot", name="uq_runs_job_id_slot"),
        sa.CheckConstraint(
            "state IN ('pending', 'running', 'done', 'failed', 'interrupted', 'skipped')", name="ck_runs_state"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_runs_created_at", "runs", ["created_at"])
    op.execute("CREATE INDEX ix_runs_unfinished ON runs (job_id) WHERE state IN ('pending', 'running')")

"""What agents do with tools: a turn's steps, its calls with their approvals, grants, summaries; usage by model."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TIME = sa.DateTime(timezone=True)
COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
STATES = "state IN ('waiting', 'approved', 'running', 'done', 'failed', 'denied', 'expired', 'interrupted')"
USAGE = "id, turn_id, model, backend, input_tokens, output_tokens, total_tokens, cost_usd, created_at"


def upgrade() -> None:
    op.add_column("turns", sa.Column("scopes", sa.JSON()))
    make_steps()
    make_tool_calls()
    make_grants()
    make_summaries()
    if op.get_bind().dialect.name == "sqlite":
        rebuild_usage()
    else:
        op.drop_constraint("uq_usage_turn_id", "usage")
        op.create_unique_constraint("uq_usage_turn_id_backend_model", "usage", ["turn_id", "backend", "model"])


def make_steps() -> None:
    op.create_table(
        "steps",
        sa.Column("turn_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("tool_calls", sa.JSON(), nullable=False),
        sa.Column("thoughts", sa.JSON()),
        sa.Column("usage", sa.JSON()),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("turn_id", "number", name="pk_steps"),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_steps_turn_id", ondelete="CASCADE"),
    )


def make_tool_calls() -> None:
    op.create_table(
        "tool_calls",
        sa.Column("id", COUNTER, nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("turn_id", sa.Text()),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("tool", sa.Text(), nullable=False),
        sa.Column("arguments", sa.JSON(), nullable=False),
        sa.Column("effect", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.Column("pattern", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("claim", sa.Text()),
        sa.Column("output", sa.Text()),
        sa.Column("source", sa.Text()),
        sa.Column("decided_by", sa.Text()),
        sa.Column("decided_at", TIME),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME),
        sa.Column("started_at", TIME),
        sa.Column("ended_at", TIME),
        sa.CheckConstraint(STATES, name="ck_tool_calls_state"),
        sa.PrimaryKeyConstraint("id", name="pk_tool_calls"),
        sa.UniqueConstraint("request_id", name="uq_tool_calls_request_id"),
        sa.UniqueConstraint("turn_id", "step", "number", name="uq_tool_calls_turn_id_step_number"),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_tool_calls_turn_id", ondelete="SET NULL"),
        sqlite_autoincrement=True,
    )
    op.execute("CREATE INDEX ix_tool_calls_waiting ON tool_calls (session_id) WHERE state = 'waiting'")


def make_grants() -> None:
    op.create_table(
        "grants",
        sa.Column("id", COUNTER, nullable=False),
        sa.Column("tool", sa.Text(), nullable=False),
        sa.Column("pattern", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text()),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.Column("granted_by", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_grants"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_grants_session_id", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_grants_tool", "grants", ["tool"])


def make_summaries() -> None:
    op.create_table(
        "summaries",
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("up_to", COUNTER, nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="pk_summaries"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_summaries_session_id", ondelete="CASCADE"),
    )


def rebuild_usage() -> None:
    """SQLite cannot change a constraint: the table is made anew around its rows."""
    op.create_table(
        "usage_by_model",
        sa.Column("id", COUNTER, nullable=False),
        sa.Column("turn_id", sa.Text()),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column("input_tokens", sa.Integer(), nullable=False),
        sa.Column("output_tokens", sa.Integer(), nullable=False),
        sa.Column("total_tokens", sa.Integer(), nullable=False),
        sa.Column("cost_usd", sa.Float(53)),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_usage"),
        sa.UniqueConstraint("turn_id", "backend", "model", name="uq_usage_turn_id_backend_model"),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_usage_turn_id", ondelete="SET NULL"),
        sqlite_autoincrement=True,
    )
    op.execute(f"INSERT INTO usage_by_model ({USAGE}) SELECT {USAGE} FROM usage")  # noqa: S608 our own words
    op.drop_table("usage")
    op.rename_table("usage_by_model", "usage")
    op.create_index("ix_usage_created_at", "usage", ["created_at"])

"""Sessions, messages with their full text index, turns, usage, the health engine's logs, revoked tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TIME = sa.DateTime(timezone=True)
COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
STATES = "state IN ('pending', 'running', 'done', 'failed', 'interrupted', 'stopped')"

FULL_TEXT = {
    "sqlite": (
        (
            "CREATE VIRTUAL TABLE messages_fts USING fts5(content, content='messages', content_rowid='id', "
            "tokenize='unicode61 remove_diacritics 2', prefix='3')"
        ),
        (
            "CREATE TRIGGER messages_fts_insert AFTER INSERT ON messages BEGIN "
            "INSERT INTO messages_fts (rowid, content) VALUES (new.id, new.content); END"
        ),
        (
            "CREATE TRIGGER messages_fts_delete AFTER DELETE ON messages BEGIN "
            "INSERT INTO messages_fts (messages_fts, rowid, content) VALUES ('delete', old.id, old.content); END"
        ),
        (
            "CREATE TRIGGER messages_fts_update AFTER UPDATE OF content ON messages BEGIN "
            "INSERT INTO messages_fts (messages_fts, rowid, content) VALUES ('delete', old.id, old.content); "
            "INSERT INTO messages_fts (rowid, content) VALUES (new.id, new.content); END"
        ),
    ),
    "postgresql": (
        (
            "ALTER TABLE messages ADD COLUMN content_tsv tsvector "
            "GENERATED ALWAYS AS (to_tsvector('simple', left(content, 100000))) STORED"
        ),
        "CREATE INDEX ix_messages_content_tsv ON messages USING gin (content_tsv)",
    ),
}


def upgrade() -> None:
    make_conversations()
    for statement in FULL_TEXT[op.get_bind().dialect.name]:
        op.get_bind().exec_driver_sql(statement)
    make_logs()


def make_conversations() -> None:
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("title", sa.Text()),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("last_activity", TIME, nullable=False),
        sa.Column("message_count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
    )
    op.create_index("ix_sessions_last_activity_sessions_id", "sessions", ["last_activity", "id"])
    op.create_table(
        "turns",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("boot_id", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("idempotency_key", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.CheckConstraint(STATES, name="ck_turns_state"),
        sa.PrimaryKeyConstraint("id", name="pk_turns"),
        sa.UniqueConstraint("principal", "idempotency_key", name="uq_turns_principal_idempotency_key"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_turns_session_id", ondelete="CASCADE"),
    )
    op.create_index("ix_turns_session_id", "turns", ["session_id"])
    op.execute("CREATE INDEX ix_turns_unfinished ON turns (boot_id) WHERE state IN ('pending', 'running')")
    op.create_table(
        "messages",
        sa.Column("id", COUNTER, nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("turn_id", sa.Text()),
        sa.Column("reply_to", COUNTER),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("metadata", sa.JSON()),
        sa.PrimaryKeyConstraint("id", name="pk_messages"),
        sa.UniqueConstraint("turn_id", "role", name="uq_messages_turn_id_role"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_messages_session_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_messages_turn_id", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_messages_session_id_messages_id", "messages", ["session_id", "id"])
    op.create_table(
        "usage",
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
        sa.UniqueConstraint("turn_id", name="uq_usage_turn_id"),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_usage_turn_id", ondelete="SET NULL"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_usage_created_at", "usage", ["created_at"])


def make_logs() -> None:
    op.create_table(
        "errors",
        sa.Column("id", COUNTER, nullable=False),
        sa.Column("timestamp", TIME, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("traceback", sa.Text()),
        sa.Column("context", sa.JSON()),
        sa.PrimaryKeyConstraint("id", name="pk_errors"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "supervision_events",
        sa.Column("id", COUNTER, nullable=False),
        sa.Column("timestamp", TIME, nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_supervision_events"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "revoked_tokens",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_revoked_tokens"),
    )
    op.create_index("ix_revoked_tokens_expires_at", "revoked_tokens", ["expires_at"])

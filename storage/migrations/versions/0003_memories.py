"""Memories, with their full text index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TIME = sa.DateTime(timezone=True)
COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

FULL_TEXT = {
    "sqlite": (
        (
            "CREATE VIRTUAL TABLE memories_fts USING fts5(content, content='memories', content_rowid='id', "
            "tokenize='unicode61 remove_diacritics 2', prefix='3')"
        ),
        (
            "CREATE TRIGGER memories_fts_insert AFTER INSERT ON memories BEGIN "
            "INSERT INTO memories_fts (rowid, content) VALUES (new.id, new.content); END"
        ),
        (
            "CREATE TRIGGER memories_fts_delete AFTER DELETE ON memories BEGIN "
            "INSERT INTO memories_fts (memories_fts, rowid, content) VALUES ('delete', old.id, old.content); END"
        ),
        (
            "CREATE TRIGGER memories_fts_update AFTER UPDATE OF content ON memories BEGIN "
            "INSERT INTO memories_fts (memories_fts, rowid, content) VALUES ('delete', old.id, old.content); "
            "INSERT INTO memories_fts (rowid, content) VALUES (new.id, new.content); END"
        ),
    ),
    "postgresql": (
        (
            "ALTER TABLE memories ADD COLUMN content_tsv tsvector "
            "GENERATED ALWAYS AS (to_tsvector('simple', left(content, 100000))) STORED"
        ),
        "CREATE INDEX ix_memories_content_tsv ON memories USING gin (content_tsv)",
    ),
}


def upgrade() -> None:
    op.create_table(
        "memories",
        sa.Column("id", COUNTER, nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("last_used_at", TIME),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("source_session", sa.Text()),
        sa.Column("provenance", sa.JSON()),
        sa.PrimaryKeyConstraint("id", name="pk_memories"),
        sa.UniqueConstraint("digest", name="uq_memories_digest"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_memories_updated_at_memories_id", "memories", ["updated_at", "id"])
    for statement in FULL_TEXT[op.get_bind().dialect.name]:
        op.get_bind().exec_driver_sql(statement)

"""The audit's chain of rows, and the reports of the self-audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_COUNTER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_ARCHIVED = "(SELECT COALESCE(MAX(last_id), 0) FROM audit_archives)"
_TRIGGERS = {
    "sqlite": (
        (
            "CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit "
            "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END"
        ),
        (
            f"CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit WHEN OLD.id > {_ARCHIVED} "
            "BEGIN SELECT RAISE(ABORT, 'the audit is append-only until it is archived'); END"
        ),
    ),
    "postgresql": (
        (
            "CREATE FUNCTION audit_refuses() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF TG_OP = 'DELETE' AND OLD.id <= {_ARCHIVED} THEN RETURN OLD; END IF; "
            "RAISE EXCEPTION 'the audit is append-only'; END $$"
        ),
        (
            "CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE ON audit "
            "FOR EACH ROW EXECUTE FUNCTION audit_refuses()"
        ),
    ),
}


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", _COUNTER, autoincrement=False, nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("context", sa.JSON(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("trace_id", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_timestamp_id", "audit", ["timestamp", "id"])
    op.create_index("ix_audit_category_timestamp_id", "audit", ["category", "timestamp", "id"])
    op.create_index("ix_audit_actor_timestamp_id", "audit", ["actor", "timestamp", "id"])
    op.create_table(
        "audit_archives",
        sa.Column("last_id", _COUNTER, autoincrement=False, nullable=False),
        sa.Column("first_id", _COUNTER, nullable=False),
        sa.Column("last_hash", sa.Text(), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("last_id", name="pk_audit_archives"),
    )
    for trigger in _TRIGGERS[op.get_bind().dialect.name]:
        op.execute(trigger)
    op.create_table(
        "self_audits",
        sa.Column("date", sa.Text(), nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("passed", sa.Integer(), nullable=False),
        sa.Column("issues", sa.Integer(), nullable=False),
        sa.Column("checks", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("date", name="pk_self_audits"),
    )

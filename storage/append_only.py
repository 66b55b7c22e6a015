"""Triggers that keep the audit from being changed, even by our own code: a row goes only after it was archived.

They stop mistakes and the simple ways of an intruder; whoever may alter the schema can drop them. What finds a change
then is the chain.
"""

from __future__ import annotations

_ARCHIVED = "(SELECT COALESCE(MAX(last_id), 0) FROM audit_archives)"

SQLITE = (
    (
        "CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END"
    ),
    (
        f"CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit WHEN OLD.id > {_ARCHIVED} "
        "BEGIN SELECT RAISE(ABORT, 'the audit is append-only until it is archived'); END"
    ),
)
POSTGRESQL = (
    (
        "CREATE FUNCTION audit_refuses() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF TG_OP = 'DELETE' AND OLD.id <= {_ARCHIVED} THEN RETURN OLD; END IF; "
        "RAISE EXCEPTION 'the audit is append-only'; END $$"
    ),
    (
        "CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE ON audit "
        "FOR EACH ROW EXECUTE FUNCTION audit_refuses()"
    ),
)

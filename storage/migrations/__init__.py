"""Alembic's scripts: `versions/` holds one file a schema version, never changed once released."""

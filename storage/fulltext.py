"""The full text index over messages: FTS5 on SQLite, `tsvector` with GIN on PostgreSQL.

Both are kept by the database itself, so no command can forget them; nothing outside this module knows them apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from sqlalchemy import DDL, Connection, Table, event, text

FETCHED_TOGETHER = 32

SQLITE_INDEX = (
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
)
POSTGRESQL_INDEX = (
    # A tsvector may hold 1 MiB: a longer text is found by its beginning.
    (
        "ALTER TABLE messages ADD COLUMN content_tsv tsvector "
        "GENERATED ALWAYS AS (to_tsvector('simple', left(content, 100000))) STORED"
    ),
    "CREATE INDEX ix_messages_content_tsv ON messages USING gin (content_tsv)",
)

_HITS = {
    "sqlite": text(
        "SELECT m.session_id, m.role, substr(m.content, 1, :excerpt) AS excerpt FROM messages_fts f "
        "JOIN messages m ON m.id = f.rowid WHERE messages_fts MATCH :terms ORDER BY f.rowid DESC LIMIT :most"
    ),
    "postgresql": text(
        "SELECT m.session_id, m.role, substr(m.content, 1, :excerpt) AS excerpt FROM messages m "
        "WHERE m.content_tsv @@ to_tsquery('simple', :terms) ORDER BY m.id DESC LIMIT :most"
    ),
}


def index_with_messages(messages: Table) -> None:
    """Make the index whenever the table is made from the metadata."""
    for dialect, statements in (("sqlite", SQLITE_INDEX), ("postgresql", POSTGRESQL_INDEX)):
        for statement in statements:
            event.listen(messages, "after_create", DDL(statement.replace("%", "%%")).execute_if(dialect=dialect))


def newest_hits(
    connection: Connection, words: list[str], *, cut: bool, excerpt: int, most: int
) -> Iterator[tuple[str, str, str]]:
    """Yield (session id, role, excerpt) of the messages that hold all words, newest first, fetched only as far as read.

    A word may be any text without white space; `cut` says that the last is the beginning of one.
    """
    dialect = connection.dialect.name
    terms = _sqlite_terms(words, cut) if dialect == "sqlite" else _postgresql_terms(words, cut)
    parameters = {"terms": terms, "excerpt": excerpt, "most": most}
    with connection.execute(_HITS[dialect], parameters).yield_per(FETCHED_TOGETHER) as rows:
        yield from cast("Iterator[tuple[str, str, str]]", rows)


def _sqlite_terms(words: list[str], cut: bool) -> str:
    """Quote each word, so that no character of it is an operator (sqlite.org/fts5.html, section 3.1)."""
    return " ".join('"' + word.replace('"', '""') + '"' for word in words) + ("*" if cut else "")


def _postgresql_terms(words: list[str], cut: bool) -> str:
    """Quote each word as a lexeme (postgresql.org/docs, section 8.11.2)."""
    quoted = ("'" + word.replace("\\", "\\\\").replace("'", "''") + "'" for word in words)
    return " & ".join(quoted) + (":*" if cut else "")

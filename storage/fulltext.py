"""The full text indexes over messages and memories: FTS5 on SQLite, `tsvector` with GIN on PostgreSQL.

Both are kept by the database itself, so no command can forget them; nothing outside this module knows them apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import cast

from msgspec import json
from sqlalchemy import DDL, Connection, Table, TextClause, event, text

FETCHED_TOGETHER = 32

RANKED_HITS = 1_000
"""Hits that are ranked by relevance: a word that more texts have tells nothing, and ranking them all takes long."""


def index_statements(table: str) -> Mapping[str, tuple[str, ...]]:
    """What makes the index over the column `content` of `table`, whose key is `id`, by dialect."""
    index = f"{table}_fts"
    forget = f"INSERT INTO {index} ({index}, rowid, content) VALUES ('delete', old.id, old.content); "  # noqa: S608 - our own names
    add = f"INSERT INTO {index} (rowid, content) VALUES (new.id, new.content); "  # noqa: S608 - our own names
    return {
        "sqlite": (
            (
                f"CREATE VIRTUAL TABLE {index} USING fts5(content, content='{table}', content_rowid='id', "
                "tokenize='unicode61 remove_diacritics 2', prefix='3')"
            ),
            f"CREATE TRIGGER {index}_insert AFTER INSERT ON {table} BEGIN {add}END",
            f"CREATE TRIGGER {index}_delete AFTER DELETE ON {table} BEGIN {forget}END",
            f"CREATE TRIGGER {index}_update AFTER UPDATE OF content ON {table} BEGIN {forget}{add}END",
        ),
        "postgresql": (
            # A tsvector may hold 1 MiB: a longer text is found by its beginning.
            (
                f"ALTER TABLE {table} ADD COLUMN content_tsv tsvector "
                "GENERATED ALWAYS AS (to_tsvector('simple', left(content, 100000))) STORED"
            ),
            f"CREATE INDEX ix_{table}_content_tsv ON {table} USING gin (content_tsv)",
        ),
    }


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
_MEMORY_IDS = {
    "sqlite": text("SELECT rowid FROM memories_fts WHERE memories_fts MATCH :terms"),
    "postgresql": text("SELECT id FROM memories WHERE content_tsv @@ to_tsquery('simple', :terms)"),
}
_MEMORIES_WITH = {
    "sqlite": text(
        "SELECT w.value, (SELECT count(*) FROM "
        "(SELECT 1 FROM memories_fts WHERE memories_fts MATCH w.value LIMIT :most)) FROM json_each(:terms) w"
    ),
    "postgresql": text(
        "SELECT w.value, (SELECT count(*) FROM (SELECT 1 FROM memories "
        "WHERE content_tsv @@ to_tsquery('simple', w.value) LIMIT :most) hits) "
        "FROM json_array_elements_text(CAST(:terms AS json)) w(value)"
    ),
}
_RANKED_MEMORIES = {
    "sqlite": text(
        "SELECT rowid, -rank AS relevance FROM memories_fts WHERE memories_fts MATCH :terms ORDER BY rank LIMIT :most"
    ),
    "postgresql": text(
        "SELECT id, ts_rank(content_tsv, query) AS relevance FROM memories, to_tsquery('simple', :terms) query "
        "WHERE content_tsv @@ query ORDER BY relevance DESC LIMIT :most"
    ),
}
_NEWEST_MEMORIES = {
    "sqlite": text(
        "SELECT rowid, 1.0 AS relevance FROM memories_fts WHERE memories_fts MATCH :terms "
        "ORDER BY rowid DESC LIMIT :most"
    ),
    "postgresql": text(
        "SELECT id, 1.0 AS relevance FROM memories WHERE content_tsv @@ to_tsquery('simple', :terms) "
        "ORDER BY id DESC LIMIT :most"
    ),
}


def index_content(table: Table) -> None:
    """Make the index whenever the table is made from the metadata."""
    for dialect, statements in index_statements(table.name).items():
        for statement in statements:
            event.listen(table, "after_create", DDL(statement.replace("%", "%%")).execute_if(dialect=dialect))


def newest_hits(
    connection: Connection, words: list[str], *, cut: bool, excerpt: int, most: int
) -> Iterator[tuple[str, str, str]]:
    """Yield (session id, role, excerpt) of the messages that hold all words, newest first, fetched only as far as read.

    A word may be any text without white space; `cut` says that the last is the beginning of one.
    """
    parameters = {"terms": all_of(connection, words, cut=cut), "excerpt": excerpt, "most": most}
    with connection.execute(_HITS[connection.dialect.name], parameters).yield_per(FETCHED_TOGETHER) as rows:
        yield from cast("Iterator[tuple[str, str, str]]", rows)


def memory_ids(connection: Connection) -> TextClause:
    """The ids of the memories that hold `:terms`, as a part of a query."""
    return _MEMORY_IDS[connection.dialect.name]


def ranked_memories(connection: Connection, words: list[str], *, most: int) -> list[tuple[int, float]]:
    """The ids of the memories that hold any of the words, the most relevant first, each with its relevance above 0.

    Looks for the rarest of the words, as many as have `RANKED_HITS` together; where every word is more frequent than
    that, the newest memories with one of them stand for all.
    """
    dialect = connection.dialect.name
    terms = _rarest(connection, words)
    if not terms:
        return []
    statement = _RANKED_MEMORIES if sum(terms.values()) < RANKED_HITS else _NEWEST_MEMORIES
    rows = connection.execute(statement[dialect], {"terms": _any_of(dialect, terms), "most": most})
    return [(memory_id, relevance) for memory_id, relevance in rows]


def _rarest(connection: Connection, words: list[str]) -> dict[str, int]:
    """The words, quoted, that so few memories have that their hits can be ranked, with their numbers; at least one."""
    parameters = {"terms": json.encode(_quoted(connection, words)).decode(), "most": RANKED_HITS}
    rows = connection.execute(_MEMORIES_WITH[connection.dialect.name], parameters)
    by_number = sorted(((number, term) for term, number in rows if number), key=itemgetter(0))
    chosen: dict[str, int] = {}
    total = 0
    for number, term in by_number:
        total += number
        if chosen and total >= RANKED_HITS:
            break
        chosen[term] = number
    return chosen


def all_of(connection: Connection, words: list[str], *, cut: bool) -> str:
    """The search for all of the words; `cut` says that the last is the beginning of one."""
    conjunction, cut_mark = (" ", "*") if connection.dialect.name == "sqlite" else (" & ", ":*")
    return conjunction.join(_quoted(connection, words)) + (cut_mark if cut else "")


def _any_of(dialect: str, terms: Iterable[str]) -> str:
    return (" OR " if dialect == "sqlite" else " | ").join(terms)


def _quoted(connection: Connection, words: list[str]) -> list[str]:
    """Each word in quotes, so that no character of it is an operator.

    See sqlite.org/fts5.html, section 3.1, and postgresql.org/docs, section 8.11.2.
    """
    if connection.dialect.name == "sqlite":
        return ['"' + word.replace('"', '""') + '"' for word in words]
    return ["'" + word.replace("\\", "\\\\").replace("'", "''") + "'" for word in words]

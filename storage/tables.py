"""The tables, as the newest migration leaves them (a test holds the two together).

Ids that count up (`messages.id` and the logs') are never given twice, so they serve as cursors and as order.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    DDL,
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Row,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    event,
    text,
)

from . import append_only
from .fulltext import index_content


def utc_now() -> datetime:
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time: UTC text on SQLite, `timestamptz` on PostgreSQL, always aware in Python."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is UTC:
            return value
        if value.tzinfo is None:
            raise ValueError(f"a time without its zone cannot be stored: {value.isoformat()}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """On SQLite straight from the text: a page of sessions has 150 times, and this takes a fifth."""
        return _from_sqlite if dialect.name == "sqlite" else super().result_processor(dialect, coltype)


def _from_sqlite(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(f"{value}+00:00")


def plain(value: str) -> str:
    """The text as it is stored: PostgreSQL refuses NUL, and SQLite's functions stop at it, so it becomes U+FFFD."""
    return value.replace("\0", "\ufffd") if "\0" in value else value


class PlainText(TypeDecorator[str]):
    """Text that may come from anywhere, stored `plain`."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else plain(value)


Counter = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only in a column typed INTEGER
AnyRow = Row[*tuple[Any, ...]]
JsonObject = dict[str, object]

Json = JSON(none_as_null=True)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("title", PlainText),  # NULL until a person or the first message names it
    Column("channel", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("last_activity", UtcDateTime, nullable=False),
    Column("message_count", Integer, nullable=False),  # kept in the transaction that adds the message
    Index(None, "last_activity", "id"),
)

UNFINISHED = text("state IN ('pending', 'running')")

turns = Table(
    "turns",
    metadata,
    Column("id", Text, primary_key=True),
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("state", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("principal", Text, nullable=False),
    Column("boot_id", Text, nullable=False),  # the daemon start that last added or claimed it
    Column(
        "attempts", Integer, nullable=False
    ),  # counted before each attempt, so that one that kills the daemon counts
    Column("idempotency_key", PlainText),  # taken away again when it has expired
    Column("error", PlainText),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("scopes", Json),  # the principal's, when the message came; NULL is none
    CheckConstraint("state IN ('pending', 'running', 'done', 'failed', 'interrupted', 'stopped')", name="state"),
    UniqueConstraint("principal", "idempotency_key"),
)
# As text, because Index(postgresql_where=…) imports the whole PostgreSQL dialect at every start.
event.listen(turns, "after_create", DDL(f"CREATE INDEX ix_turns_unfinished ON turns (boot_id) WHERE {UNFINISHED}"))

messages = Table(
    "messages",
    metadata,
    Column("id", Counter, primary_key=True),
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("turn_id", Text, ForeignKey("turns.id", ondelete="CASCADE")),
    Column("reply_to", Counter),  # on a reply, the id of the message that it answers
    Column("role", Text, nullable=False),
    Column("content", PlainText, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("metadata", Json),  # NULL when there is none
    Index(None, "session_id", "id"),
    UniqueConstraint("turn_id", "role"),  # one question and one answer a turn
    sqlite_autoincrement=True,
)
index_content(messages)

usage = Table(
    "usage",
    metadata,
    Column("id", Counter, primary_key=True),
    # What was spent stays known after its session is deleted.
    Column("turn_id", Text, ForeignKey("turns.id", ondelete="SET NULL")),
    Column("model", PlainText, nullable=False),
    Column("backend", PlainText, nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("total_tokens", Integer, nullable=False),
    Column("cost_usd", Float(53)),  # NULL where the price is not known
    Column("created_at", UtcDateTime, nullable=False, index=True),
    UniqueConstraint("turn_id", "backend", "model"),
    sqlite_autoincrement=True,
)

steps = Table(
    "steps",
    metadata,
    Column("turn_id", Text, ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("content", PlainText, nullable=False),
    Column("tool_calls", Json, nullable=False),
    Column("thoughts", Json),
    Column("usage", Json),
    Column("created_at", UtcDateTime, nullable=False),
)

tool_calls = Table(
    "tool_calls",
    metadata,
    Column("id", Counter, primary_key=True),
    Column("request_id", Text, nullable=False, unique=True),
    # What was done stays known after its session is deleted.
    Column("turn_id", Text, ForeignKey("turns.id", ondelete="SET NULL")),
    Column("session_id", Text, nullable=False),
    Column("step", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("tool", Text, nullable=False),
    Column("arguments", Json, nullable=False),
    Column("effect", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("principal", Text, nullable=False),
    Column("provenance", Json, nullable=False),
    Column("pattern", PlainText, nullable=False),  # what a grant given for this call covers
    Column("state", Text, nullable=False),
    Column("reason", PlainText, nullable=False),
    Column("claim", Text),  # the life of the gate that runs it
    Column("output", PlainText),
    Column("source", PlainText),
    Column("decided_by", Text),
    Column("decided_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    CheckConstraint(
        "state IN ('waiting', 'approved', 'running', 'done', 'failed', 'denied', 'expired', 'interrupted')",
        name="state",
    ),
    UniqueConstraint("turn_id", "step", "number"),
    sqlite_autoincrement=True,
)
event.listen(
    tool_calls,
    "after_create",
    DDL("CREATE INDEX ix_tool_calls_waiting ON tool_calls (session_id) WHERE state = 'waiting'"),
)

grants = Table(
    "grants",
    metadata,
    Column("id", Counter, primary_key=True),
    Column("tool", Text, nullable=False, index=True),
    Column("pattern", PlainText, nullable=False),
    Column("principal", Text, nullable=False),
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE")),  # NULL: for every session
    Column("provenance", Json, nullable=False),  # the kinds of outside content that it was given in spite of
    Column("granted_by", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)

summaries = Table(
    "summaries",
    metadata,
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("up_to", Counter, nullable=False),  # the id of the last message that it sums up
    Column("content", PlainText, nullable=False),
    Column("provenance", Json, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)

errors = Table(
    "errors",
    metadata,
    Column("id", Counter, primary_key=True),
    Column("timestamp", UtcDateTime, nullable=False),
    Column("source", PlainText, nullable=False),
    Column("severity", Text, nullable=False),
    Column("message", PlainText, nullable=False),
    Column("traceback", PlainText),
    Column("context", Json),
    sqlite_autoincrement=True,
)

supervision_events = Table(
    "supervision_events",
    metadata,
    Column("id", Counter, primary_key=True),
    Column("timestamp", UtcDateTime, nullable=False),
    Column("path", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("incarnation", Integer, nullable=False),
    Column("reason", PlainText),
    sqlite_autoincrement=True,
)

revoked_tokens = Table(
    "revoked_tokens",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

memories = Table(
    "memories",
    metadata,
    Column("id", Counter, primary_key=True),
    Column("content", PlainText, nullable=False),
    Column("digest", Text, nullable=False, unique=True),  # of its words: nothing is kept twice
    Column("tags", Json, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("last_used_at", UtcDateTime),
    Column("uses", Integer, nullable=False),
    Column("source_session", PlainText),  # which may be deleted: what was learned stays
    Column("provenance", Json),  # NULL where a person said it
    Index(None, "updated_at", "id"),
    sqlite_autoincrement=True,
)
index_content(memories)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", PlainText, primary_key=True),
    Column("name", PlainText, nullable=False),
    Column("prefix", Text, nullable=False),  # the key's beginning, by which people tell it from others
    Column("digest", Text, nullable=False, unique=True),
    Column("scopes", Json, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_used_at", UtcDateTime),
    Column("expires_at", UtcDateTime),  # NULL: never
    Column("revoked_at", UtcDateTime),
)

oauth_grants = Table(
    "oauth_grants",
    metadata,
    Column("id", Text, primary_key=True),
    Column("client_id", Text, nullable=False),
    Column("scopes", Json, nullable=False),
    Column("granted_by", Text, nullable=False),
    Column("redirect_uri", PlainText, nullable=False),
    Column("code_digest", Text, nullable=False, unique=True),
    Column("code_challenge", Text, nullable=False),
    Column("code_expires_at", UtcDateTime, nullable=False),
    Column("code_used_at", UtcDateTime),  # by the first attempt, whatever came of it
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
)

oauth_tokens = Table(
    "oauth_tokens",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("grant_id", Text, ForeignKey("oauth_grants.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
    Column("used_at", UtcDateTime),  # of a refresh token: it is used once
    CheckConstraint("kind IN ('access', 'refresh')", name="kind"),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("name", PlainText, primary_key=True),
    Column("description", PlainText, nullable=False),
    Column("secret", Text),  # left by a version without a vault; NULL where the vault has it
    Column("sync_timeout", Integer),  # seconds; NULL leaves it to the setting
    Column("created_at", UtcDateTime, nullable=False),
)

kits = Table(
    "kits",
    metadata,
    Column("id", PlainText, primary_key=True),
    Column("config", Json, nullable=False),
    Column("user_values", Json, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("settled", Boolean, nullable=False),  # whether the scheduler has its workflows as `active` says
    Column("principal", Text, nullable=False),  # whoever switched it on or off last, and so what its workflows may do
    Column("scopes", Json, nullable=False),
    Column("installed_at", UtcDateTime, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", PlainText, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("name", PlainText, nullable=False),
    Column("prompt", PlainText, nullable=False),
    Column("schedule", Text, nullable=False),  # empty: once
    Column("recurrence", PlainText),
    Column("next_slot", UtcDateTime, index=True),  # NULL: nothing comes any more, or it is switched off
    Column("enabled", Boolean, nullable=False),
    Column("session_id", Text),  # which may be deleted: the reminder comes all the same
    Column("channel", Text, nullable=False),
    Column("principal", Text, nullable=False),
    Column("scopes", Json, nullable=False),
    Column("provenance", Json, nullable=False),
    Column("context_sources", Json, nullable=False),
    Column("owner", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_run", UtcDateTime),
    CheckConstraint("kind IN ('reminder', 'intention', 'task')", name="kind"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Counter, primary_key=True),
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("slot", UtcDateTime, nullable=False),
    Column("until", UtcDateTime),  # of skipped ones that share a row: the slot after the last of them
    Column("state", Text, nullable=False),
    Column("is_late", Boolean, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("claim", Text),  # the life of the scheduler that began it
    Column("turn_id", Text),
    Column("error", PlainText),
    Column("created_at", UtcDateTime, nullable=False, index=True),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    CheckConstraint("state IN ('pending', 'running', 'done', 'failed', 'interrupted', 'skipped')", name="state"),
    UniqueConstraint("job_id", "slot"),
    sqlite_autoincrement=True,
)
event.listen(runs, "after_create", DDL(f"CREATE INDEX ix_runs_unfinished ON runs (job_id) WHERE {UNFINISHED}"))

conversations = Table(
    "conversations",
    metadata,
    Column("id", Counter, primary_key=True),
    Column("session_id", Text, nullable=False, unique=True),  # which may be deleted: the chat goes on in a new one
    Column("channel", Text, nullable=False),
    Column("chat", PlainText, nullable=False),
    Column("thread", PlainText, nullable=False),  # empty: none
    Column("is_direct", Boolean, nullable=False),
    Column("opened_at", UtcDateTime, nullable=False),
    Index("ix_conversations_chat", "channel", "chat", "thread"),
    sqlite_autoincrement=True,
)

inbox = Table(
    "inbox",
    metadata,
    Column("id", Counter, primary_key=True),
    Column("channel", Text, nullable=False),
    Column("key", PlainText, nullable=False),
    Column("chat", PlainText, nullable=False),
    Column("thread", PlainText, nullable=False),
    Column("ref", PlainText),
    Column("sender", PlainText, nullable=False),
    Column("sender_name", PlainText, nullable=False),
    Column("is_direct", Boolean, nullable=False),
    Column("is_trusted", Boolean, nullable=False),
    Column("text", PlainText, nullable=False),  # emptied once it is answered: the session has it
    Column("media", Json, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("answered_at", UtcDateTime),
    CheckConstraint("state IN ('open', 'answered')", name="state"),
    UniqueConstraint("channel", "key"),
    sqlite_autoincrement=True,
)
event.listen(inbox, "after_create", DDL("CREATE INDEX ix_inbox_open ON inbox (channel) WHERE state = 'open'"))

outbox = Table(
    "outbox",
    metadata,
    Column("id", Counter, primary_key=True),
    Column("key", PlainText, nullable=False, unique=True),
    Column("channel", Text, nullable=False),
    Column("chat", PlainText, nullable=False),
    Column("thread", PlainText, nullable=False),
    Column("reply_to", PlainText),
    Column("text", PlainText, nullable=False),  # emptied once it is sent
    Column("state", Text, nullable=False),
    Column("ref", PlainText),  # the platform's name for the message, once it has one: then it is edited, not sent
    Column("attempts", Integer, nullable=False),  # counted before each attempt
    Column("unsure", Integer, nullable=False),  # attempts of which nobody knows what came
    Column("is_repeat", Boolean, nullable=False),  # it may have arrived before
    Column("claim", Text),  # the life of the channel that tries it
    Column("due_at", UtcDateTime, nullable=False),
    Column("error", PlainText),
    Column("created_at", UtcDateTime, nullable=False),
    Column("sent_at", UtcDateTime),
    CheckConstraint("state IN ('draft', 'pending', 'sending', 'sent', 'dead', 'expired')", name="state"),
    sqlite_autoincrement=True,
)
event.listen(
    outbox,
    "after_create",
    DDL("CREATE INDEX ix_outbox_unsent ON outbox (channel, chat) WHERE state IN ('draft', 'pending', 'sending')"),
)

pairings = Table(
    "pairings",
    metadata,
    Column("channel", Text, primary_key=True),
    Column("sender", PlainText, primary_key=True),
    Column("name", PlainText, nullable=False),
    Column("paired_by", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

pairing_codes = Table(
    "pairing_codes",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("channel", Text, nullable=False),
    Column("made_by", Text, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)

strangers = Table(
    "strangers",
    metadata,
    Column("channel", Text, primary_key=True),
    Column("sender", PlainText, primary_key=True),
    Column("told_at", UtcDateTime, nullable=False, index=True),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Counter, primary_key=True, autoincrement=False),  # given by whoever appends: dense
    Column("timestamp", UtcDateTime, nullable=False),
    Column("actor", PlainText, nullable=False),
    Column("action", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("description", PlainText, nullable=False),
    Column("context", Json, nullable=False),
    Column("status", Text, nullable=False),
    Column("trace_id", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Index("ix_audit_timestamp_id", "timestamp", "id"),
    Index("ix_audit_category_timestamp_id", "category", "timestamp", "id"),
    Index("ix_audit_actor_timestamp_id", "actor", "timestamp", "id"),
)

audit_archives = Table(
    "audit_archives",
    metadata,
    Column("last_id", Counter, primary_key=True, autoincrement=False),
    Column("first_id", Counter, nullable=False),
    Column("last_hash", Text, nullable=False),
    Column("file", Text, nullable=False),  # its name in the home's folder of archives
    Column("digest", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)
for _dialect, _triggers in (("sqlite", append_only.SQLITE), ("postgresql", append_only.POSTGRESQL)):
    for _trigger in _triggers:
        event.listen(audit_archives, "after_create", DDL(_trigger).execute_if(dialect=_dialect))

self_audits = Table(
    "self_audits",
    metadata,
    Column("date", Text, primary_key=True),
    Column("timestamp", UtcDateTime, nullable=False),
    Column("total", Integer, nullable=False),
    Column("passed", Integer, nullable=False),
    Column("issues", Integer, nullable=False),
    Column("checks", Json, nullable=False),
)

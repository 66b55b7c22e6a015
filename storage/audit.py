"""The audit: who did what, one row for each act, each chained to the one before it by a hash.

A row's hash is the SHA-256 of the hash before it, a line feed, and the JSON array of its fields: id, timestamp (UTC,
with microseconds), actor, action, category, description, context (keys sorted), status, trace id. Ids are dense and
given here, by the one writer, so a row that is gone leaves a gap, and one that was changed no longer has its hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from sqlalchemy import ColumnElement, Connection, LargeBinary, Select, bindparam, cast, func, insert, select
from sqlalchemy.exc import DBAPIError

from ..runtime.errors import InvalidInput
from ..runtime.message import Message
from .failures import translate
from .registry import command, query, recurring_query
from .tables import AnyRow, JsonObject, audit, audit_archives, plain, utc_now

GENESIS = "0" * 64
"""What the first row of all follows."""

PAGE = 1_000
CHECKED_TOGETHER = 250
"""So that whoever checks a long chain does not keep the interpreter from others for long."""

Moment = Annotated[str, msgspec.Meta(pattern=r"^$|^\d{4}-\d\d-\d\d([T ]\S{5,26})?$", max_length=40)]
"""A day, or a time with its offset (UTC without one)."""


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was done, or tried. `description` is for people, `context` for programs; neither has secrets."""

    actor: str
    action: str
    category: str
    description: str
    context: JsonObject = msgspec.field(default_factory=JsonObject)
    status: str = "success"
    trace_id: str = ""
    timestamp: datetime = msgspec.field(default_factory=utc_now)


class AuditEntry(msgspec.Struct, frozen=True):
    """An act in the audit. `hash` chains it to the entry before it."""

    id: str
    timestamp: datetime
    actor: str
    action: str
    category: str
    description: str
    context: JsonObject
    status: str
    trace_id: str
    hash: str


class AuditHead(msgspec.Struct, frozen=True):
    """A place in the chain: the id of an entry, and its hash."""

    id: int = 0
    hash: str = GENESIS


class AuditExtent(msgspec.Struct, frozen=True):
    """From where the chain goes on after the latest archive to its end."""

    base: AuditHead
    head: AuditHead

    @property
    def entries(self) -> int:
        return self.head.id - self.base.id


class CheckedPage(msgspec.Struct, frozen=True):
    """How far the chain was looked at, and what is wrong there; `is_end` where there is no more of it."""

    head: AuditHead
    problems: list[str]
    is_end: bool


class AppendToAudit(Message[AuditHead], to="store/writer"):
    """Append acts in their order; answers with the new end of the chain."""

    acts: list[Act]


class ListAudit(Message[list[AuditEntry]], to="store/reader"):
    """List the audit, newest first.

    `date_from` and `date_to` are days or times, in UTC unless they say otherwise; a day counts as a whole.
    """

    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 50
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    category: str = ""
    actor: str = ""
    date_from: Moment = ""
    date_to: Moment = ""


class PageAudit(Message[list[AuditEntry]], to="store/reader"):
    """The next entries after an id, oldest first."""

    after: int
    up_to: int
    limit: Annotated[int, msgspec.Meta(ge=1, le=PAGE)] = PAGE


class GetAuditExtent(Message[AuditExtent], to="store/reader"):
    """Where the chain begins and ends."""


class GetAuditHash(Message[str | None], to="store/reader"):
    """The hash of one entry; None where there is none of that id."""

    id: int


class CheckAuditPage(Message[CheckedPage], to="store/reader"):
    """See whether the entries that follow a place in the chain are as they were written."""

    after: AuditHead


_COLUMNS = (
    audit.c.id,
    audit.c.timestamp,
    audit.c.actor,
    audit.c.action,
    audit.c.category,
    audit.c.description,
    audit.c.context,
    audit.c.status,
    audit.c.trace_id,
    audit.c.hash,
)
_KINDS: list[type] = [datetime, str, str, str, str, dict, str, str, str]
_ENTRIES = select(*_COLUMNS)
_NEWEST = _ENTRIES.order_by(audit.c.timestamp.desc(), audit.c.id.desc())
_AFTER = (
    _ENTRIES.where(audit.c.id > bindparam("after"), audit.c.id <= bindparam("up_to"))
    .order_by(audit.c.id)
    .limit(bindparam("limit"))
)
_HEAD = select(audit.c.id, cast(audit.c.hash, LargeBinary)).order_by(audit.c.id.desc()).limit(1)
_BASE = select(audit_archives.c.last_id, audit_archives.c.last_hash).order_by(audit_archives.c.last_id.desc()).limit(1)
_ARCHIVED = select(func.coalesce(func.max(audit_archives.c.last_id), 0)).scalar_subquery()
_HASH = select(cast(audit.c.hash, LargeBinary)).where(audit.c.id == bindparam("of_id"))
_LAST_ID = select(func.max(audit.c.id))
_ONE = _ENTRIES.where(audit.c.id == bindparam("of_id"))
_INSERT = insert(audit)
_canonical = msgspec.json.Encoder(order="deterministic").encode


@command
def append_to_audit(connection: Connection, message: AppendToAudit) -> AuditHead:
    return append(connection, message.acts)


@recurring_query
def list_audit(connection: Connection, message: ListAudit) -> list[AuditEntry]:
    conditions = list(_conditions(message))
    return _entries(connection, _NEWEST.where(*conditions).limit(message.limit).offset(message.offset))


@query
def page_audit(connection: Connection, message: PageAudit) -> list[AuditEntry]:
    return _entries(connection, _AFTER, msgspec.structs.asdict(message))


@query
def get_audit_extent(connection: Connection, _message: GetAuditExtent) -> AuditExtent:
    return extent(connection)


@query
def get_audit_hash(connection: Connection, message: GetAuditHash) -> str | None:
    return hash_of(connection, message.id)


@query
def check_audit_page(connection: Connection, message: CheckAuditPage) -> CheckedPage:
    last: int = connection.execute(_LAST_ID).scalar() or 0
    entries = _entries(connection, _AFTER, {"after": message.after.id, "up_to": last, "limit": CHECKED_TOGETHER})
    head, problems = follow(message.after, entries)
    return CheckedPage(head, problems, len(entries) < CHECKED_TOGETHER)


def append(connection: Connection, acts: Iterable[Act]) -> AuditHead:
    """Append to the chain, within whatever else the transaction does: both are on disk, or neither is."""
    head = extent(connection).head
    rows: list[JsonObject] = []
    for act in acts:
        known = _plain(act)
        head = AuditHead(head.id + 1, link(head, known))
        rows.append({**msgspec.structs.asdict(known), "id": head.id, "hash": head.hash})
    if rows:
        connection.execute(_INSERT, rows)
    return head


def extent(connection: Connection) -> AuditExtent:
    """The chain as this transaction sees it; entries that are archived, and about to go, are not of it any more."""
    archived = connection.execute(_BASE).first()
    base = AuditHead() if archived is None else AuditHead(*archived)
    newest = connection.execute(_HEAD).first()
    head = base if newest is None or newest[0] <= base.id else AuditHead(newest[0], _legible_part(newest[1]))
    return AuditExtent(base, head)


def hash_of(connection: Connection, of_id: int) -> str | None:
    """The hash of an entry, or what is left of it; None if there is no such entry."""
    raw: bytes | None = connection.execute(_HASH, {"of_id": of_id}).scalar()
    return None if raw is None else _legible_part(raw)


def link(previous: AuditHead, act: Act) -> str:
    """The hash of the entry that follows `previous`; see the module."""
    fields = (
        previous.id + 1,
        act.timestamp.astimezone(UTC).isoformat(timespec="microseconds"),
        act.actor,
        act.action,
        act.category,
        act.description,
        act.context,
        act.status,
        act.trace_id,
    )
    return hashlib.sha256(previous.hash.encode() + b"\n" + _canonical(fields)).hexdigest()


def follow(place: AuditHead, entries: Sequence[AuditEntry]) -> tuple[AuditHead, list[str]]:
    """Go along the chain from `place`; where it ends, and what is wrong on the way, each entry by its id."""
    problems: list[str] = []
    for entry in entries:
        number = int(entry.id)
        if number > place.id + 1:
            gone = (
                f"entry {place.id + 1} is" if number == place.id + 2 else f"entries {place.id + 1} to {number - 1} are"
            )
            problems.append(f"{gone} gone")
        elif entry.hash != link(place, _act(entry)):
            problems.append(f"entry {number} was changed, or is not the one that followed entry {place.id}")
        place = AuditHead(number, entry.hash)
    return place, problems


def _conditions(message: ListAudit) -> Iterable[ColumnElement[bool]]:
    yield audit.c.id > _ARCHIVED
    if message.category:
        yield audit.c.category == message.category
    if message.actor:
        yield audit.c.actor == message.actor
    if message.date_from:
        yield audit.c.timestamp >= _moment("date_from", message.date_from)[0]
    if message.date_to:
        yield audit.c.timestamp < _moment("date_to", message.date_to)[1]


def _moment(field: str, text: str) -> tuple[datetime, datetime]:
    """The time that is meant, and the first that is after it."""
    is_day = len(text) == len("2026-01-31")
    try:
        given = datetime.fromisoformat(text)
        moment = (given if given.tzinfo is not None else given.replace(tzinfo=UTC)).astimezone(UTC)
        return moment, moment + (timedelta(days=1) if is_day else timedelta(microseconds=1))
    except (ValueError, OverflowError):
        raise InvalidInput(f"expected a day or a time such as 2026-01-31, got {text!r}", field=field) from None


def _plain(act: Act) -> Act:
    """As it will be read again."""
    texts = {name: plain(getattr(act, name)) for name in ("actor", "action", "category", "description", "status")}
    context = msgspec.json.decode(msgspec.json.encode(act.context), type=JsonObject)
    return msgspec.structs.replace(act, **texts, trace_id=plain(act.trace_id), context=context)


def _act(entry: AuditEntry) -> Act:
    return Act(
        actor=entry.actor,
        action=entry.action,
        category=entry.category,
        description=entry.description,
        context=entry.context,
        status=entry.status,
        trace_id=entry.trace_id,
        timestamp=entry.timestamp,
    )


def _entries(
    connection: Connection, statement: Select[*tuple[Any, ...]], parameters: Mapping[str, object] | None = None
) -> list[AuditEntry]:
    """The entries that are asked for; one that somebody made unreadable is in its place, with what is left of it."""
    entries = _legible(connection, statement, parameters)
    if entries is not None:
        return entries
    ids: Sequence[int] = connection.execute(statement.with_only_columns(audit.c.id), parameters).scalars().all()
    return [
        entry for of_id in ids for entry in _legible(connection, _ONE, {"of_id": of_id}) or [_ruin(connection, of_id)]
    ]


def _legible(
    connection: Connection, statement: Select[*tuple[Any, ...]], parameters: Mapping[str, object] | None
) -> list[AuditEntry] | None:
    """The entries; None if one of them holds what we never write: SQLite takes anything in any column."""
    try:
        return [_read(row) for row in connection.execute(statement, parameters)]
    except (ValueError, TypeError, RecursionError, msgspec.MsgspecError):
        return None
    except DBAPIError as error:
        if translate(error, connection.engine.url) is not None:
            raise
        return None  # text that is not UTF-8


def _ruin(connection: Connection, of_id: int) -> AuditEntry:
    kept = hash_of(connection, of_id) or ""
    text = "This entry was changed, and cannot be read any more."
    return AuditEntry(str(of_id), datetime.fromtimestamp(0, UTC), "", "", "", text, {}, "", "", kept)


def _legible_part(raw: bytes) -> str:
    """What is left of a hash: whoever goes on from it must not fail for what it has become."""
    return raw.decode(errors="replace")


def _read(row: AnyRow) -> AuditEntry:
    """Raises TypeError for what no entry holds."""
    entry_id, *rest = row
    if [type(value) for value in rest] != _KINDS:
        raise TypeError(f"entry {entry_id} is not as it was written")
    return AuditEntry(str(entry_id), *rest)

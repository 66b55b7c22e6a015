"""Memories: what the agent keeps about people and their world, beyond any one session.

What was learned under the influence of outside content keeps its provenance; it never replaces what a person said, and
comes into a conversation only when it is asked for.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, TypedDict

import msgspec
from sqlalchemy import Connection, Select, bindparam, delete, func, insert, select, text, update

from ..runtime.errors import InvalidInput, NotFound
from ..runtime.message import Done, Message
from .fulltext import all_of, memory_ids, ranked_memories
from .registry import command, recurring_query
from .sessions import Ok
from .tables import AnyRow, memories, plain, sessions, utc_now

SAME_SHARE = 0.8
"""Of the longer text's words that a near duplicate has, in their order."""

NEIGHBOURS = 10
"""Most similar memories that a new one is compared with."""

WORDS_USED = 24
"""Different words of a text that are searched for, the longest first: those say most."""

SHORTEST_BEGINNING_BYTES = 3
PUNCTUATION = "\"'.,;:!?()[]{}…\u201c\u201d\u201e\u2018\u2019«»"
MAX_TAGS = 20

Content = Annotated[str, msgspec.Meta(min_length=1, max_length=5_000)]
Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=50)]
Tags = Annotated[list[Tag], msgspec.Meta(max_length=MAX_TAGS)]


class Memory(msgspec.Struct, frozen=True):
    """`updated_at` is when it was last said, `last_used_at` when it last came up, `uses` how often it has.

    `provenance` names the outside content that it was learned from; a person said it if that is empty.
    """

    id: str
    content: str
    tags: list[str]
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None
    uses: int
    source_session: str | None
    provenance: list[str]


class Remembered(msgspec.Struct, frozen=True):
    """The memory as it now is: a new one, or the one that said the same before."""

    memory: Memory
    is_new: bool


class MemoryPage(msgspec.Struct, frozen=True):
    memories: list[Memory]
    total: int


class MemoryStats(msgspec.Struct, frozen=True):
    """`size_bytes` is the size of the whole database."""

    total_memories: int
    total_sessions: int
    total_messages: int
    size_bytes: int


class AddMemory(Message[Remembered], to="store/writer"):
    """Keep something. What says the same, or nearly so, is brought up to date instead; the newer wording stands."""

    content: Content
    tags: Tags = msgspec.field(default_factory=list[str])
    source_session: str | None = None
    provenance: list[str] = msgspec.field(default_factory=list[str])


class ListMemories(Message[MemoryPage], to="store/reader"):
    """List memories, those last said first; with `q`, those that hold all of its words.

    The last word may be the beginning of one.
    """

    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 50
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    q: Annotated[str, msgspec.Meta(max_length=1000)] = ""


class MarkMemoriesUsed(Message[Done], to="store/writer"):
    """Count one more use of each."""

    memory_ids: list[str]


class DeleteMemory(Message[Ok], to="store/writer"):
    """Forget a memory."""

    memory_id: str


class CountMemories(Message[MemoryStats], to="store/reader"):
    """Count what is kept."""


class Said(TypedDict):
    content: str
    digest: str
    tags: list[str]
    provenance: list[str] | None
    source_session: str | None


_COLUMNS = (
    memories.c.id,
    memories.c.content,
    memories.c.tags,
    memories.c.created_at,
    memories.c.updated_at,
    memories.c.last_used_at,
    memories.c.uses,
    memories.c.source_session,
    memories.c.provenance,
)
_MEMORIES = select(*_COLUMNS)
NEWEST = _MEMORIES.order_by(memories.c.updated_at.desc(), memories.c.id.desc())
_BY_DIGEST = _MEMORIES.where(memories.c.digest == bindparam("digest"))
_BY_ID = _MEMORIES.where(memories.c.id.in_(bindparam("ids", expanding=True)))
_COUNT = select(func.count()).select_from(memories)
_COUNT_SESSIONS = select(func.count(), func.coalesce(func.sum(sessions.c.message_count), 0))
_INSERT = insert(memories)
_UPDATE = (
    update(memories)
    .where(memories.c.id == bindparam("memory_id"))
    .values(
        content=bindparam("new_content"),
        digest=bindparam("new_digest"),
        tags=bindparam("new_tags"),
        provenance=bindparam("new_provenance"),
        source_session=bindparam("new_session"),
        updated_at=bindparam("now"),
    )
)
_USE = (
    update(memories)
    .where(memories.c.id.in_(bindparam("ids", expanding=True)))
    .values(uses=memories.c.uses + 1, last_used_at=bindparam("now"))
)
_DELETE = delete(memories).where(memories.c.id == bindparam("memory_id"))
_SIZE = {
    "sqlite": text("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"),
    "postgresql": text("SELECT pg_database_size(current_database())"),
}


@command
def add_memory(connection: Connection, message: AddMemory) -> Remembered:
    said, now = _said(message), utc_now()
    same = _same(connection, said)
    if same is not None:
        return Remembered(_renew(connection, same, said, now), is_new=False)
    row = {**said, "created_at": now, "updated_at": now, "uses": 0}
    inserted = connection.execute(_INSERT, row).inserted_primary_key
    assert inserted is not None
    (added,) = load_memories(connection, [inserted[0]])
    return Remembered(added, is_new=True)


@recurring_query
def list_memories(connection: Connection, message: ListMemories) -> MemoryPage:
    page, count, parameters = NEWEST.limit(message.limit).offset(message.offset), _COUNT, dict[str, str]()
    if message.q.strip():
        words = message.q.replace("\0", " ").split()[:WORDS_USED]
        if not words:
            return MemoryPage([], 0)
        is_cut = len(words[-1].encode()) >= SHORTEST_BEGINNING_BYTES
        parameters["terms"] = all_of(connection, words, cut=is_cut)
        matches = memories.c.id.in_(memory_ids(connection))
        page, count = page.where(matches), count.where(matches)
    return MemoryPage(read_memories(connection, page, parameters), connection.execute(count, parameters).scalar_one())


@command
def mark_memories_used(connection: Connection, message: MarkMemoriesUsed) -> Done:
    connection.execute(_USE, {"ids": [int(memory_id) for memory_id in message.memory_ids], "now": utc_now()})
    return Done()


@command
def delete_memory(connection: Connection, message: DeleteMemory) -> Ok:
    number = message.memory_id
    is_id = number.isascii() and number.isdecimal() and len(number) < 19  # what a 64-bit number holds
    if not is_id or connection.execute(_DELETE, {"memory_id": int(number)}).rowcount == 0:
        raise NotFound(f"there is no memory {number!r}", memory_id=number)
    return Ok()


@recurring_query
def count_memories(connection: Connection, _message: CountMemories) -> MemoryStats:
    total_sessions, total_messages = connection.execute(_COUNT_SESSIONS).one()
    return MemoryStats(
        connection.execute(_COUNT).scalar_one(),
        total_sessions,
        int(total_messages),
        connection.execute(_SIZE[connection.dialect.name]).scalar_one(),
    )


def _same(connection: Connection, said: Said) -> Memory | None:
    """The memory that says the same, or nearly."""
    if exact := read_memories(connection, _BY_DIGEST, {"digest": said["digest"]}):
        return exact[0]
    words = words_of(said["content"])
    for memory in _neighbours(connection, words):
        # A near duplicate from outside must not get a person's words changed, nor be taken for them.
        if bool(memory.provenance) == bool(said["provenance"]) and is_near(words, words_of(memory.content)):
            return memory
    return None


def is_near(one: list[str], other: list[str]) -> bool:
    """Whether the longer text is the other one with few words put in: none is changed, and none has another place."""
    shorter, longer = sorted((one, other), key=len)
    remaining = iter(longer)
    return len(shorter) >= SAME_SHARE * len(longer) and all(word in remaining for word in shorter)


def _renew(connection: Connection, known: Memory, said: Said, now: datetime) -> Memory:
    """Bring a memory up to date. What a person said is that person's, even if the same comes from outside later."""
    is_trusted = not (known.provenance and said["provenance"])
    is_repeated_outside = is_trusted and said["provenance"] is not None
    changes = {
        "memory_id": int(known.id),
        "new_content": known.content if is_repeated_outside else said["content"],
        "new_digest": said["digest"],
        "new_tags": list(dict.fromkeys([*known.tags, *said["tags"]]))[:MAX_TAGS],
        "new_provenance": None if is_trusted else list(dict.fromkeys([*known.provenance, *(said["provenance"] or ())])),
        "new_session": known.source_session if is_repeated_outside else said["source_session"],
        "now": now,
    }
    connection.execute(_UPDATE, changes)
    (renewed,) = load_memories(connection, [int(known.id)])
    return renewed


def _said(message: AddMemory) -> Said:
    """What a message says, as its row has it."""
    content = plain(message.content).strip()
    if not content:
        raise InvalidInput("content says nothing: expected a sentence", field="content")
    return {
        "content": content,
        "digest": _digest(content),
        "tags": [plain(tag) for tag in dict.fromkeys(message.tags)],
        "provenance": [plain(source) for source in message.provenance] or None,
        "source_session": message.source_session,
    }


def _neighbours(connection: Connection, words: list[str]) -> list[Memory]:
    terms = terms_of(words)
    hits = ranked_memories(connection, terms, most=NEIGHBOURS) if terms else []
    return load_memories(connection, [memory_id for memory_id, _ in hits])


def load_memories(connection: Connection, ids: list[int]) -> list[Memory]:
    """The memories of these ids, in their order."""
    found = {memory.id: memory for memory in read_memories(connection, _BY_ID, {"ids": ids})}
    return [found[str(memory_id)] for memory_id in ids if str(memory_id) in found]


def read_memories(
    connection: Connection, statement: Select[*tuple[Any, ...]], parameters: Mapping[str, object]
) -> list[Memory]:
    return [_read(row) for row in connection.execute(statement, parameters)]


def _read(row: AnyRow) -> Memory:
    memory_id, content, tags, created_at, updated_at, last_used_at, uses, source_session, provenance = row
    times = created_at, updated_at, last_used_at
    return Memory(str(memory_id), content, tags or [], *times, uses, source_session, provenance or [])


def words_of(said: str) -> list[str]:
    """The words of a text, whatever their case and the punctuation around them; `C++` stays one."""
    lower = unicodedata.normalize("NFC", said.replace("\0", " ")).lower()
    return [word for part in lower.split() if (word := part.strip(PUNCTUATION))]


def terms_of(words: list[str]) -> list[str]:
    """What to search for: different words that have a letter or a digit."""
    telling = {word for word in words if any(map(str.isalnum, word))}
    return sorted(telling, key=lambda word: (-len(word), word))[:WORDS_USED]


def _digest(said: str) -> str:
    """The same for what has the same words in the same order."""
    return hashlib.sha256(" ".join(words_of(said) or [said]).encode()).hexdigest()

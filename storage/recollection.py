"""Which memories fit what is said: relevance blended with youth."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import msgspec
from sqlalchemy import Connection

from ..runtime.message import Message
from .fulltext import ranked_memories
from .memories import NEWEST, Memory, load_memories, read_memories, terms_of, words_of
from .registry import query
from .tables import memories, utc_now

RELEVANCE_SHARE = 0.75
HALF_LIFE = timedelta(days=30)

CANDIDATES = 50
"""Most relevant memories that are ranked, and newest ones that fill up what room is left."""

TEXT_USED_CHARS = 4_000
"""Of a message, from its beginning, as far as memories are looked for."""


class Picked(msgspec.Struct, frozen=True):
    """The first `matching` memories match, the best first; the others are the newest."""

    memories: list[Memory]
    matching: int


class SearchMemories(Message[list[Memory]], to="store/reader"):
    """Find the memories that fit a text best."""

    q: Annotated[str, msgspec.Meta(max_length=100_000)]
    limit: Annotated[int, msgspec.Meta(ge=1, le=CANDIDATES)] = 10


class PickMemories(Message[Picked], to="store/reader"):
    """Choose what a person's message should be read with, within a budget: what matches, then the newest.

    What came from outside is left out: nobody has asked for it.
    """

    text: str
    budget_chars: Annotated[int, msgspec.Meta(ge=0)] = 2_000


_NEWEST_OWN = NEWEST.where(memories.c.provenance.is_(None)).limit(CANDIDATES)


def score(relevance: float, best: float, age: timedelta) -> float:
    """How well a memory fits, up to 1: three parts its relevance, as a share of the best one's, one part its youth."""
    youth = 0.5 ** (max(age, timedelta()) / HALF_LIFE)
    return RELEVANCE_SHARE * relevance / best + (1 - RELEVANCE_SHARE) * youth


@query
def search_memories(connection: Connection, message: SearchMemories) -> list[Memory]:
    return _ranked(connection, message.q)[: message.limit]


@query
def pick_memories(connection: Connection, message: PickMemories) -> Picked:
    matching = [memory for memory in _ranked(connection, message.text) if not memory.provenance]
    known = {memory.id for memory in matching}
    others = [memory for memory in read_memories(connection, _NEWEST_OWN, {}) if memory.id not in known]
    picked: list[Memory] = []
    counted = 0
    room = message.budget_chars
    for number, memory in enumerate([*matching, *others]):
        if len(memory.content) <= room:
            picked.append(memory)
            counted += number < len(matching)
            room -= len(memory.content)
    return Picked(picked, counted)


def _ranked(connection: Connection, said: str) -> list[Memory]:
    """The memories that fit a text, the best first."""
    terms = terms_of(words_of(said[:TEXT_USED_CHARS]))
    hits = dict(ranked_memories(connection, terms, most=CANDIDATES)) if terms else {}
    if not hits:
        return []
    now, best = utc_now(), max(hits.values()) or 1.0
    found = load_memories(connection, list(hits))
    return sorted(found, key=lambda memory: -score(hits[int(memory.id)], best, now - memory.updated_at))

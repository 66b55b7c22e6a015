"""Full text search over messages, one hit a session.

The newest hits are ranked and the others not looked at, so that a search takes as long in a large archive as in a
small one.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from datetime import datetime
from typing import Annotated

import msgspec
from sqlalchemy import Connection, bindparam, func, select

from ..runtime.message import Message
from .fulltext import newest_hits
from .registry import recurring_query
from .sessions import UNTITLED
from .tables import AnyRow, sessions

SESSIONS_RANKED = 2  # times the limit
HITS_RANKED = 5  # of each session
HITS_READ = 500
SHORTEST_BEGINNING_BYTES = 3  # three Latin letters, fewer match half of the archive; or one Chinese sign
EXCERPT_LENGTH = 2_000  # of a message, as far as it is ranked
SNIPPET_LENGTH = 160
WORDS_USED = 16


class SessionMatch(msgspec.Struct, frozen=True):
    id: str
    title: str
    channel: str
    match: str
    match_role: str
    last_activity: datetime


class SessionMatches(msgspec.Struct, frozen=True):
    sessions: list[SessionMatch]


class SearchSessions(Message[SessionMatches], to="store/reader"):
    """Find sessions with a message that holds all words of `q` (any text), best first.

    If nothing holds the last word, it is taken for the beginning of one.
    """

    q: Annotated[str, msgspec.Meta(max_length=1000)]
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20


class _Hit(msgspec.Struct, frozen=True):
    score: float
    role: str
    excerpt: str


_SESSIONS = select(
    sessions.c.id, func.coalesce(sessions.c.title, UNTITLED), sessions.c.channel, sessions.c.last_activity
).where(sessions.c.id.in_(bindparam("ids", expanding=True)))


@recurring_query
def search_sessions(connection: Connection, message: SearchSessions) -> SessionMatches:
    words = message.q.replace("\0", " ").split()[:WORDS_USED]
    if not words:
        return SessionMatches([])
    folded = [_fold(word) for word in words]
    best = _best_hits(connection, words, folded, message.limit * SESSIONS_RANKED)
    if not best and len(words[-1].encode()) >= SHORTEST_BEGINNING_BYTES:
        best = _best_hits(connection, words, folded, message.limit * SESSIONS_RANKED, cut=True)
    # Sorting is stable: of equal hits the newest stays first.
    ranked = sorted(best.items(), key=lambda item: -item[1].score)[: message.limit]
    about = {row[0]: row for row in connection.execute(_SESSIONS, {"ids": [session_id for session_id, _ in ranked]})}
    return SessionMatches([_match(about[session_id], hit, folded) for session_id, hit in ranked])


def _best_hits(
    connection: Connection, words: list[str], folded: list[str], most_sessions: int, *, cut: bool = False
) -> dict[str, _Hit]:
    """The best of the newest hits of each session, the session of the newest hit first."""
    best: dict[str, _Hit] = {}
    ranked: Counter[str] = Counter()
    for session_id, role, excerpt in newest_hits(connection, words, cut=cut, excerpt=EXCERPT_LENGTH, most=HITS_READ):
        ranked[session_id] += 1
        if ranked[session_id] > HITS_RANKED:
            continue
        hit = _Hit(_score(excerpt, folded), role, excerpt)
        if session_id not in best or best[session_id].score < hit.score:
            best[session_id] = hit
            if len(best) == most_sessions:
                break
    return best


def _match(session: AnyRow, hit: _Hit, words: list[str]) -> SessionMatch:
    session_id, title, channel, last_activity = session
    return SessionMatch(session_id, title, channel, _snippet(hit.excerpt, words), hit.role, last_activity)


def _score(excerpt: str, words: list[str]) -> float:
    """How much of the message is about the words: their frequency, damped as in BM25, and their standing together."""
    text = _fold(excerpt)
    damping = 0.5 + len(text) / 400
    frequency = sum(count / (count + damping) for count in map(text.count, words))
    return frequency + (1.0 if len(words) > 1 and " ".join(words) in text else 0.0)


def _snippet(excerpt: str, words: list[str]) -> str:
    """The surroundings of the first word found, on one line."""
    text = " ".join(excerpt.split())
    folded = _fold(text)
    found = min((place for place in map(folded.find, words) if place >= 0), default=0)
    start = max(0, min(found - SNIPPET_LENGTH // 3, len(text) - SNIPPET_LENGTH))
    if start:
        start = text.find(" ", start, start + 20) + 1 or start  # at a word's beginning where one is near
    end = start + SNIPPET_LENGTH
    return ("…" if start else "") + text[start:end].rstrip() + ("…" if end < len(text) else "")


def _fold(text: str) -> str:
    """Lower case without diacritics, as the index sees words."""
    if text.isascii():
        return text.lower()
    return "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))

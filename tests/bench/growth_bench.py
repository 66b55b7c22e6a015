"""The rows of sessions list and search: their time at 100,000 messages over that at 1,000, in the store and over HTTP.

The messages are made of words as frequent as in a language (Zipf's law). Each holds one common word, and the oldest a
rare one.
"""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from client import Client, ms
from pocketpaw.runtime import Message
from pocketpaw.storage.database import Database, open_database
from pocketpaw.storage.registry import answer, load_all
from pocketpaw.storage.search import SearchSessions
from pocketpaw.storage.sessions import ListSessions
from pocketpaw.storage.tables import messages, sessions
from row import Row
from server import our_server
from sqlalchemy import insert

SMALL, LARGE = 1_000, 100_000
MESSAGES_A_SESSION = 10
WORDS_A_MESSAGE = 30
VOCABULARY = 20_000
COMMON, RARE = "always", "zebrafish"
WRITTEN_TOGETHER = 10_000


class Question(msgspec.Struct, frozen=True):
    name: str
    message: Message[Any]
    path: str


QUESTIONS = (
    Question("list", ListSessions(), "/sessions"),
    Question("search, common word", SearchSessions(q=COMMON), f"/sessions/search?q={COMMON}"),
    Question("search, rare word", SearchSessions(q=RARE), f"/sessions/search?q={RARE}"),
    Question("search, no match", SearchSessions(q="qqxxyyzz"), "/sessions/search?q=qqxxyyzz"),
)


def measure(binary: Path, state: Path, times: int) -> list[Row]:
    """Make both databases, and put the questions to them in turn."""
    homes = {size: state / f"home-{size}" for size in (SMALL, LARGE)}
    files = {size: home / ".pocketpaw/pocketpaw.db" for size, home in homes.items()}
    servers = {size: our_server(binary, home) for size, home in homes.items()}
    for size, server in servers.items():
        server.make_home()
        _fill(files[size], size)
    rows = _store_rows(files, times)
    try:
        for server in servers.values():
            server.start()
        return rows + _http_rows({size: Client(server.port) for size, server in servers.items()}, times)
    finally:
        for server in servers.values():
            server.stop()


def _store_rows(files: Mapping[int, Path], times: int) -> list[Row]:
    load_all()
    databases = {size: open_database(f"sqlite:///{file}") for size, file in files.items()}
    connections = {size: database.connect_reader() for size, database in databases.items()}
    try:
        return [
            _row(
                f"store: {question.name}",
                {size: partial(answer, connection, question.message) for size, connection in connections.items()},
                times,
            )
            for question in QUESTIONS
        ]
    finally:
        for size, database in databases.items():
            connections[size].close()
            database.close()


def _http_rows(clients: Mapping[int, Client], times: int) -> list[Row]:
    return [
        _row(
            f"HTTP: {question.name}",
            {size: partial(client.get, question.path) for size, client in clients.items()},
            times,
        )
        for question in QUESTIONS
    ]


def _row(name: str, ask: Mapping[int, Callable[[], object]], times: int) -> Row:
    """Ask both sizes in turn; the peer's column is the time at the small size."""
    for size in ask:
        ask[size]()
    pairs = [(ms(ask[SMALL]), ms(ask[LARGE])) for _ in range(times)]
    small, large = (statistics.median(column) for column in zip(*pairs, strict=True))
    target = "<= 2 x the time at 1,000"
    return Row(
        name=name, target=target, value=large, unit="ms", peer=small, ratio=large / small, is_met=large <= 2 * small
    )


def _fill(file: Path, size: int) -> None:
    database = open_database(f"sqlite:///{file}")
    try:
        _write(database, size)
    finally:
        database.close()


def _write(database: Database, size: int) -> None:
    chance = random.Random(size)  # the same messages each time
    vocabulary = [f"{chance.choice('bdfglmnprst')}{number:x}{chance.choice('aeiou')}" for number in range(VOCABULARY)]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, VOCABULARY + 1)))
    first = datetime(2026, 1, 1, tzinfo=UTC)

    def session(number: int) -> dict[str, object]:
        at = first + timedelta(minutes=number)
        times = {"created_at": at, "updated_at": at, "last_activity": at}
        title = f"Session {number}"
        return {"id": f"s-{number}", "title": title, "channel": "api", "message_count": MESSAGES_A_SESSION, **times}

    def message(number: int) -> dict[str, object]:
        words = chance.choices(vocabulary, cum_weights=weights, k=WORDS_A_MESSAGE)
        words[chance.randrange(WORDS_A_MESSAGE)] = COMMON
        if number == 0:
            words[0] = RARE
        session_number = number // MESSAGES_A_SESSION
        return {
            "session_id": f"s-{session_number}",
            "role": "assistant" if number % 2 else "user",
            "content": " ".join(words),
            "created_at": first + timedelta(minutes=session_number),
        }

    with database.connect_writer() as connection:
        with connection.begin():
            connection.execute(insert(sessions), [session(number) for number in range(size // MESSAGES_A_SESSION)])
        for start in range(0, size, WRITTEN_TOGETHER):
            numbers = range(start, min(start + WRITTEN_TOGETHER, size))
            with connection.begin():
                connection.execute(insert(messages), [message(number) for number in numbers])

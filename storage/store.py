"""The store's actors: one thread that writes, in group commits, and a few that read. All of them share one database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ..runtime import Message, ThreadActor
from ..runtime.errors import PocketPawError, Unavailable
from ..runtime.handlers import Handler
from ..runtime.message import encode
from .database import Database, open_database
from .failures import DatabaseDamaged, translate
from .group import run_batch
from .recent import RecentAnswers
from .registry import answer, commands, load_all, queries, recurring

log = structlog.get_logger()

RETRY_S = 5.0
"""How long a database that could not be opened is left alone before the next message tries again."""

READERS = 3
"""So that two long searches keep nobody else waiting."""

QUERIES_AT_ONCE = 16
"""What is queued goes to a reader together: each hand-over to a thread costs as much as a small query."""

GROUP = 200
"""Commands that one COMMIT may carry."""


class Storage:
    """The open database, or why there is none; for the threads of the writer and the readers alike."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opening = threading.Lock()
        self._database: Database | None = None
        self._problem: PocketPawError | None = None
        self._tried_at = float("-inf")
        self.recent = RecentAnswers()

    def open(self) -> None:
        """Open the database anew; a failure is remembered, and is the answer to every message (safe mode)."""
        with self._opening:
            self.close()
            self._open()
            self.recent.outdate()

    def _open(self) -> None:
        self._tried_at = time.monotonic()
        try:
            self._database, self._problem = open_database(self._url), None
        except PocketPawError as problem:
            self._problem = problem
            log.warning("the database cannot be used", reason=problem.detail)

    def connect_writer(self) -> Connection:
        """Connect to write; see `_connect`."""
        return self._connect(Database.connect_writer)

    def connect_reader(self) -> Connection:
        """Connect to read; see `_connect`."""
        return self._connect(Database.connect_reader)

    def _connect(self, connect: Callable[[Database], Connection]) -> Connection:
        """Connect to the open database; where it could not be opened a while ago, it is tried again.

        Raises:
            DatabaseDamaged, Unavailable, NeedsOperator: why there is none.
        """
        self._try_again()
        database, problem = self._database, self._problem
        if database is None:
            problem = problem or Unavailable("the database is not open yet")
            raise PocketPawError.from_wire(problem.code, problem.detail, problem.data)
        try:
            return connect(database)
        except DBAPIError as error:
            raise translate(error, database.url) or error from error

    def _try_again(self) -> None:
        """What is damaged stays as it is until the next start."""
        with self._opening:
            is_due = time.monotonic() - self._tried_at >= RETRY_S
            if self._problem is not None and is_due and not isinstance(self._problem, DatabaseDamaged):
                self._open()

    def close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()


class _StoreActor(ThreadActor):
    """A thread with a connection of its own, made by the first message that needs it."""

    def __init__(self, storage: Storage) -> None:
        super().__init__()
        self._storage = storage
        self._connection: Connection | None = None

    def on_stop(self) -> None:
        self._release()

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class StoreWriter(_StoreActor):
    """Commits what is queued together. It starts also where the database cannot be used, to say so."""

    batch = GROUP

    def on_start(self) -> None:
        self._storage.open()

    def on_stop(self) -> None:
        super().on_stop()
        self._storage.close()

    def handle_batch(self, messages: Sequence[Message[Any]]) -> list[object]:
        try:
            connection = self._connected()
        except PocketPawError as problem:
            return [problem] * len(messages)
        try:
            return run_batch(connection, messages)
        finally:
            self._storage.recent.outdate()

    def _connected(self) -> Connection:
        if self._connection is not None and self._connection.invalidated:
            self._release()
        if self._connection is None:
            self._connection = self._storage.connect_writer()
        return self._connection


class StoreReader(_StoreActor):
    """Answers queries, each from one consistent snapshot."""

    threads = READERS
    batch = QUERIES_AT_ONCE

    def at_hand(self, message_type: type[Message[Any]], payload: bytes) -> bytes | None:
        return self._storage.recent.get((message_type, payload)) if message_type in recurring else None

    def handle_batch(self, messages: Sequence[Message[Any]]) -> list[object]:
        return [self._query(message) for message in messages]

    def _query(self, message: Message[Any]) -> object:
        recent = self._storage.recent
        generation = recent.generation
        try:
            if self._connection is None:
                self._connection = self._storage.connect_reader()
            reply = answer(self._connection, message)
        except PocketPawError as error:
            return error
        if type(message) in recurring:
            recent.keep((type(message), encode(message)), generation, encode(reply))
        return reply


load_all()
StoreWriter.handlers = {type_: Handler(type_, function, is_async=False) for type_, function in commands.items()}
StoreReader.handlers = {type_: Handler(type_, function, is_async=False) for type_, function in queries.items()}

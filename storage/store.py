"""The store's actors: one thread that writes, in group commits, and a few that read. All of them share one database."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import structlog
from sqlalchemy import Connection

from ..runtime import Message, ThreadActor
from ..runtime.errors import PocketPawError, Unavailable
from ..runtime.handlers import Handler
from .database import Database, open_database
from .failures import DatabaseDamaged
from .group import run_batch
from .registry import answer, commands, load_all, queries

log = structlog.get_logger()

RETRY_S = 5.0
"""How long a database that could not be opened is left alone before the next message tries again."""

READERS = 3
GROUP = 200
"""Commands that one COMMIT may carry."""


class Storage:
    """The open database, or why there is none. Written by the writer's thread, read by the readers'."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._database: Database | None = None
        self._problem: PocketPawError | None = None
        self._tried_at = float("-inf")

    def open(self) -> None:
        """Open the database; a failure is remembered, and is the answer to every message (safe mode)."""
        self.close()
        self._tried_at = time.monotonic()
        try:
            self._database, self._problem = open_database(self._url), None
        except PocketPawError as problem:
            self._problem = problem
            log.warning("the database cannot be used", reason=problem.detail)

    def database(self) -> Database:
        """The open database.

        Raises:
            DatabaseDamaged, Unavailable, NeedsOperator: why it could not be opened.
        """
        if self._database is None:
            problem = self._problem or Unavailable("the database is not open yet")
            raise PocketPawError.from_wire(problem.code, problem.detail, problem.data)
        return self._database

    def try_again(self) -> None:
        """Open it now if it could not be opened a while ago. What is damaged stays as it is until the next start."""
        is_due = time.monotonic() - self._tried_at >= RETRY_S
        if self._database is None and is_due and not isinstance(self._problem, DatabaseDamaged):
            self.open()

    def close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()


class StoreWriter(ThreadActor):
    """Commits what is queued together. It starts also where the database cannot be used, to say so."""

    batch = GROUP

    def __init__(self, storage: Storage) -> None:
        super().__init__()
        self._storage = storage
        self._connection: Connection | None = None

    def on_start(self) -> None:
        self._storage.open()

    def on_stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._storage.close()

    def handle_batch(self, messages: Sequence[Message[Any]]) -> list[object]:
        self._storage.try_again()
        try:
            if self._connection is None or self._connection.invalidated:
                self._connection = self._storage.database().connect_writer()
        except PocketPawError as problem:
            return [problem] * len(messages)
        return run_batch(self._connection, messages)


class StoreReader(ThreadActor):
    """Answers queries, each from one consistent snapshot."""

    threads = READERS

    def __init__(self, storage: Storage) -> None:
        super().__init__()
        self._storage = storage
        self._connection: Connection | None = None

    def on_stop(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def handle_batch(self, messages: Sequence[Message[Any]]) -> list[object]:
        return [self._query(message) for message in messages]

    def _query(self, message: Message[Any]) -> object:
        try:
            if self._connection is None:
                self._connection = self._storage.database().connect_reader()
            return answer(self._connection, message)
        except PocketPawError as error:
            return error


load_all()
StoreWriter.handlers = {type_: Handler(type_, function, is_async=False) for type_, function in commands.items()}
StoreReader.handlers = {type_: Handler(type_, function, is_async=False) for type_, function in queries.items()}

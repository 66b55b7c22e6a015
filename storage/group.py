"""Group commit: what is queued is committed together, and an answer means that it is on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ..runtime.errors import PocketPawError
from ..runtime.message import Message
from .database import require_in_place
from .failures import translate
from .registry import commands


def run_batch(connection: Connection, messages: Sequence[Message[Any]]) -> list[Any]:
    """Run the commands in one transaction with one COMMIT; return each one's reply, or the exception it ended in.

    Each has its own savepoint, so one that fails hurts no other. A PocketPawError is an answer; any other exception is
    a crash of that command. If the database fails (disk full, COMMIT refused, connection lost, file gone), every
    command gets that error.
    """
    try:
        require_in_place(connection)
        with connection.begin():
            if len(messages) == 1:  # the transaction itself is its savepoint
                return [_run(connection, messages[0])]
            return [_run_in_savepoint(connection, message) for message in messages]
    except Exception as error:  # noqa: BLE001 - all is rolled back, and this is why: the outcome of each command
        _end_transaction(connection)
        return [_database_failure(connection, error) or error] * len(messages)


def _end_transaction(connection: Connection) -> None:
    """Roll back what a refused COMMIT left open: SQLite keeps that transaction, SQLAlchemy forgets it."""
    if not connection.invalidated:
        connection.connection.rollback()


def _run(connection: Connection, message: Message[Any]) -> Any:
    return commands[type(message)](connection, message)


def _run_in_savepoint(connection: Connection, message: Message[Any]) -> Any:
    savepoint = connection.begin_nested()
    try:
        reply = _run(connection, message)
    except Exception as error:
        if _database_failure(connection, error):
            raise  # SQLite may have rolled back everything by itself, the savepoint included
        savepoint.rollback()
        return error
    savepoint.commit()
    return reply


def _database_failure(connection: Connection, error: Exception) -> PocketPawError | None:
    return translate(error, connection.engine.url) if isinstance(error, DBAPIError) else None

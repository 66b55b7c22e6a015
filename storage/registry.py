"""Which function takes which message: `@command` on the one writer thread, `@query` on the reader threads.

A function takes `(connection, message)` inside a transaction that its caller opens and ends, and returns the reply. It
raises a PocketPawError for what is an answer; whatever else it raises is a crash.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar, get_type_hints

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ..runtime.message import Message, reply_type
from .failures import translate

WRITER = "store/writer"
READER = "store/reader"
NOUNS = (
    "api_keys",
    "audit",
    "audit_archives",
    "credentials",
    "delivery",
    "error_log",
    "export",
    "grants",
    "history",
    "imports",
    "inbox",
    "jobs",
    "kits",
    "memories",
    "oauth",
    "outbox",
    "pairings",
    "recollection",
    "schedule",
    "search",
    "self_audits",
    "sessions",
    "soundness",
    "steps",
    "summaries",
    "supervision_log",
    "tokens",
    "tool_calls",
    "turn_counts",
    "turns",
    "usage",
    "written_files",
    "webhooks",
)

M = TypeVar("M", bound=Message[Any])
R = TypeVar("R")
Function = Callable[[Connection, Any], Any]

commands: dict[type[Message[Any]], Function] = {}
queries: dict[type[Message[Any]], Function] = {}
recurring: set[type[Message[Any]]] = set()
"""The queries that are asked again and again, by whoever watches a list. Their answers hang on the database only."""


def command(function: Callable[[Connection, M], R]) -> Callable[[Connection, M], R]:
    """Register a function that writes."""
    commands[_message_type(function, WRITER)] = function
    return function


def query(function: Callable[[Connection, M], R]) -> Callable[[Connection, M], R]:
    """Register a function that only reads."""
    queries[_message_type(function, READER)] = function
    return function


def recurring_query(function: Callable[[Connection, M], R]) -> Callable[[Connection, M], R]:
    """Register a function that only reads, whose answer is kept until something is written."""
    recurring.add(_message_type(function, READER))
    return query(function)


def load_all() -> None:
    """Import every module that registers functions."""
    for noun in NOUNS:
        import_module(f".{noun}", __package__)


def answer(connection: Connection, message: Message[R]) -> R:
    """Answer one query from one consistent snapshot.

    Raises: what its function raises; Unavailable or DatabaseDamaged if the database itself fails.
    """
    try:
        with connection.begin():
            return queries[type(message)](connection, message)
    except DBAPIError as error:
        raise translate(error, connection.engine.url) or error from error


def _message_type(function: Function, address: str) -> type[Message[Any]]:
    """The type of the function's `message`; refuses one that is sent elsewhere or answered with something else."""
    hints = get_type_hints(function)
    message_type: type[Message[Any]] = hints[function.__code__.co_varnames[1]]
    if message_type.__address__ != address:
        raise TypeError(
            f"{message_type.__name__} goes to {message_type.__address__!r}, but {function!r} serves {address!r}"
        )
    if hints["return"] != reply_type(message_type):
        raise TypeError(
            f"{function!r} answers {hints['return']}, but {message_type.__name__} expects {reply_type(message_type)}"
        )
    if message_type in commands or message_type in queries:
        raise TypeError(f"{message_type.__name__} is registered twice")
    return message_type

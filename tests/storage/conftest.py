"""A real database in a real file, and the shortest way to give it a message."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import pytest
from pocketpaw.runtime.message import Message
from pocketpaw.storage.database import Database, open_database
from pocketpaw.storage.group import run_batch
from pocketpaw.storage.registry import answer, load_all
from sqlalchemy import Connection

R = TypeVar("R")

load_all()


class Ask(Protocol):
    def __call__(self, message: Message[R], /) -> R: ...


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path}/pocketpaw.db")
    yield opened
    opened.close()


@pytest.fixture
def writer(database: Database) -> Iterator[Connection]:
    with database.connect_writer() as connection:
        yield connection


@pytest.fixture
def reader(database: Database) -> Iterator[Connection]:
    with database.connect_reader() as connection:
        yield connection


@pytest.fixture
def write(writer: Connection) -> Ask:
    def ask(message: Message[R]) -> R:
        (outcome,) = run_batch(writer, [message])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return ask


@pytest.fixture
def read(reader: Connection) -> Ask:
    def ask(message: Message[R]) -> R:
        return answer(reader, message)

    return ask

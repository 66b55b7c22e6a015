"""The audit trail on a real database, and a way to change that behind its back."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing

import pytest
from pocketpaw.actors.audit.trail import AuditTrail
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.runtime import ActorSystem, Child, Supervisor

from ...conftest import run_without_leak

Trail = Callable[[], AbstractAsyncContextManager[ActorSystem]]
Tamper = Callable[[str], None]


@pytest.fixture
def trail(live: LiveSettings, make_store: Callable[[], Supervisor]) -> Trail:
    """`async with trail() as system:` runs store and trail; a second time it finds what the first left."""

    @asynccontextmanager
    async def run() -> AsyncGenerator[ActorSystem]:
        tree = Supervisor("root", [make_store(), Supervisor("audit", [Child(AuditTrail, live, id="trail")])])
        async with run_without_leak(tree) as system:
            yield system

    return run


@pytest.fixture
def tamper(live: LiveSettings) -> Tamper:
    """`tamper(sql)` does what somebody would who has the file: without the triggers."""

    def change(statement: str) -> None:
        with closing(sqlite3.connect(live.home.database)) as connection, connection:
            for trigger in ("audit_is_not_changed", "audit_is_not_deleted"):
                connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
            connection.execute(statement)

    return change

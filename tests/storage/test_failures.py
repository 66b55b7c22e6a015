from __future__ import annotations

import sqlite3
from pathlib import Path

from pocketpaw.runtime.errors import PocketPawError, Unavailable
from pocketpaw.storage.failures import DatabaseDamaged, damaged, translate
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, OperationalError

SERVER = make_url("postgresql+psycopg://ann:hunter2@db.home/paw")


def test_a_lost_server_is_named_without_its_password() -> None:
    lost = translate(OperationalError("SELECT 1", {}, Exception("connection refused\n")), SERVER)
    assert isinstance(lost, Unavailable)
    assert "db.home" in lost.detail
    assert lost.detail.endswith("connection refused")
    assert "hunter2" not in f"{lost.detail} {lost.data}"


def test_a_fault_of_one_statement_is_a_bug_and_stays_what_it_is() -> None:
    assert translate(IntegrityError("INSERT", {}, Exception("duplicate")), SERVER) is None
    assert translate(IntegrityError("INSERT", {}, sqlite3.IntegrityError("UNIQUE")), make_url("sqlite:///x")) is None
    assert (
        translate(OperationalError("SELEKT", {}, sqlite3.OperationalError("syntax")), make_url("sqlite:///x")) is None
    )


def test_damage_crosses_an_actor_boundary_whole() -> None:
    sent = damaged(Path("/home/ann/paw.db"), None, "page 3 is torn")
    arrived = PocketPawError.from_wire(sent.code, sent.detail, sent.data)
    assert isinstance(arrived, DatabaseDamaged)
    assert (arrived.path, arrived.copy, arrived.reason) == (sent.path, None, "page 3 is torn")

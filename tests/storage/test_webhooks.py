from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from pocketpaw.runtime.errors import Conflict, NotFound
from pocketpaw.storage.webhooks import (
    CutLog,
    DropWebhook,
    ForgetClearSecrets,
    GetStoredWebhook,
    KeepWebhook,
    ListClearSecrets,
    ListStoredWebhooks,
    StoredWebhook,
)

from .conftest import Ask

DOOR = StoredWebhook("door", "Say who is there.", 10)
ALARM = StoredWebhook("alarm", "", None)


def test_webhooks_are_kept_and_listed_by_name(write: Ask, read: Ask) -> None:
    for webhook in (DOOR, ALARM):
        write(KeepWebhook(webhook=webhook))
    assert read(ListStoredWebhooks()) == [ALARM, DOOR]
    assert read(GetStoredWebhook(name="door")) == DOOR


def test_a_name_is_given_once(write: Ask, read: Ask) -> None:
    write(KeepWebhook(webhook=DOOR))
    with pytest.raises(Conflict, match="door"):
        write(KeepWebhook(webhook=msgspec.structs.replace(DOOR, description="another")))
    assert read(ListStoredWebhooks()) == [DOOR]


def test_what_is_not_there_is_told(write: Ask) -> None:
    write(KeepWebhook(webhook=DOOR))
    write(DropWebhook(name="door"))
    with pytest.raises(NotFound, match="door"):
        write(DropWebhook(name="door"))


@pytest.mark.parametrize("name", ["", "Door", "door ", "do\0or", "%", "😀", "x" * 100_000])
def test_any_text_can_be_looked_up(write: Ask, read: Ask, name: str) -> None:
    write(KeepWebhook(webhook=DOOR))
    assert read(GetStoredWebhook(name=name)) is None


def test_secrets_that_an_older_version_left_are_found_and_overwritten(write: Ask, read: Ask, tmp_path: Path) -> None:
    for webhook in (DOOR, ALARM):
        write(KeepWebhook(webhook=webhook))
    assert read(ListClearSecrets()) == {}
    path = tmp_path / "pocketpaw.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE webhooks SET secret = 'canary-' || name")
    assert read(ListClearSecrets()) == {"alarm": "canary-alarm", "door": "canary-door"}
    write(ForgetClearSecrets(names=["door", "nosuch"]))
    assert read(ListClearSecrets()) == {"alarm": "canary-alarm"}
    assert read(GetStoredWebhook(name="door")) == DOOR
    log = path.with_name("pocketpaw.db-wal")
    assert b"canary-door" in log.read_bytes()
    assert read(CutLog())
    assert log.read_bytes() == b""
    assert (b"canary-alarm" in path.read_bytes(), b"canary-door" in path.read_bytes()) == (True, False)

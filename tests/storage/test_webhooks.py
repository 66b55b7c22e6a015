from __future__ import annotations

import msgspec
import pytest
from pocketpaw.runtime.errors import Conflict, NotFound
from pocketpaw.storage.webhooks import (
    DropWebhook,
    GetStoredWebhook,
    KeepWebhook,
    ListStoredWebhooks,
    ReplaceWebhookSecret,
    StoredWebhook,
)

from .conftest import Ask

DOOR = StoredWebhook("door", "Say who is there.", "s-1", 10)
ALARM = StoredWebhook("alarm", "", "s-2", None)


def test_webhooks_are_kept_and_listed_by_name(write: Ask, read: Ask) -> None:
    for webhook in (DOOR, ALARM):
        write(KeepWebhook(webhook=webhook))
    assert read(ListStoredWebhooks()) == [ALARM, DOOR]
    assert read(GetStoredWebhook(name="door")) == DOOR


def test_a_name_is_given_once(write: Ask, read: Ask) -> None:
    write(KeepWebhook(webhook=DOOR))
    with pytest.raises(Conflict, match="door"):
        write(KeepWebhook(webhook=msgspec.structs.replace(DOOR, secret="another")))
    assert read(ListStoredWebhooks()) == [DOOR]


def test_another_secret_takes_the_place_of_the_first(write: Ask, read: Ask) -> None:
    write(KeepWebhook(webhook=DOOR))
    replaced = write(ReplaceWebhookSecret(name="door", secret="s-9"))
    assert replaced == msgspec.structs.replace(DOOR, secret="s-9") == read(GetStoredWebhook(name="door"))


def test_what_is_not_there_is_told(write: Ask) -> None:
    write(KeepWebhook(webhook=DOOR))
    write(DropWebhook(name="door"))
    with pytest.raises(NotFound, match="door"):
        write(DropWebhook(name="door"))
    with pytest.raises(NotFound, match="door"):
        write(ReplaceWebhookSecret(name="door", secret="x"))


@pytest.mark.parametrize("name", ["", "Door", "door ", "do\0or", "%", "😀", "x" * 100_000])
def test_any_text_can_be_looked_up(write: Ask, read: Ask, name: str) -> None:
    write(KeepWebhook(webhook=DOOR))
    assert read(GetStoredWebhook(name=name)) is None

from __future__ import annotations

from datetime import timedelta

import pytest
from pocketpaw.runtime.errors import Conflict, NotFound
from pocketpaw.storage.api_keys import (
    AddApiKey,
    ApiKey,
    EndApiKey,
    KeyPair,
    LoadApiKey,
    LoadApiKeys,
    MarkApiKeysUsed,
    ReplaceApiKey,
)
from pocketpaw.storage.credentials import ListCredentials
from pocketpaw.storage.tables import utc_now

from .conftest import Ask


def add(write: Ask, name: str, *, expires_in: timedelta | None = None) -> ApiKey:
    expires_at = None if expires_in is None else utc_now() + expires_in
    new = KeyPair(f"id-{name}", f"pp_{name}", f"digest of {name}")
    added = write(AddApiKey(new=new, name=name, scopes=["chat"], expires_at=expires_at, created_by="master"))
    assert [credential.digest for credential in added.changed] == [new.digest]
    return added.key


def test_keys_are_listed_the_newest_first_and_by_id(write: Ask, read: Ask) -> None:
    first, second = add(write, "first"), add(write, "second", expires_in=timedelta(days=1))
    assert (first.name, first.prefix, first.scopes, first.revoked) == ("first", "pp_first", ["chat"], False)
    assert read(LoadApiKeys()) == [second, first]
    assert read(LoadApiKey(key_id=first.id)) == first
    with pytest.raises(NotFound):
        read(LoadApiKey(key_id="none"))


def test_a_revoked_key_stays_listed_and_is_known_as_such(write: Ask, read: Ask) -> None:
    key = add(write, "one")
    ended = write(EndApiKey(key_id=key.id))
    assert (ended.digest, ended.principal, ended.is_revoked) == ("digest of one", "key:id-one", True)
    assert write(EndApiKey(key_id=key.id)) == ended
    assert read(LoadApiKey(key_id=key.id)).revoked
    assert read(ListCredentials()) == [ended]
    with pytest.raises(NotFound):
        write(EndApiKey(key_id="none"))


def test_a_key_is_replaced_by_one_that_may_and_lives_no_longer(write: Ask, read: Ask) -> None:
    old = add(write, "old", expires_in=timedelta(days=1))
    new = KeyPair("id-new", "pp_new", "digest of new")
    added = write(ReplaceApiKey(key_id=old.id, new=new, created_by="session"))
    assert (added.key.name, added.key.scopes, added.key.expires_at) == (old.name, old.scopes, old.expires_at)
    assert [(one.digest, one.is_revoked) for one in added.changed] == [("digest of old", True), (new.digest, False)]
    assert [key.revoked for key in read(LoadApiKeys())] == [False, True]


@pytest.mark.parametrize("ended", ["revoked", "expired"])
def test_what_has_ended_is_not_replaced(write: Ask, read: Ask, ended: str) -> None:
    key = add(write, "one", expires_in=timedelta(days=-1) if ended == "expired" else None)
    if ended == "revoked":
        write(EndApiKey(key_id=key.id))
    with pytest.raises(Conflict, match=ended):
        write(ReplaceApiKey(key_id=key.id, new=KeyPair("id", "pp", "digest"), created_by="master"))
    assert len(read(LoadApiKeys())) == 1


def test_the_latest_use_of_each_key_is_kept(write: Ask, read: Ask) -> None:
    key, other, now = add(write, "one"), add(write, "other"), utc_now()
    write(MarkApiKeysUsed(uses={key.id: now, "none": now}))
    write(MarkApiKeysUsed(uses={key.id: now - timedelta(hours=1)}))
    write(MarkApiKeysUsed(uses={}))
    assert read(LoadApiKey(key_id=key.id)).last_used_at == now
    assert read(LoadApiKey(key_id=other.id)).last_used_at is None

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
from pocketpaw.actors.access.known_credentials import KnownCredentials, is_derived
from pocketpaw.runtime import Principal
from pocketpaw.storage.credentials import Credential

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = Credential("digest", "api_key", "key:k-1", ["chat"], None)
REVOKED = msgspec.structs.replace(KEY, is_revoked=True)


def test_what_is_not_known_is_a_guess_only_once_all_is_known() -> None:
    known = KnownCredentials()
    assert known.find("digest", NOW) == ("unsure", None)
    known.is_complete = True
    assert known.find("digest", NOW) == ("unknown", None)
    known.take_in([KEY], NOW)
    assert known.find("digest", NOW) == ("valid", KEY)


def test_a_revocation_holds_whatever_is_heard_later() -> None:
    known = KnownCredentials()
    assert known.take_in([KEY], NOW) == []
    assert known.take_in([REVOKED], NOW) == ["digest"]
    assert known.take_in([REVOKED], NOW) == []
    known.take_in([KEY], NOW)
    assert known.find("digest", NOW)[0] == "revoked"


def test_an_expired_token_is_told_from_a_guess_for_a_day() -> None:
    known = KnownCredentials()
    known.is_complete = True
    token = Credential("token", "oauth", "oauth:app", ["chat"], NOW + timedelta(hours=1))
    known.take_in([token], NOW)
    assert known.find("token", NOW)[0] == "valid"
    assert known.find("token", NOW + timedelta(hours=1))[0] == "expired"
    known.take_in([], NOW + timedelta(hours=24))
    assert known.find("token", NOW + timedelta(hours=24))[0] == "expired"
    known.take_in([], NOW + timedelta(hours=25))
    assert known.find("token", NOW + timedelta(hours=25))[0] == "unknown"


def test_a_use_while_others_are_saved_is_saved_next() -> None:
    known = KnownCredentials()
    known.note_use(KEY, NOW)
    saved = dict(known.unsaved_uses)
    known.note_use(KEY, NOW + timedelta(seconds=1))
    known.saved(saved)
    assert known.unsaved_uses == {"k-1": NOW + timedelta(seconds=1)}
    known.saved(dict(known.unsaved_uses))
    assert known.unsaved_uses == {}


def test_only_keys_and_tokens_are_derived() -> None:
    assert [is_derived(Principal(name)) for name in ("key:1", "oauth:app", "master", "session", "localhost")] == [
        True,
        True,
        False,
        False,
        False,
    ]

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from pocketpaw.runtime.errors import NotFound
from pocketpaw.storage.credentials import ListCredentials
from pocketpaw.storage.oauth import (
    AddOAuthGrant,
    EndGrantOfToken,
    EndOAuthGrant,
    Exchange,
    LoadOAuthGrants,
    NewTokens,
    RedeemCode,
    RotateTokens,
)
from pocketpaw.storage.tables import oauth_grants, oauth_tokens, utc_now
from sqlalchemy import Connection

from .conftest import Ask

MINUTE = timedelta(minutes=1)


def grant(write: Ask, name: str = "one", *, expires_at: datetime | None = None) -> None:
    write(
        AddOAuthGrant(
            grant_id=f"grant-{name}",
            client_id="app",
            scopes=["chat"],
            granted_by="master",
            redirect_uri="app.example:/back",
            code_digest=f"code-{name}",
            code_challenge="challenge",
            code_expires_at=expires_at or utc_now() + MINUTE,
        )
    )


def new(name: str, *, expires_in: timedelta = MINUTE) -> NewTokens:
    until = utc_now() + expires_in
    return NewTokens(f"access-{name}", until, f"refresh-{name}", until)


def redeem(write: Ask, name: str = "one", *, tokens: NewTokens | None = None, wrong: str = "") -> Exchange:
    attempt = {"client_id": "app", "redirect_uri": "app.example:/back", "code_challenge": "challenge"}
    if wrong:
        attempt[wrong] = "other"
    return write(RedeemCode(code_digest=f"code-{name}", tokens=tokens or new(name), **attempt))


def rotate(write: Ask, old: str, name: str, *, client_id: str = "app") -> Exchange:
    return write(RotateTokens(refresh_digest=f"refresh-{old}", client_id=client_id, tokens=new(name)))


def test_a_code_gives_tokens_once_and_its_second_use_ends_them(write: Ask, read: Ask) -> None:
    grant(write)
    given = redeem(write)
    (credential,) = given.changed
    assert (given.refusal, given.scopes) == ("", ["chat"])
    assert (credential.digest, credential.principal, credential.is_revoked) == ("access-one", "oauth:app", False)
    assert read(ListCredentials()) == [credential]
    again = redeem(write, tokens=new("again"))
    assert again.is_reuse
    assert [(one.digest, one.is_revoked) for one in again.changed] == [("access-one", True)]
    assert [one.is_revoked for one in read(ListCredentials())] == [True]
    assert "revoked" in rotate(write, "one", "two").refusal


@pytest.mark.parametrize("wrong", ["client_id", "redirect_uri", "code_challenge"])
def test_a_code_is_used_up_by_whoever_does_not_know_all_that_goes_with_it(write: Ask, wrong: str) -> None:
    grant(write)
    assert redeem(write, wrong=wrong).refusal
    assert redeem(write).refusal


def test_a_code_that_is_unknown_or_old_gives_nothing(write: Ask, read: Ask) -> None:
    grant(write, expires_at=utc_now())
    assert "expired" in redeem(write).refusal
    assert redeem(write, "none").refusal
    assert read(ListCredentials()) == []


def test_a_refresh_token_gives_new_tokens_once_and_its_second_use_ends_all(write: Ask, read: Ask) -> None:
    grant(write)
    redeem(write)
    assert not rotate(write, "one", "two").refusal
    assert not rotate(write, "two", "three").refusal
    stolen = rotate(write, "one", "four")
    assert stolen.is_reuse
    assert {one.digest for one in stolen.changed} == {"access-one", "access-two", "access-three"}
    assert all(one.is_revoked for one in read(ListCredentials()))
    assert "revoked" in rotate(write, "three", "five").refusal


def test_a_refresh_token_is_its_clients_own_and_no_access_token(write: Ask) -> None:
    grant(write)
    redeem(write)
    assert "another client" in rotate(write, "one", "two", client_id="other").refusal
    assert write(RotateTokens(refresh_digest="access-one", client_id="app", tokens=new("x"))).refusal
    assert rotate(write, "none", "two").refusal
    assert not rotate(write, "one", "two").refusal


def test_an_old_refresh_token_is_refused(write: Ask) -> None:
    grant(write)
    redeem(write, tokens=new("one", expires_in=-MINUTE))
    assert "expired" in rotate(write, "one", "two").refusal


@pytest.mark.parametrize("kind", ["access", "refresh"])
def test_any_token_ends_its_grant(write: Ask, read: Ask, kind: str) -> None:
    grant(write)
    redeem(write)
    ended = write(EndGrantOfToken(token_digest=f"{kind}-one"))
    assert (ended.client_id, [one.is_revoked for one in ended.changed]) == ("app", [True])
    assert write(EndGrantOfToken(token_digest="none")).client_id == ""
    assert read(LoadOAuthGrants()) == []


def test_a_grant_is_listed_while_it_can_be_renewed(write: Ask, read: Ask) -> None:
    for name in ("one", "two", "unused"):
        grant(write, name)
    redeem(write, "one")
    redeem(write, "two", tokens=new("two", expires_in=-MINUTE))
    rotate(write, "one", "three")
    (listed,) = read(LoadOAuthGrants())
    assert (listed.id, listed.client_id, listed.scopes, listed.granted_by) == ("grant-one", "app", ["chat"], "master")
    write(EndOAuthGrant(grant_id="grant-one"))
    assert read(LoadOAuthGrants()) == []
    with pytest.raises(NotFound):
        write(EndOAuthGrant(grant_id="none"))


def test_what_has_long_expired_is_forgotten(write: Ask, writer: Connection) -> None:
    long_ago = -timedelta(days=2)
    grant(write, "old", expires_at=utc_now() + long_ago)
    grant(write, "used")
    redeem(write, "used", tokens=new("used", expires_in=long_ago))
    grant(write, "new")
    with writer.begin():
        assert writer.execute(oauth_tokens.select()).all() == []
        assert {row.id for row in writer.execute(oauth_grants.select())} == {"grant-used", "grant-new"}

"""API keys and OAuth2 tokens, as the guard knows them: in memory, by SHA-256, so that no request waits for the store.

What it is told merges in any order: a credential that was once said to be revoked stays so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from ...runtime import Done, Message, Principal
from ...storage.credentials import Credential

State = Literal["valid", "expired", "revoked", "unsure", "unknown"]
"""`unsure`: not all credentials are known yet, and it is none of those that are."""

KEY_PREFIX = "pp_"
ACCESS_PREFIX = "ppat_"
REFRESH_PREFIX = "pprt_"
EXPIRED_KEPT = timedelta(days=1)
"""How long an expired one is remembered, so that its use is not taken for a guess."""

DERIVED = ("key:", "oauth:")

ENDED_TOPIC = "credentials"
"""Says which credentials have ended, for those who let somebody in for longer than a request."""


class CredentialsEnded(msgspec.Struct, frozen=True):
    """These are refused from now on: single ones, and whole kinds."""

    credentials: list[str] = []
    kinds: list[str] = []


class TakeNote(Message[Done], to="guard"):
    """Know these credentials from now on; of one that is known, that it has been revoked."""

    credentials: list[Credential]


class LearnCredentials(Message[Done], to="guard"):
    """Read again from the store what is kept there: something may have changed that nobody was told of."""


class GetUnsavedUses(Message[dict[str, datetime]], to="guard"):
    """When API keys were last used, by the key's id, as far as that is not in the store yet."""


def is_derived(principal: Principal) -> bool:
    """Whether it acts with a credential that a person made and can take back. What it makes must not outlive that."""
    return principal.name.startswith(DERIVED)


def looks_kept(credential: str) -> bool:
    """Whether it has the form of a credential that is kept."""
    return credential.startswith((KEY_PREFIX, ACCESS_PREFIX))


class KnownCredentials:
    def __init__(self) -> None:
        self._by_digest: dict[str, Credential] = {}
        self._uses: dict[str, datetime] = {}
        self.is_complete = False
        """Whether all that the store had at the start is known."""

    @property
    def unsaved_uses(self) -> Mapping[str, datetime]:
        return self._uses

    def find(self, digest: str, now: datetime) -> tuple[State, Credential | None]:
        credential = self._by_digest.get(digest)
        if credential is None:
            return ("unknown" if self.is_complete else "unsure"), None
        if credential.is_revoked:
            return "revoked", credential
        if credential.expires_at is not None and credential.expires_at <= now:
            return "expired", credential
        return "valid", credential

    def take_in(self, credentials: Iterable[Credential], now: datetime) -> list[str]:
        """Know these from now on; returns the digests of those that have ended by that."""
        self._forget_expired(now)
        ended: list[str] = []
        for credential in credentials:
            known = self._by_digest.get(credential.digest)
            if known is None or not known.is_revoked:
                self._by_digest[credential.digest] = credential
                if credential.is_revoked:
                    ended.append(credential.digest)
        return ended

    def note_use(self, credential: Credential, now: datetime) -> None:
        if credential.kind == "api_key":
            self._uses[credential.principal.removeprefix("key:")] = now

    def saved(self, uses: Mapping[str, datetime]) -> None:
        """Uses are in the store: only later ones are left to be saved."""
        self._uses = {key_id: at for key_id, at in self._uses.items() if uses.get(key_id) != at}

    def _forget_expired(self, now: datetime) -> None:
        before = now - EXPIRED_KEPT
        self._by_digest = {
            digest: credential
            for digest, credential in self._by_digest.items()
            if credential.kind == "api_key" or credential.expires_at is None or credential.expires_at > before
        }

"""What the guard has learned from the store, and what it still has to bring there: nothing here holds a request up."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime

import structlog
import trio

from ...runtime import Actor
from ...runtime.errors import PocketPawError
from ...storage.api_keys import MarkApiKeysUsed
from ...storage.credentials import Credential, ListCredentials
from ...storage.tokens import ListRevokedTokens, RevokedToken, RevokeToken
from .known_credentials import ENDED_TOPIC, CredentialsEnded, KnownCredentials
from .session_tokens import SessionTokens

log = structlog.get_logger()

START_WAIT_S = 2.0
RETRY_S = 5.0
USES_SAVED_EVERY_S = 30.0
LOGOUT_WAIT_S = 0.2
"""How long a logout is held up until it is on disk; it holds in any case from the moment that it is asked for."""


class _Revocation:
    def __init__(self, revoked: RevokedToken) -> None:
        self.revoked = revoked
        self.is_saved = trio.Event()


class Records:
    """`tokens` are the sessions', `known` the API keys and OAuth tokens. Its tasks are the guard's."""

    def __init__(self, guard: Actor) -> None:
        self.tokens = SessionTokens()
        self.known = KnownCredentials()
        self._guard = guard
        self._unsaved: deque[_Revocation] = deque()
        self._has_unsaved = trio.Event()

    async def open(self) -> None:
        """Learn what there is, unless the store keeps us waiting."""
        with trio.move_on_after(START_WAIT_S):
            await self._learn(START_WAIT_S)
        self._guard.spawn(self._keep_learning)
        self._guard.spawn(self._keep_saving_logouts)
        self._guard.spawn(self._keep_saving_uses)

    async def close(self) -> None:
        await self._save_uses(START_WAIT_S)

    def problems(self) -> list[str]:
        """What it has not learned from the store, or not brought there."""
        found: list[str] = []
        if not self._is_complete:
            found.append(
                "not all API keys, OAuth tokens and logouts could be read: those that are not known are refused"
            )
        if self._unsaved:
            found.append("logouts are not on disk yet")
        return found

    def take_note(self, credentials: list[Credential]) -> None:
        """Know these from now on."""
        self._ended(self.known.take_in(credentials, datetime.now(UTC)))

    def learn_again(self) -> None:
        """Something may have changed in the store that nobody was told of."""
        self.known.is_complete = False
        self._guard.spawn(self._keep_learning)

    async def end_session(self, revoked: RevokedToken) -> None:
        """Have a revoked session's end known to all who let it in, and on disk if that takes no time."""
        self._ended([revoked.digest])
        revocation = _Revocation(revoked)
        self._unsaved.append(revocation)
        self._has_unsaved.set()
        with trio.move_on_after(LOGOUT_WAIT_S):
            await revocation.is_saved.wait()

    def _ended(self, credentials: list[str]) -> None:
        if credentials:
            self._guard.publish(ENDED_TOPIC, "ended", CredentialsEnded(credentials=credentials))

    @property
    def _is_complete(self) -> bool:
        return self.tokens.knows_revoked and self.known.is_complete

    async def _keep_learning(self) -> None:
        """Learn what the store keeps as soon as it can tell."""
        while not self._is_complete:
            await self._learn(RETRY_S)
            if not self._is_complete:
                await trio.sleep(RETRY_S)

    async def _learn(self, timeout_s: float) -> None:
        guard = self._guard
        try:
            if not self.tokens.knows_revoked:
                self.tokens.take_in(await guard.ask(ListRevokedTokens(), timeout_s=timeout_s))
            if not self.known.is_complete:
                self.take_note(await guard.ask(ListCredentials(), timeout_s=timeout_s))
                self.known.is_complete = True
        except PocketPawError as error:
            log.warning("not all credentials are known", actor=guard.path, reason=error.detail)

    async def _keep_saving_uses(self) -> None:
        while True:
            await trio.sleep(USES_SAVED_EVERY_S)
            await self._save_uses(RETRY_S)

    async def _save_uses(self, timeout_s: float) -> None:
        uses = dict(self.known.unsaved_uses)
        if not uses:
            return
        try:
            await self._guard.ask(MarkApiKeysUsed(uses=uses), timeout_s=timeout_s)
        except PocketPawError as error:
            log.warning("uses of API keys are not on disk yet", actor=self._guard.path, reason=error.detail)
        else:
            self.known.saved(uses)

    async def _keep_saving_logouts(self) -> None:
        """Bring revocations to disk, in order, each until the store has taken it."""
        while True:
            while self._unsaved:
                first = self._unsaved[0]
                command = RevokeToken(digest=first.revoked.digest, expires_at=first.revoked.expires_at)
                try:
                    await self._guard.ask(command, timeout_s=RETRY_S)
                except PocketPawError as error:
                    log.warning("a logout is not on disk yet", actor=self._guard.path, reason=error.detail)
                    await trio.sleep(RETRY_S)
                else:
                    first.is_saved.set()
                    self._unsaved.popleft()
            self._has_unsaved = trio.Event()
            await self._has_unsaved.wait()

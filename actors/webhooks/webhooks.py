"""Webhooks: who may call them, and what a call becomes: a message to the agent, in the webhook's own session.

Invariant: what a caller sent is data. The turn that it starts has the one scope chat, and carries the webhook as its
provenance, so whatever it provokes beyond reading is held for a person.
"""

from __future__ import annotations

import hmac
import secrets
import time

import msgspec
import structlog
import trio

from ...config.setting import MASK
from ...runtime import Actor, Message, Principal
from ...runtime.errors import Conflict, NotFound, PocketPawError, Unauthenticated, Unavailable
from ...storage.sessions import Ok
from ...storage.webhooks import (
    CutLog,
    DropWebhook,
    ForgetClearSecrets,
    GetStoredWebhook,
    KeepWebhook,
    ListClearSecrets,
    ListStoredWebhooks,
    StoredWebhook,
    SyncTimeout,
    WebhookName,
    WebhookPurpose,
)
from ..agent import Accepted, Chat
from ..conversation import OUTPUT_SHOWN, marked
from ..settings import LiveSettings
from .proof import WINDOW_S, Proof

log = structlog.get_logger()

CHANNEL = "webhook"
SCOPES = frozenset({"chat"})
SECRET_BYTES = 32
START_WAIT_S = 2.0

NAME_SHOWN = 64
"""Characters of a name that nobody has that a log line shows."""

LEFT_IN_BACKUPS = (
    "a backup of the database from before still holds these secrets in the clear (pocketpaw.db.backup-…, for its owner "
    "only): give the webhooks new ones, or delete it"
)

UNCHECKED = "nobody can be let in now: the vault cannot be opened; the daemon's health says why"
"""What callers are told then, who may be anybody."""

EVENT_SHOWN = 200
"""Characters of what a caller says has happened."""


class WebhookView(msgspec.Struct, frozen=True):
    """`secret` is whole only in the answer that it was made for; `sync_timeout` is in seconds."""

    name: str
    description: str
    secret: str
    sync_timeout: int


class ListWebhooks(Message[list[WebhookView]], to="webhooks"):
    """List the webhooks, their secrets masked."""


class AddWebhook(Message[WebhookView], to="webhooks"):
    """Make a webhook. Its secret is in this answer, and in no later one.

    `description` tells the agent what to do with what comes. `sync_timeout` is how long a caller that waits for the
    reply waits at most, in seconds.
    """

    name: WebhookName
    description: WebhookPurpose = ""
    sync_timeout: SyncTimeout | None = None


class RemoveWebhook(Message[Ok], to="webhooks"):
    """Remove a webhook; its session stays."""

    name: WebhookName


class RegenerateWebhookSecret(Message[WebhookView], to="webhooks"):
    """Give a webhook a new secret, shown in this answer only; the old one stops working at once."""

    name: WebhookName


class Delivered(msgspec.Struct, frozen=True):
    """The delivery is on disk. `sync_timeout` is how long its caller may wait for the reply, in seconds."""

    accepted: Accepted
    sync_timeout: int


class DeliverWebhook(Message[Delivered], to="webhooks"):
    """Take what a caller has sent to a webhook. A repeat of a delivery is answered for the first one.

    `event` is what has happened, where the caller says so beside the body.
    """

    name: str
    body: bytes
    proof: Proof
    event: str | None = None


class Webhooks(Actor):
    """Keeps nothing itself: what is not in the store is not so, and what is secret is in the vault."""

    concurrency = 32

    def __init__(self, live: LiveSettings) -> None:
        super().__init__()
        self._live = live
        self._nobodys_secret = secrets.token_urlsafe(SECRET_BYTES)
        """What calls to a webhook that does not exist are held against, so that they take as long as others."""
        self._changing = trio.Lock()
        """Held from looking a name up to having changed row and secret, so that they stay each other's."""
        self._has_taken_in = False

    async def on_start(self) -> None:
        try:
            await self._take_in_secrets()
        except PocketPawError as error:
            log.warning("webhooks' secrets stay in the database", actor=self.path, reason=error.detail)

    async def list_webhooks(self, message: ListWebhooks) -> list[WebhookView]:
        stored = await self.ask(ListStoredWebhooks())
        return [self._view(webhook, f"{MASK}{(await self._secret(webhook.name) or '')[-4:]}") for webhook in stored]

    async def add_webhook(self, message: AddWebhook) -> WebhookView:
        webhook = StoredWebhook(message.name, message.description, message.sync_timeout)
        async with self._changing:
            if await self.ask(GetStoredWebhook(name=webhook.name)) is not None:
                raise Conflict(f"there is a webhook {webhook.name!r} already", name=webhook.name)
            secret = await self._new_secret(webhook.name)
            await self.ask(KeepWebhook(webhook=webhook))
        return self._view(webhook, secret)

    async def remove_webhook(self, message: RemoveWebhook) -> Ok:
        async with self._changing:
            await self._existing(message.name)
            await self._live.keep_secrets({_entry(message.name): None})  # first: without it nobody gets in
            await self.ask(DropWebhook(name=message.name))
        return Ok()

    async def regenerate_webhook_secret(self, message: RegenerateWebhookSecret) -> WebhookView:
        async with self._changing:
            webhook = await self._existing(message.name)
            secret = await self._new_secret(webhook.name)
        return self._view(webhook, secret)

    async def deliver_webhook(self, message: DeliverWebhook) -> Delivered:
        webhook, secret = await self._called(message)
        self.mark(f"webhook {webhook.name}")
        chat = Chat(
            session_id=f"webhook:{webhook.name}",
            content=_told(webhook, secret, message),
            channel=CHANNEL,
            idempotency_key=message.proof.key(),
        )
        caller = Principal(f"webhook:{webhook.name}", SCOPES)
        accepted = await self.system.ask(chat, principal=caller, sender=self.path)
        return Delivered(accepted, self._sync_timeout(webhook))

    async def _existing(self, name: str) -> StoredWebhook:
        """Raises NotFound."""
        webhook = await self.ask(GetStoredWebhook(name=name))
        if webhook is None:
            raise NotFound(f"there is no webhook {name!r}", name=name)
        return webhook

    async def _called(self, message: DeliverWebhook) -> tuple[StoredWebhook, str]:
        """The webhook and its secret, if its caller has that. Nobody without learns whether there is such a webhook."""
        stored = await self.ask(GetStoredWebhook(name=message.name))
        known = await self._secret_if_open(message.name)
        secret = self._nobodys_secret if stored is None or known is None else known
        is_genuine = message.proof.is_made_with(secret, message.body)
        if stored is None or known is None or not is_genuine:
            log.warning("a call of a webhook was refused", actor=self.path, webhook=message.name[:NAME_SHOWN])
            if self._live.vault.problem is not None:
                raise Unavailable(UNCHECKED)
            raise Unauthenticated("there is no such webhook, or the secret or signature is missing or wrong")
        if not message.proof.is_timely(time.time()):
            text = f"X-Webhook-Timestamp has to be in Unix seconds, and within {WINDOW_S:g} s of this daemon's clock"
            raise Unauthenticated(text)
        return stored, secret

    async def _secret(self, name: str) -> str | None:
        """A webhook's secret; raises Unavailable if the vault cannot be opened."""
        secret = self._live.secret(_entry(name))
        if secret is None and not self._has_taken_in:
            await self._take_in_secrets()
            secret = self._live.secret(_entry(name))
        return secret

    async def _secret_if_open(self, name: str) -> str | None:
        """As above, but None if the vault cannot be opened."""
        try:
            return await self._secret(name)
        except Unavailable:
            if self._live.vault.problem is None:
                raise
            return None

    async def _new_secret(self, name: str) -> str:
        secret = secrets.token_urlsafe(SECRET_BYTES)
        await self._live.keep_secrets({_entry(name): secret})
        return secret

    async def _take_in_secrets(self) -> None:
        """Move the secrets that an older version has left in the database into the vault."""
        clear = await self.ask(ListClearSecrets(), timeout_s=START_WAIT_S)
        if clear:
            names = sorted(clear)
            self._live.hide(clear.values())
            new = {_entry(name): text for name, text in clear.items() if self._live.secret(_entry(name)) is None}
            await self._live.keep_secrets(new)
            await self.ask(ForgetClearSecrets(names=names))
            if not await self.ask(CutLog()):
                log.warning("the database's log still holds them until the daemon stops", actor=self.path)
            log.info("webhooks' secrets were moved from the database to the vault", actor=self.path, names=names)
            log.warning(LEFT_IN_BACKUPS, actor=self.path)
        self._has_taken_in = True

    def _view(self, webhook: StoredWebhook, secret: str) -> WebhookView:
        return WebhookView(webhook.name, webhook.description, secret, self._sync_timeout(webhook))

    def _sync_timeout(self, webhook: StoredWebhook) -> int:
        return webhook.sync_timeout or self._live.current.webhook_sync_timeout


def _entry(name: str) -> str:
    """Where the vault has a webhook's secret."""
    return f"webhooks/{name}"


def _told(webhook: StoredWebhook, secret: str, message: DeliverWebhook) -> str:
    """What the agent is told: the same for the same delivery, so that a repeat of it is known for one."""
    lines = [f"The webhook {webhook.name} was called."]
    if webhook.description:
        lines.append(f"What it is for: {webhook.description}")
    text = _readable(message.body)
    if message.event:
        text = f"event: {message.event[:EVENT_SHOWN]}\n{text}"
    # Whoever wrote the body, and it may be a third party, has not the key.
    number = hmac.digest(secret.encode(), b"mark " + message.body, "sha256").hex()[:8]
    return "\n\n".join([*lines, marked(text, f"webhook {webhook.name}", number)])


def _readable(body: bytes) -> str:
    """The body as a text, in bounds; JSON that is small enough is written line by line."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return f"({len(body)} bytes that are no text)"
    if len(text) > OUTPUT_SHOWN:
        return f"{text[:OUTPUT_SHOWN]}\n[{len(text) - OUTPUT_SHOWN} characters more are not shown]"
    try:
        pretty = msgspec.json.format(text, indent=2)
    except (msgspec.DecodeError, RecursionError):
        return text or "(nothing)"
    return pretty if len(pretty) <= OUTPUT_SHOWN else text

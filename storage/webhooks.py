"""Webhooks: named doors through which other programs reach the agent. Their secrets are in the vault."""

from __future__ import annotations

from typing import Annotated

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from ..runtime.errors import Conflict, NotFound
from ..runtime.message import Done, Message
from .registry import command, query
from .tables import utc_now, webhooks

# The look-ahead keeps out the trailing line break that `$` alone lets pass.
WebhookName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")]
WebhookPurpose = Annotated[str, msgspec.Meta(max_length=1_000)]
SyncTimeout = Annotated[int, msgspec.Meta(ge=1, le=600)]


class StoredWebhook(msgspec.Struct, frozen=True):
    """`sync_timeout` is in seconds; None leaves it to the setting."""

    name: WebhookName
    description: WebhookPurpose
    sync_timeout: SyncTimeout | None


class KeepWebhook(Message[Done], to="store/writer"):
    """Keep a new webhook; a name that is taken is a conflict."""

    webhook: StoredWebhook


class DropWebhook(Message[Done], to="store/writer"):
    """Forget a webhook; what came through it stays."""

    name: WebhookName


class GetStoredWebhook(Message[StoredWebhook | None], to="store/reader"):
    """Look a webhook up, by a name that may be anything."""

    name: str


class ListStoredWebhooks(Message[list[StoredWebhook]], to="store/reader"):
    """List the webhooks by name."""


class ListClearSecrets(Message[dict[str, str]], to="store/reader"):
    """The secrets that an older version has left in the database, by the webhook's name."""


class ForgetClearSecrets(Message[Done], to="store/writer"):
    """Take these webhooks' secrets out of the database: they are in the vault."""

    names: list[WebhookName]


class CutLog(Message[bool], to="store/reader"):
    """Bring SQLite's write-ahead log into the file and empty it, so that no former page is left; tell whether it is."""


_NAMED = webhooks.c.name == bindparam("wanted")
_SELECT = select(webhooks.c.name, webhooks.c.description, webhooks.c.sync_timeout)
_LIST = _SELECT.order_by(webhooks.c.name)
_ONE = _SELECT.where(_NAMED)
_INSERT = insert(webhooks)
_CLEAR = select(webhooks.c.name, webhooks.c.secret).where(webhooks.c.secret.is_not(None))
_DELETE = delete(webhooks).where(_NAMED)


@command
def keep_webhook(connection: Connection, message: KeepWebhook) -> Done:
    webhook = message.webhook
    try:
        connection.execute(_INSERT, {**msgspec.structs.asdict(webhook), "created_at": utc_now()})
    except IntegrityError as error:
        raise Conflict(f"there is a webhook {webhook.name!r} already", name=webhook.name) from error
    return Done()


@command
def drop_webhook(connection: Connection, message: DropWebhook) -> Done:
    if connection.execute(_DELETE, {"wanted": message.name}).rowcount == 0:
        raise _no_webhook(message.name)
    return Done()


@command
def forget_clear_secrets(connection: Connection, message: ForgetClearSecrets) -> Done:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete = ON")  # else the texts stay in the page until it is used anew
    connection.execute(update(webhooks).where(webhooks.c.name.in_(message.names)).values(secret=None))
    return Done()


@query
def get_stored_webhook(connection: Connection, message: GetStoredWebhook) -> StoredWebhook | None:
    row = connection.execute(_ONE, {"wanted": message.name}).first()
    return None if row is None else StoredWebhook(*row)


@query
def list_stored_webhooks(connection: Connection, _message: ListStoredWebhooks) -> list[StoredWebhook]:
    return [StoredWebhook(*row) for row in connection.execute(_LIST)]


@query
def list_clear_secrets(connection: Connection, _message: ListClearSecrets) -> dict[str, str]:
    return {row.name: row.secret for row in connection.execute(_CLEAR)}


@query
def cut_log(connection: Connection, _message: CutLog) -> bool:
    if connection.dialect.name != "sqlite":
        return True
    # A reader may: its transaction begins with its first look at a table, and so has not begun.
    is_busy, _, _ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
    return not is_busy


def _no_webhook(name: str) -> NotFound:
    return NotFound(f"there is no webhook {name!r}", name=name)

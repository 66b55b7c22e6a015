"""Pairings: people on chat platforms who have shown that they are the operator's, by a code that they were given."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select

from ..runtime.errors import NotFound
from ..runtime.message import Done, Message
from .registry import command, query
from .tables import pairing_codes, pairings


class Pairing(msgspec.Struct, frozen=True):
    """`sender` is the person's lasting id on the platform; `paired_by` made the code."""

    channel: str
    sender: str
    name: str
    paired_by: str
    created_at: datetime


class KeepPairingCode(Message[Done], to="store/writer"):
    """Keep what a code is known by; those that have expired go."""

    digest: str
    channel: str
    made_by: str
    expires_at: datetime
    now: datetime


class DropPairing(Message[Done], to="store/writer"):
    """Forget a person, who is a stranger from now on."""

    channel: str
    sender: str


class ListPairings(Message[list[Pairing]], to="store/reader"):
    """List who is paired, oldest first."""


_WHO = (pairings.c.channel == bindparam("of_channel"), pairings.c.sender == bindparam("of_sender"))
_NAMES = Pairing.__struct_fields__
_LIST = select(*(pairings.c[name] for name in _NAMES)).order_by(pairings.c.created_at, pairings.c.sender)
_IS_PAIRED = select(pairings.c.sender).where(*_WHO)
_INSERT = insert(pairings)
_DELETE = delete(pairings).where(*_WHO)
_INSERT_CODE = insert(pairing_codes)
_EXPIRE_CODES = delete(pairing_codes).where(pairing_codes.c.expires_at <= bindparam("now"))
_CODE = select(pairing_codes.c.made_by).where(
    pairing_codes.c.digest == bindparam("of_digest"),
    pairing_codes.c.channel == bindparam("of_channel"),
    pairing_codes.c.expires_at > bindparam("now"),
)
_USE_CODE = delete(pairing_codes).where(pairing_codes.c.digest == bindparam("of_digest"))


@command
def keep_pairing_code(connection: Connection, message: KeepPairingCode) -> Done:
    connection.execute(_EXPIRE_CODES, {"now": message.now})
    row = {name: getattr(message, name) for name in ("digest", "channel", "made_by", "expires_at")}
    connection.execute(_INSERT_CODE, row)
    return Done()


@command
def drop_pairing(connection: Connection, message: DropPairing) -> Done:
    if connection.execute(_DELETE, {"of_channel": message.channel, "of_sender": message.sender}).rowcount == 0:
        raise NotFound(f"nobody called {message.sender!r} is paired on {message.channel}")
    return Done()


@query
def list_pairings(connection: Connection, _message: ListPairings) -> list[Pairing]:
    return [Pairing(*row) for row in connection.execute(_LIST)]


def is_paired(connection: Connection, channel: str, sender: str) -> bool:
    return connection.execute(_IS_PAIRED, {"of_channel": channel, "of_sender": sender}).first() is not None


def redeem_code(connection: Connection, channel: str, digest: str, sender: str, name: str, now: datetime) -> bool:
    """Pair a person by a code, which is used up by it; False if there is no such code."""
    made_by = connection.execute(_CODE, {"of_digest": digest, "of_channel": channel, "now": now}).scalar_one_or_none()
    if made_by is None:
        return False
    connection.execute(_USE_CODE, {"of_digest": digest})
    row = {"channel": channel, "sender": sender, "name": name, "paired_by": made_by, "created_at": now}
    connection.execute(_INSERT, row)
    return True

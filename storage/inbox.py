"""The inbox: what people said on chat platforms, from before the platform is told that it has arrived until its answer
is in the outbox.

Invariant: a message is taken in once, whatever its platform repeats; and it is `answered` in the transaction that puts
its answer into the outbox.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, insert, literal, select, update

from ..runtime.message import Done, Message
from .outbox import Line, add_line
from .pairings import is_paired, redeem_code
from .registry import command, query
from .tables import AnyRow, conversations, inbox, outbox, strangers, turns

Standing = Literal["trusted", "guest", "stranger"]
"""Trusted: named by the operator, or paired. A guest may talk, because everybody may there; a stranger may not."""

POLITE_AGAIN = timedelta(hours=24)


class Inbound(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was taken in; `turn_id` is the turn that it has become, if it has already."""

    id: int
    channel: str
    key: str
    chat: str
    thread: str
    ref: str | None
    sender: str
    sender_name: str
    is_direct: bool
    is_trusted: bool
    text: str
    media: list[str]
    session_id: str
    created_at: datetime
    turn_id: str | None = None


class Taken(msgspec.Struct, frozen=True):
    """`inbound` is None for a stranger's message, which is not kept. A repeat is not new. `is_open`: to be answered.

    `is_paired`: its sender was paired by it.
    """

    inbound: Inbound | None
    is_new: bool = True
    is_open: bool = True
    is_paired: bool = False


class TakeIn(Message[Taken], to="store/writer"):
    """Take in what somebody said; a repeat changes nothing.

    `standing` is theirs by the settings; who is paired is trusted. `code_digest` is of the pairing code that it may be:
    if it is one, its sender is paired from now on, and told `paired_line`. With an `answer`, as for a command, that is
    what is said, and no agent hears of it; `opens_session` begins a new session in the chat. A stranger in a direct
    chat is told `stranger_line`, once a day.
    """

    channel: str
    key: str
    chat: str
    thread: str
    ref: str | None
    sender: str
    sender_name: str
    is_direct: bool
    text: str
    media: list[str] = msgspec.field(default_factory=list[str])
    standing: Standing
    session_base: str
    code_digest: str | None = None
    answer: str | None = None
    opens_session: bool = False
    paired_line: str
    stranger_line: str
    now: datetime


class PruneChannels(Message[Done], to="store/writer"):
    """Forget what was answered, said or given up before a time; until then a repeat of it is known to be one."""

    before: datetime


class Recognized(msgspec.Struct, frozen=True):
    """`is_known`: the message was taken in before."""

    is_known: bool
    is_paired: bool


class Recognize(Message[Recognized], to="store/reader"):
    """Say what is known of a message and of its sender before it is taken in."""

    channel: str
    key: str
    sender: str


class AnswerInbound(Message[Done], to="store/writer"):
    """Put the answer to a message into the outbox, in parts, and be done with it; once answered it stays so."""

    inbound_id: int
    parts: list[str]
    now: datetime


class ListOpenInbound(Message[list[Inbound]], to="store/reader"):
    """List what a channel has to answer yet, oldest first."""

    channel: str


_NAMES = tuple(name for name in Inbound.__struct_fields__ if name != "turn_id")
_TURN = (turns.c.principal == inbox.c.channel + literal(":") + inbox.c.sender) & (
    turns.c.idempotency_key == inbox.c.key
)
_INBOUND = select(*(inbox.c[name] for name in _NAMES), turns.c.id, inbox.c.state).outerjoin_from(inbox, turns, _TURN)
_BY_KEY = _INBOUND.where(inbox.c.channel == bindparam("of_channel"), inbox.c.key == bindparam("of_key"))
_BY_ID = _INBOUND.where(inbox.c.id == bindparam("row_id"))
_OPEN = _INBOUND.where(inbox.c.channel == bindparam("of_channel"), inbox.c.state == "open").order_by(inbox.c.id)
_INSERT = insert(inbox)
_ANSWERED = (
    update(inbox)
    .where(inbox.c.id == bindparam("row_id"), inbox.c.state == "open")
    .values(state="answered", text="", media=[], answered_at=bindparam("now"))
)
_PRUNE_INBOX = delete(inbox).where(inbox.c.state == "answered", inbox.c.answered_at < bindparam("before"))
_PRUNE_OUTBOX = delete(outbox).where(outbox.c.created_at < bindparam("before"))
_OF_CHAT = (
    conversations.c.channel == bindparam("of_channel"),
    conversations.c.chat == bindparam("of_chat"),
    conversations.c.thread == bindparam("of_thread"),
)
_SESSION = select(conversations.c.session_id).where(*_OF_CHAT).order_by(conversations.c.id.desc()).limit(1)
_COUNT = select(func.count()).select_from(conversations).where(*_OF_CHAT)
_OPEN_CONVERSATION = insert(conversations)
_FORGET_STRANGERS = delete(strangers).where(strangers.c.told_at <= bindparam("before"))
_WAS_TOLD = select(strangers.c.told_at).where(
    strangers.c.channel == bindparam("of_channel"), strangers.c.sender == bindparam("of_sender")
)
_TELL_STRANGER = insert(strangers)


@command
def take_in(connection: Connection, message: TakeIn) -> Taken:
    by_key = {"of_channel": message.channel, "of_key": message.key}
    known = connection.execute(_BY_KEY, by_key).first()
    if known is not None:
        return Taken(_read(known), is_new=False, is_open=known.state == "open")
    answer, standing, is_newly_paired = message.answer, message.standing, False
    if standing != "trusted" and is_paired(connection, message.channel, message.sender):
        standing = "trusted"
    if standing != "trusted" and message.code_digest is not None:
        name = message.sender_name
        if redeem_code(connection, message.channel, message.code_digest, message.sender, name, message.now):
            standing, answer, is_newly_paired = "trusted", message.paired_line, True
    if standing == "stranger":
        _be_polite(connection, message)
        return Taken(None, is_open=False)
    session_id = _session_of(connection, message)
    row = {name: getattr(message, name) for name in _NAMES if name in message.__struct_fields__}
    facts = {"session_id": session_id, "is_trusted": standing == "trusted", "state": "open", "created_at": message.now}
    connection.execute(_INSERT, {**row, **facts})
    inbound = _read(connection.execute(_BY_KEY, by_key).one())
    if answer is not None:
        _answer(connection, inbound, [answer], message.now)
    return Taken(inbound, is_open=answer is None, is_paired=is_newly_paired)


@command
def answer_inbound(connection: Connection, message: AnswerInbound) -> Done:
    found = connection.execute(_BY_ID, {"row_id": message.inbound_id}).one()
    if found.state == "open":
        _answer(connection, _read(found), message.parts, message.now)
    return Done()


@command
def prune_channels(connection: Connection, message: PruneChannels) -> Done:
    for forget in (_PRUNE_INBOX, _PRUNE_OUTBOX):
        connection.execute(forget, {"before": message.before})
    return Done()


@query
def recognize(connection: Connection, message: Recognize) -> Recognized:
    known = connection.execute(_BY_KEY, {"of_channel": message.channel, "of_key": message.key}).first()
    return Recognized(known is not None, is_paired(connection, message.channel, message.sender))


@query
def list_open_inbound(connection: Connection, message: ListOpenInbound) -> list[Inbound]:
    return [_read(row) for row in connection.execute(_OPEN, {"of_channel": message.channel})]


def answer_key(inbound_id: int, part: int) -> str:
    """The outbox's key of a part of an answer."""
    return f"in:{inbound_id}:{part}"


def question_of(inbound: Inbound) -> str | None:
    """What an answer shows that it answers; in a chat of two that is plain."""
    return None if inbound.is_direct else inbound.ref


def _answer(connection: Connection, inbound: Inbound, parts: list[str], now: datetime) -> None:
    for number, part in enumerate(parts):
        line = Line(
            key=answer_key(inbound.id, number),
            channel=inbound.channel,
            chat=inbound.chat,
            thread=inbound.thread,
            text=part,
            reply_to=question_of(inbound) if number == 0 else None,
        )
        add_line(connection, line, now)
    connection.execute(_ANSWERED, {"row_id": inbound.id, "now": now})


def _session_of(connection: Connection, message: TakeIn) -> str:
    """The session that the chat is in; a new one where there is none yet, or a new one is wanted."""
    of_chat = {"of_channel": message.channel, "of_chat": message.chat, "of_thread": message.thread}
    known: str | None = connection.execute(_SESSION, of_chat).scalar_one_or_none()
    if known is not None and not message.opens_session:
        return known
    earlier = connection.execute(_COUNT, of_chat).scalar_one()
    session_id = f"{message.session_base}.{earlier + 1}" if earlier else message.session_base
    row = {name: getattr(message, name) for name in ("channel", "chat", "thread", "is_direct")}
    connection.execute(_OPEN_CONVERSATION, {**row, "session_id": session_id, "opened_at": message.now})
    return session_id


def _be_polite(connection: Connection, message: TakeIn) -> None:
    if not message.is_direct:
        return
    connection.execute(_FORGET_STRANGERS, {"before": message.now - POLITE_AGAIN})
    who = {"of_channel": message.channel, "of_sender": message.sender}
    if connection.execute(_WAS_TOLD, who).first() is not None:
        return
    connection.execute(_TELL_STRANGER, {"channel": message.channel, "sender": message.sender, "told_at": message.now})
    line = Line(
        key=f"stranger:{message.channel}:{message.key}",
        channel=message.channel,
        chat=message.chat,
        thread=message.thread,
        text=message.stranger_line,
    )
    add_line(connection, line, message.now)


def _read(row: AnyRow) -> Inbound:
    *facts, turn_id, _state = row
    return Inbound(**dict(zip(_NAMES, facts, strict=True)), turn_id=turn_id)

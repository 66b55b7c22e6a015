"""Turns: one message of a person and what becomes of it.

A turn is claimed before it is worked on and finished once, by the daemon start (boot) that claimed it; so after a crash
the next start sees which are left, and an older one's late words change nothing.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec
from sqlalchemy import Connection, bindparam, case, exists, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from ..runtime.errors import Conflict, NotFound
from ..runtime.message import Message
from .history import ContextMessage, read_context
from .registry import command, query
from .sessions import SessionId, count_message, open_session
from .tables import UNFINISHED, AnyRow, JsonObject, messages, plain, tool_calls, turns, usage, utc_now
from .tool_calls import leave_calls
from .usage import Usage, add_usage, sum_of

IDEMPOTENCY_WINDOW = timedelta(hours=24)

TurnState = Literal["pending", "running", "done", "failed", "interrupted", "stopped"]


class Turn(msgspec.Struct, frozen=True):
    """`content` is the question, `reply` the answer, None while there is none; `message_id` is the question's.

    `provenance` names the outside content in the question; `usage` is what all models took together, and the last one.
    """

    id: str
    session_id: str
    message_id: str
    content: str
    media: list[str]
    channel: str
    principal: str
    state: TurnState
    boot_id: str
    attempts: int
    created_at: datetime
    updated_at: datetime
    reply: str | None = None
    error: str | None = None
    usage: Usage | None = None
    provenance: list[str] = msgspec.field(default_factory=list[str])
    scopes: list[str] = msgspec.field(default_factory=list[str])
    """What the principal might do when the message came, and so what the turn may do for them."""


class TurnAdded(msgspec.Struct, frozen=True):
    """`created` is False when an earlier turn with the same idempotency key answers; then `history` is empty."""

    turn: Turn
    created: bool
    session_created: bool
    history: list[ContextMessage]


class AddTurn(Message[TurnAdded], to="store/writer"):
    """Keep a person's message and the turn that it starts, making the session if there is none.

    A repeat of an idempotency key by the same principal within 24 hours gives the earlier turn and writes nothing; with
    another content it is a conflict.
    """

    session_id: SessionId
    turn_id: str
    content: str
    media: list[str] = msgspec.field(default_factory=list[str])
    channel: str
    state: Literal["pending", "running"]
    boot_id: str
    principal: str
    scopes: list[str] = msgspec.field(default_factory=list[str])
    provenance: list[str] = msgspec.field(default_factory=list[str])
    idempotency_key: str | None = None
    history_limit: Annotated[int, msgspec.Meta(ge=0, le=500)] = 0


class ClaimTurn(Message[Turn], to="store/writer"):
    """Take an unfinished turn to work on it; the attempt is counted before it is made, unless it waits for a person.

    Beyond `max_attempts` the turn is interrupted instead, and returned so.
    """

    turn_id: str
    boot_id: str
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3


class FinishTurn(Message[Turn], to="store/writer"):
    """End a turn: its reply, what it cost with each model, and its state in one transaction.

    The reply is kept when the turn is done, and when it was stopped with something said. Only the boot that claimed the
    turn may end it; the same end a second time is answered with the stored turn, another one is a conflict.
    """

    turn_id: str
    boot_id: str
    state: Literal["done", "failed", "stopped", "interrupted"]
    content: str = ""
    usage: list[Usage] = msgspec.field(default_factory=list[Usage])
    error: str | None = None
    metadata: JsonObject = msgspec.field(default_factory=JsonObject)


class ListUnfinishedSessions(Message[list[str]], to="store/reader"):
    """List the sessions with turns that other boots left pending or running, that of the oldest turn first."""

    boot_id: str
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1_000


class ListSessionTurns(Message[list[Turn]], to="store/reader"):
    """List the turns of a session that are pending or running, whichever boot claimed them, oldest first."""

    session_id: SessionId


class GetTurn(Message[Turn], to="store/reader"):
    """Show one turn."""

    turn_id: str


_question = messages.alias("question")
_reply = messages.alias("reply")
_TURN_ID = turns.c.id == bindparam("turn_id")
_TURNS = (
    select(
        turns.c.id,
        turns.c.session_id,
        _question.c.id,
        _question.c.content,
        _question.c.metadata,
        turns.c.scopes,
        turns.c.channel,
        turns.c.principal,
        turns.c.state,
        turns.c.boot_id,
        turns.c.attempts,
        turns.c.created_at,
        turns.c.updated_at,
        _reply.c.content,
        turns.c.error,
        usage.c.input_tokens,
        usage.c.output_tokens,
        usage.c.total_tokens,
        usage.c.model,
        usage.c.backend,
        usage.c.cost_usd,
    )
    .join_from(turns, _question, (_question.c.turn_id == turns.c.id) & (_question.c.role == "user"))
    .outerjoin(_reply, (_reply.c.turn_id == turns.c.id) & (_reply.c.role == "assistant"))
    .outerjoin(usage, usage.c.turn_id == turns.c.id)
)
_FACTS_END = 15  # of the columns, those of the usage come last
_ONE = _TURNS.where(_TURN_ID).order_by(usage.c.id)
_UNFINISHED = (
    select(turns.c.session_id)
    .join_from(turns, _question, (_question.c.turn_id == turns.c.id) & (_question.c.role == "user"))
    .where(UNFINISHED.self_group(), turns.c.boot_id != bindparam("boot_id"))
    .group_by(turns.c.session_id)
    .order_by(func.min(_question.c.id))
    .limit(bindparam("limit"))
)
_OF_SESSION = _TURNS.where(UNFINISHED.self_group(), turns.c.session_id == bindparam("session_id")).order_by(
    _question.c.id
)
_BY_KEY = select(turns.c.id, turns.c.created_at).where(
    turns.c.principal == bindparam("principal"), turns.c.idempotency_key == bindparam("key")
)
_EXPIRE_KEY = update(turns).where(_TURN_ID).values(idempotency_key=None)
_INSERT = insert(turns)
_INSERT_MESSAGE = insert(messages)
_WAITS_FOR_A_PERSON = exists().where(
    tool_calls.c.turn_id == turns.c.id, tool_calls.c.state == "waiting", tool_calls.c.expires_at > bindparam("now")
)
_CLAIM = (
    update(turns)
    .where(_TURN_ID, UNFINISHED, turns.c.attempts < bindparam("max_attempts"))
    .values(
        state="running",
        boot_id=bindparam("new_boot_id"),
        attempts=turns.c.attempts + case((_WAITS_FOR_A_PERSON, 0), else_=1),
        updated_at=bindparam("now"),
    )
)
_GIVE_UP = (
    update(turns)
    .where(_TURN_ID, UNFINISHED)
    .values(
        state="interrupted", boot_id=bindparam("new_boot_id"), error=bindparam("new_error"), updated_at=bindparam("now")
    )
)
_FINISH = (
    update(turns)
    .where(_TURN_ID, UNFINISHED, turns.c.boot_id == bindparam("by_boot_id"))
    .values(state=bindparam("new_state"), error=bindparam("new_error"), updated_at=bindparam("now"))
)


@command
def add_turn(connection: Connection, message: AddTurn) -> TurnAdded:
    now = utc_now()
    earlier = _earlier_turn(connection, message, now) if message.idempotency_key is not None else None
    if earlier is not None:
        return TurnAdded(earlier, created=False, session_created=False, history=[])
    session_created = open_session(connection, message.session_id, message.channel, message.content, now)
    _insert_turn(connection, message, now)
    metadata: JsonObject = {"media": message.media} if message.media else {}
    if message.provenance:
        metadata["provenance"] = message.provenance
    message_id = _add_message(connection, message.session_id, message.turn_id, None, message.content, metadata, now)
    history: list[ContextMessage] = []
    if message.history_limit and not session_created:
        history = read_context(connection, message.session_id, message_id, message.history_limit)
    turn = Turn(
        id=message.turn_id,
        session_id=message.session_id,
        message_id=str(message_id),
        content=plain(message.content),
        media=message.media,
        channel=message.channel,
        principal=message.principal,
        state=message.state,
        boot_id=message.boot_id,
        attempts=_first_attempts(message),
        created_at=now,
        updated_at=now,
        provenance=message.provenance,
        scopes=message.scopes,
    )
    return TurnAdded(turn, created=True, session_created=session_created, history=history)


@command
def claim_turn(connection: Connection, message: ClaimTurn) -> Turn:
    now = utc_now()
    by = {"turn_id": message.turn_id, "new_boot_id": message.boot_id, "now": now}
    if connection.execute(_CLAIM, {**by, "max_attempts": message.max_attempts}).rowcount == 1:
        return _load(connection, message.turn_id)
    turn = _load(connection, message.turn_id)
    gave_up = f"gave up after {turn.attempts} attempts"
    if connection.execute(_GIVE_UP, {**by, "new_error": gave_up}).rowcount == 0:
        raise Conflict(f"the turn {turn.id!r} is {turn.state} already", turn_id=turn.id, state=turn.state)
    leave_calls(connection, turn.id, now)
    return _load(connection, message.turn_id)


@command
def finish_turn(connection: Connection, message: FinishTurn) -> Turn:
    now = utc_now()
    end = {"turn_id": message.turn_id, "by_boot_id": message.boot_id, "now": now}
    ended = connection.execute(_FINISH, {**end, "new_state": message.state, "new_error": message.error}).rowcount == 1
    turn = _load(connection, message.turn_id)
    reply = _kept_reply(message)
    if not ended:
        if (turn.boot_id, turn.state, turn.reply, turn.error) == (message.boot_id, message.state, reply, message.error):
            return turn
        raise Conflict(
            f"the turn {turn.id!r} is {turn.state}, claimed by boot {turn.boot_id!r}: it cannot become "
            f"{message.state} through boot {message.boot_id!r}",
            turn_id=turn.id,
            state=turn.state,
        )
    if reply is not None:
        metadata = {**message.metadata, "stopped": True} if message.state == "stopped" else message.metadata
        _add_message(connection, turn.session_id, turn.id, int(turn.message_id), reply, metadata, now)
        count_message(connection, turn.session_id, now)
    for spent in message.usage:
        add_usage(connection, turn.id, spent)
    leave_calls(connection, turn.id, now)
    return msgspec.structs.replace(turn, reply=reply, usage=sum_of(message.usage))


@query
def list_unfinished_sessions(connection: Connection, message: ListUnfinishedSessions) -> list[str]:
    left_by_others = {"boot_id": message.boot_id, "limit": message.limit}
    return list(connection.scalars(_UNFINISHED, left_by_others))


@query
def list_session_turns(connection: Connection, message: ListSessionTurns) -> list[Turn]:
    return [_read(row) for row in connection.execute(_OF_SESSION, {"session_id": message.session_id})]


@query
def get_turn(connection: Connection, message: GetTurn) -> Turn:
    return _load(connection, message.turn_id)


def _earlier_turn(connection: Connection, message: AddTurn, now: datetime) -> Turn | None:
    """The turn that holds the message's idempotency key; a key that has expired is taken from its turn."""
    by_key = {"principal": message.principal, "key": message.idempotency_key}
    found = connection.execute(_BY_KEY, by_key).first()
    if found is None:
        return None
    if found.created_at <= now - IDEMPOTENCY_WINDOW:
        connection.execute(_EXPIRE_KEY, {"turn_id": found.id})
        return None
    turn = _load(connection, found.id)
    if (turn.content, turn.media) != (plain(message.content), message.media):
        raise Conflict(
            "this Idempotency-Key was used for another message in the last 24 hours", key=message.idempotency_key
        )
    return turn


def _insert_turn(connection: Connection, message: AddTurn, now: datetime) -> None:
    row = {
        "id": message.turn_id,
        "session_id": message.session_id,
        "state": message.state,
        "channel": message.channel,
        "principal": message.principal,
        "scopes": message.scopes or None,
        "boot_id": message.boot_id,
        "attempts": _first_attempts(message),
        "idempotency_key": message.idempotency_key,
        "created_at": now,
        "updated_at": now,
    }
    try:
        connection.execute(_INSERT, row)
    except IntegrityError as error:
        raise Conflict(f"there is a turn {message.turn_id!r} already", turn_id=message.turn_id) from error


def _first_attempts(message: AddTurn) -> int:
    return 1 if message.state == "running" else 0


def _add_message(
    connection: Connection,
    session_id: str,
    turn_id: str,
    reply_to: int | None,
    content: str,
    metadata: JsonObject,
    now: datetime,
) -> int:
    row = {
        "session_id": session_id,
        "turn_id": turn_id,
        "reply_to": reply_to,
        "role": "user" if reply_to is None else "assistant",
        "content": content,
        "created_at": now,
        "metadata": metadata or None,
    }
    inserted = connection.execute(_INSERT_MESSAGE, row).inserted_primary_key
    assert inserted is not None
    return inserted[0]


def _kept_reply(message: FinishTurn) -> str | None:
    """What of the content is kept as the reply."""
    if message.state == "done" or (message.state == "stopped" and message.content):
        return plain(message.content)
    return None


def _load(connection: Connection, turn_id: str) -> Turn:
    rows = connection.execute(_ONE, {"turn_id": turn_id}).all()  # one for each model that had a part in it
    if not rows:
        raise NotFound(f"there is no turn {turn_id!r}", turn_id=turn_id)
    spent = [Usage(*row[_FACTS_END:]) for row in rows] if rows[0][_FACTS_END] is not None else []
    return msgspec.structs.replace(_read(rows[0]), usage=sum_of(spent))


def _read(row: AnyRow) -> Turn:
    """All but the usage, of which a turn that has not ended has none."""
    turn_id, session_id, message_id, content, metadata, scopes, *facts = row[:_FACTS_END]
    known: dict[str, list[str]] = metadata or {}
    return Turn(
        turn_id,
        session_id,
        str(message_id),
        content,
        known.get("media", []),
        *facts,
        provenance=known.get("provenance", []),
        scopes=scopes or [],
    )

"""Calls of tools: one row each, which is the journal that keeps a call from being made twice, the approval that it may
wait for, and the record of who did what.

A call's way is `waiting` (for a person) or `approved`, `running`, and an end; each change names the state that it
starts from, so that of two who change it one wins.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from sqlalchemy import Connection, bindparam, insert, select, update

from ..runtime.errors import Conflict, NotFound
from ..runtime.message import Message
from .audited_calls import enter_decision, enter_end
from .registry import command, query
from .tables import AnyRow, JsonObject, UtcDateTime, grants, tool_calls, turns, utc_now

CallState = Literal["waiting", "approved", "running", "done", "failed", "denied", "expired", "interrupted"]
GrantScope = Literal["once", "session", "always"]

RequestId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class CallRecord(msgspec.Struct, frozen=True):
    """A call as it stands. `pattern` is what a grant that is given for it covers, as a rule's pattern."""

    id: int
    request_id: str
    turn_id: str | None
    session_id: str
    step: int
    number: int
    tool: str
    arguments: JsonObject
    effect: str
    scope: str
    principal: str
    provenance: list[str]
    pattern: str
    state: CallState
    reason: str
    output: str | None
    source: str | None
    decided_by: str | None
    created_at: datetime
    expires_at: datetime | None
    created: bool = False
    """This answer is of the message that made it."""


class OpenCall(Message[CallRecord], to="store/writer"):
    """Keep a call before anything is done about it; one that is there already is returned as it stands.

    Of that one nobody knows what became of it if it was running: it is `interrupted` then. A turn that has ended makes
    no more calls.
    """

    request_id: RequestId
    turn_id: str
    session_id: str
    step: int
    number: int
    tool: str
    arguments: JsonObject
    effect: str
    scope: str
    principal: str
    provenance: list[str]
    pattern: str
    state: Literal["waiting", "running", "denied"]
    reason: str
    claim: str
    expires_at: datetime | None = None


class FindCall(Message[CallRecord | None], to="store/writer"):
    """Look up the call at a place, if there is one; like with OpenCall, one that was running is `interrupted`."""

    turn_id: str
    step: int
    number: int


class StartCall(Message[CallRecord], to="store/writer"):
    """Take an approved call to make it; in another state, or where its session was deleted, it is a conflict."""

    call_id: int
    claim: str


class EndCall(Message[CallRecord], to="store/writer"):
    """Say what came of a running call; one that has ended stays as it is."""

    call_id: int
    claim: str
    state: Literal["done", "failed", "interrupted"]
    output: str = ""
    source: str = ""


class DecideCall(Message[CallRecord], to="store/writer"):
    """Approve or deny a call that waits; what has been decided, or has expired, stays so and is a conflict.

    With a scope beyond `once` the approval is a grant for what follows, too.
    """

    request_id: RequestId
    approved: bool
    scope: GrantScope
    by: str


class ExpireCall(Message[CallRecord], to="store/writer"):
    """Give up waiting for a person; returns the call as it then stands, which may be decided."""

    call_id: int


class GetCall(Message[CallRecord], to="store/reader"):
    """Show one call."""

    request_id: RequestId


class ListWaitingCalls(Message[list[CallRecord]], to="store/reader"):
    """List the calls that wait for a person, oldest first."""

    session_id: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 100


class ListCalls(Message[list[CallRecord]], to="store/reader"):
    """List the calls of a turn, in order."""

    turn_id: str


_COLUMNS = (
    tool_calls.c.id,
    tool_calls.c.request_id,
    tool_calls.c.turn_id,
    tool_calls.c.session_id,
    tool_calls.c.step,
    tool_calls.c.number,
    tool_calls.c.tool,
    tool_calls.c.arguments,
    tool_calls.c.effect,
    tool_calls.c.scope,
    tool_calls.c.principal,
    tool_calls.c.provenance,
    tool_calls.c.pattern,
    tool_calls.c.state,
    tool_calls.c.reason,
    tool_calls.c.output,
    tool_calls.c.source,
    tool_calls.c.decided_by,
    tool_calls.c.created_at,
    tool_calls.c.expires_at,
)
_CALLS = select(*_COLUMNS)
_BY_PLACE = _CALLS.where(
    tool_calls.c.turn_id == bindparam("turn_id"),
    tool_calls.c.step == bindparam("step"),
    tool_calls.c.number == bindparam("number"),
)
_BY_ID = _CALLS.where(tool_calls.c.id == bindparam("call_id"))
_BY_REQUEST = _CALLS.where(tool_calls.c.request_id == bindparam("request_id"))
_OF_TURN = _CALLS.where(tool_calls.c.turn_id == bindparam("turn_id")).order_by(tool_calls.c.step, tool_calls.c.number)
_WAITING = (
    _CALLS.where(
        tool_calls.c.state == "waiting",
        tool_calls.c.turn_id.is_not(None),
        tool_calls.c.expires_at > bindparam("now", type_=UtcDateTime),
    )
    .order_by(tool_calls.c.id)
    .limit(bindparam("limit"))
)
_WAITING_IN_SESSION = _WAITING.where(tool_calls.c.session_id == bindparam("session_id"))
_TURN_STATE = select(turns.c.state).where(turns.c.id == bindparam("turn_id"))
_INSERT = insert(tool_calls)
_INSERT_GRANT = insert(grants)
_ID = tool_calls.c.id == bindparam("call_id")
_START = (
    update(tool_calls)
    .where(_ID, tool_calls.c.state == "approved", tool_calls.c.turn_id.is_not(None))
    .values(state="running", claim=bindparam("new_claim"), started_at=bindparam("now"))
)
_LOSE = (
    update(tool_calls)
    .where(_ID, tool_calls.c.state == "running")
    .values(state="interrupted", ended_at=bindparam("now"))
)
_END = (
    update(tool_calls)
    .where(_ID, tool_calls.c.state == "running", tool_calls.c.claim == bindparam("by_claim"))
    .values(
        state=bindparam("new_state"),
        output=bindparam("new_output"),
        source=bindparam("new_source"),
        ended_at=bindparam("now"),
    )
)
_DECIDE = (
    update(tool_calls)
    .where(
        tool_calls.c.request_id == bindparam("of_request"),
        tool_calls.c.state == "waiting",
        tool_calls.c.turn_id.is_not(None),
        tool_calls.c.expires_at > bindparam("now"),
    )
    .values(state=bindparam("new_state"), decided_by=bindparam("by"), decided_at=bindparam("now"))
)
_EXPIRE = (
    update(tool_calls).where(_ID, tool_calls.c.state == "waiting").values(state="expired", ended_at=bindparam("now"))
)
_IS_LEFT = (
    tool_calls.c.turn_id == bindparam("of_turn"),
    tool_calls.c.state.in_(("waiting", "approved", "running")),
)
_OPEN = select(tool_calls.c.id).where(*_IS_LEFT).order_by(tool_calls.c.id)
_LEAVE = update(tool_calls).where(*_IS_LEFT).values(state="interrupted", ended_at=bindparam("now"))


@command
def open_call(connection: Connection, message: OpenCall) -> CallRecord:
    place = {"turn_id": message.turn_id, "step": message.step, "number": message.number}
    row = connection.execute(_BY_PLACE, place).first()
    if row is not None:
        return _found(connection, _read(row))
    if connection.execute(_TURN_STATE, {"turn_id": message.turn_id}).scalar() != "running":
        raise Conflict(f"the turn {message.turn_id!r} has ended: it makes no more calls", turn_id=message.turn_id)
    now = utc_now()
    started = {"started_at": now} if message.state == "running" else {}
    ended = {"ended_at": now} if message.state == "denied" else {}
    inserted = connection.execute(
        _INSERT, {**msgspec.structs.asdict(message), "created_at": now, **started, **ended}
    ).inserted_primary_key
    assert inserted is not None
    call = _load(connection, inserted[0])
    if call.state == "denied":
        enter_end(connection, call)
    return msgspec.structs.replace(call, created=True)


@command
def find_call(connection: Connection, message: FindCall) -> CallRecord | None:
    row = connection.execute(_BY_PLACE, msgspec.structs.asdict(message)).first()
    return None if row is None else _found(connection, _read(row))


@command
def start_call(connection: Connection, message: StartCall) -> CallRecord:
    taken = {"call_id": message.call_id, "new_claim": message.claim, "now": utc_now()}
    if connection.execute(_START, taken).rowcount == 0:
        call = _load(connection, message.call_id)
        state = call.state if call.turn_id is not None else "of a session that was deleted"
        raise Conflict(f"the call {call.request_id} is {state}", state=call.state)
    return _load(connection, message.call_id)


@command
def end_call(connection: Connection, message: EndCall) -> CallRecord:
    ended = connection.execute(
        _END,
        {
            "call_id": message.call_id,
            "by_claim": message.claim,
            "new_state": message.state,
            "new_output": message.output,
            "new_source": message.source,
            "now": utc_now(),
        },
    )
    return _changed(connection, message.call_id, has_ended=ended.rowcount == 1)


@command
def decide_call(connection: Connection, message: DecideCall) -> CallRecord:
    now = utc_now()
    state = "approved" if message.approved else "denied"
    decision = {"of_request": message.request_id, "new_state": state, "by": message.by, "now": now}
    decided = connection.execute(_DECIDE, decision).rowcount == 1
    call = _by_request(connection, message.request_id)
    if not decided:
        state = (
            call.state if call.state != "waiting" else "expired" if call.turn_id else "of a session that was deleted"
        )
        raise Conflict(f"the request {call.request_id!r} is {state}: it cannot be decided any more", state=state)
    if message.approved and message.scope != "once":
        grant = {
            "tool": call.tool,
            "pattern": call.pattern,
            "principal": call.principal,
            "session_id": call.session_id if message.scope == "session" else None,
            "provenance": sorted({source.partition(" ")[0] for source in call.provenance}),
            "granted_by": message.by,
            "created_at": now,
        }
        connection.execute(_INSERT_GRANT, grant)
    enter_decision(connection, call, message.by, message.scope)
    return call


@command
def expire_call(connection: Connection, message: ExpireCall) -> CallRecord:
    expired = connection.execute(_EXPIRE, {"call_id": message.call_id, "now": utc_now()})
    return _changed(connection, message.call_id, has_ended=expired.rowcount == 1)


@query
def get_call(connection: Connection, message: GetCall) -> CallRecord:
    return _by_request(connection, message.request_id)


@query
def list_waiting_calls(connection: Connection, message: ListWaitingCalls) -> list[CallRecord]:
    page = {"limit": message.limit, "now": utc_now()}
    if message.session_id is None:
        rows = connection.execute(_WAITING, page)
    else:
        rows = connection.execute(_WAITING_IN_SESSION, {**page, "session_id": message.session_id})
    return [_read(row) for row in rows]


@query
def list_calls(connection: Connection, message: ListCalls) -> list[CallRecord]:
    return [_read(row) for row in connection.execute(_OF_TURN, {"turn_id": message.turn_id})]


def leave_calls(connection: Connection, turn_id: str, now: datetime) -> None:
    """End what a turn that ends leaves open."""
    left = [row.id for row in connection.execute(_OPEN, {"of_turn": turn_id})]
    if left:
        connection.execute(_LEAVE, {"of_turn": turn_id, "now": now})
    for call_id in left:
        enter_end(connection, _load(connection, call_id))


def _found(connection: Connection, call: CallRecord) -> CallRecord:
    if call.state != "running":
        return call
    connection.execute(_LOSE, {"call_id": call.id, "now": utc_now()})
    return _changed(connection, call.id, has_ended=True)


def _by_request(connection: Connection, request_id: str) -> CallRecord:
    row = connection.execute(_BY_REQUEST, {"request_id": request_id}).first()
    if row is None:
        raise NotFound(f"there is no request {request_id!r}", request_id=request_id)
    return _read(row)


def _changed(connection: Connection, call_id: int, *, has_ended: bool) -> CallRecord:
    """The call as it is now; that this has ended it is for the audit."""
    call = _load(connection, call_id)
    if has_ended:
        enter_end(connection, call)
    return call


def _load(connection: Connection, call_id: int) -> CallRecord:
    row = connection.execute(_BY_ID, {"call_id": call_id}).first()
    if row is None:
        raise NotFound(f"there is no call {call_id}", call_id=call_id)
    return _read(row)


def _read(row: AnyRow) -> CallRecord:
    return CallRecord(*row)

"""Chat: say something, and read the answer whole or as it is written. The turn is the agent's: a client that goes away
does not stop it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterable, Iterator
from http import HTTPStatus
from typing import Any

import msgspec
import trio
from quart import Response

from ..actors.agent import Accepted, Chat, StopTurn, session_topic
from ..actors.tools.gate import DecideApproval, ListApprovals
from ..runtime import Event, Subscription
from ..runtime.errors import InvalidInput, PocketPawError, TimedOut, Unavailable
from ..storage.sessions import SessionId
from ..storage.turns import ListSessionTurns, Turn
from .call import Call
from .route import get, no_content, post
from .sse import KEEP_ALIVE, MEDIA_TYPE, event_stream, frame, gap_frame, last_event_id, take
from .transport import ClientDisconnected
from .turns import END, START, TurnEvent, replay, running_turn, turn_events

REPLY_LIMIT_S = 120.0
"""How long POST chat waits for the whole reply."""

KEY_LIMIT = 255


class Spent(msgspec.Struct, frozen=True):
    """What the reply took, and who answered; empty where it was stopped before the model said so."""

    input_tokens: int | msgspec.UnsetType = msgspec.UNSET
    output_tokens: int | msgspec.UnsetType = msgspec.UNSET
    total_tokens: int | msgspec.UnsetType = msgspec.UNSET
    model: str | msgspec.UnsetType = msgspec.UNSET
    backend: str | msgspec.UnsetType = msgspec.UNSET
    cost_usd: float | msgspec.UnsetType | None = msgspec.UNSET


class ChatReply(msgspec.Struct, frozen=True):
    session_id: str
    content: str
    usage: Spent


class ResumeStream(msgspec.Struct, frozen=True):
    """The stream of the turn that a session is at."""

    session_id: SessionId


def new_session_id() -> str:
    return f"s-{secrets.token_hex(6)}"


class TurnFeed:
    """One turn's events as they come, through its `stream_end`.

    Without a `turn_id` it is the turn of the first event that comes.
    """

    def __init__(self, subscription: Subscription, turn_id: str | None) -> None:
        self.subscription = subscription
        self.turn_id = turn_id
        self.is_over = False
        self.backlog: list[TurnEvent] = []
        """What is there before anything is waited for."""

    def add(self, events: Iterable[Event]) -> None:
        self.backlog += self._ours(events)

    async def take(self) -> list[TurnEvent] | None:
        """The events that wait; an empty list after a while of silence, None when the listener was cut off."""
        while not self.backlog:
            events = await take(self.subscription)
            if not events:
                return None if events is None else []
            self.add(events)
        ours, self.backlog = self.backlog, []
        return ours

    def _ours(self, events: Iterable[Event]) -> Iterator[TurnEvent]:
        for event in turn_events(events):
            if self.turn_id is None:
                self.turn_id = event.turn_id
            if event.turn_id == self.turn_id and not self.is_over:
                self.is_over = event.name == END
                yield event


async def chat(call: Call, message: Chat) -> ChatReply:
    """Say something and wait for the whole reply.

    After 120 s the answer is 504 with the session's id: the turn goes on, and lands in the history.
    """
    deadline = trio.current_time() + REPLY_LIMIT_S
    accepted = await call.ask(_keyed(call, message))
    reply = await whole_reply(call, accepted, deadline)
    if reply is None:
        text = f"the reply is not whole after {REPLY_LIMIT_S:g} s; it will be in the session's history"
        raise TimedOut(text, session_id=accepted.session_id, turn_id=accepted.turn_id)
    return reply


async def whole_reply(call: Call, accepted: Accepted, deadline: float) -> ChatReply | None:
    """Wait for the whole reply to a message; None if it is not there at `deadline`.

    Raises:
        PocketPawError: the turn has failed.
        ClientDisconnected: nobody waits any more.
    """
    if accepted.ended is not None:
        return _reply_of(accepted.ended)
    feed = await _feed(call, accepted)
    outcome: ChatReply | PocketPawError | None = None
    with trio.CancelScope(deadline=deadline) as limit, feed.subscription:
        async with call.while_connected():
            outcome = await _outcome(feed, accepted.session_id)
    if limit.cancelled_caught:
        return None
    if outcome is None:
        raise ClientDisconnected("the client went away while it waited")
    if isinstance(outcome, PocketPawError):
        raise outcome
    return outcome


async def stream_chat(call: Call, message: Chat) -> Response:
    """Say something and read the reply as it is written, as server-sent events.

    The events are `stream_start`, then any of `chunk`, `thinking`, `tool_start`, `tool_result`, `approval_required` and
    `error`, last `stream_end`. Each has an id; a client that was cut off sends the last one back as `Last-Event-ID`.
    Another `stream_start` before the end says that the answer begins anew, as its agent has died: what the client has
    of it so far is void.
    """
    accepted = await call.ask(_keyed(call, message))
    if accepted.ended is not None:
        return event_stream(_frames_of(accepted.ended, accepted.after))
    feed = await _feed(call, accepted)
    return event_stream(_frames(feed, has_gap=bool(feed.backlog) and feed.backlog[0].name != START))


async def resume_chat(call: Call, message: ResumeStream) -> Response:
    """Follow the turn that a session is at: the events after `Last-Event-ID`, or without it from the turn's start.

    An `event: gap` says that some are no longer kept. 204 says that there is nothing more to come.
    """
    after = last_event_id(call.request.headers.get("Last-Event-ID"))
    past = await replay(call.system.bus, session_topic(message.session_id), 0 if after is None else after - 1)
    is_known = bool(past.events) and past.events[0].seq == after
    feed = TurnFeed(past.subscription, None)
    if is_known:
        feed.add(past.events[:1])
        feed.backlog.clear()  # the client has it; it tells which turn this is about
        feed.add(past.events[1:])
    else:
        feed.add(running_turn(past.events))
    has_gap = after is not None and not is_known and past.has_gap
    if feed.is_over or (feed.turn_id is None and not await call.ask(ListSessionTurns(session_id=message.session_id))):
        feed.subscription.close()
        if not feed.backlog and not has_gap:
            return no_content()
        feed.is_over = True
    return event_stream(_frames(feed, has_gap=has_gap))


def _keyed(call: Call, message: Chat) -> Chat:
    """The message with the request's `Idempotency-Key`."""
    key = call.request.headers.get("Idempotency-Key")
    if key is None:
        return message
    if not 1 <= len(key) <= KEY_LIMIT:
        text = f"expected 1 to {KEY_LIMIT} characters, got {len(key)}"
        raise InvalidInput(text, field=["header", "Idempotency-Key"], type="value_error")
    return msgspec.structs.replace(message, idempotency_key=key)


async def _feed(call: Call, accepted: Accepted) -> TurnFeed:
    past = await replay(call.system.bus, session_topic(accepted.session_id), accepted.after)
    feed = TurnFeed(past.subscription, accepted.turn_id)
    feed.add(past.events)
    return feed


async def _outcome(feed: TurnFeed, session_id: str) -> ChatReply | PocketPawError:
    """Read a turn to its end."""
    failure: PocketPawError | None = None
    while (events := await feed.take()) is not None:
        for event in events:
            if event.name == "error":
                failure = PocketPawError.from_wire(str(event.data.get("code", "")), str(event.data["detail"]), {})
            elif event.name == END:
                return failure or ChatReply(session_id, str(event.data["content"]), _spent(event.data.get("usage")))
    return Unavailable("the reply came faster than it could be read; it is in the session's history")


def _spent(usage: object) -> Spent:
    return Spent() if usage is None else msgspec.convert(usage, Spent, from_attributes=True)


def _reply_of(turn: Turn) -> ChatReply:
    """The answer to an earlier request with the same idempotency key."""
    if turn.state in ("done", "stopped"):
        return ChatReply(turn.session_id, turn.reply or "", _spent(turn.usage))
    raise Unavailable(turn.error or f"the turn was {turn.state}", session_id=turn.session_id, turn_id=turn.id)


async def _frames_of(turn: Turn, seq: int) -> AsyncGenerator[bytes, None]:
    """The stream of a turn that has ended already, in short."""
    yield frame(START, {"session_id": turn.session_id}, seq)
    if turn.reply:
        yield frame("chunk", {"content": turn.reply, "type": "text"}, seq)
    if turn.error:
        yield frame("error", {"detail": turn.error}, seq)
    yield frame(END, {"session_id": turn.session_id, "usage": turn.usage or {}}, seq)


async def _frames(feed: TurnFeed, *, has_gap: bool) -> AsyncGenerator[bytes, None]:
    """What waits goes out together; a listener that is cut off ends here, and can resume."""
    with feed.subscription:
        if has_gap:
            yield gap_frame()
        while feed.backlog or not feed.is_over:
            events = await feed.take()
            if events is None:
                return
            yield b"".join(frame(event.name, event.told(), event.seq) for event in events) or KEEP_ALIVE


SCOPE = "chat"
_OPTIONAL = {"session_id": new_session_id}
_FIELDS = ("content", "session_id", "media")
_KEY = {"Idempotency-Key": {"type": "string", "minLength": 1, "maxLength": KEY_LIMIT}}
_LAST = {"Last-Event-ID": {"type": "string"}}
_OVER: dict[HTTPStatus, tuple[str, Any]] = {HTTPStatus.NO_CONTENT: ("There is nothing more to come.", None)}
_RESUME = post("/chat/stream", resume_chat, scope=SCOPE, produces=MEDIA_TYPE, query=("session_id",), audit=False)
ROUTES = [
    post("/chat", chat, scope=SCOPE, only=_FIELDS, defaults=_OPTIONAL, headers=_KEY, audit=False),
    post(
        "/chat/stream",
        stream_chat,
        scope=SCOPE,
        produces=MEDIA_TYPE,
        only=_FIELDS,
        defaults=_OPTIONAL,
        headers={**_KEY, **_LAST},
        responses=_OVER,
        on_resume=_RESUME,
        audit=False,
    ),
    get("/chat/stream", resume_chat, scope=SCOPE, produces=MEDIA_TYPE, headers=_LAST, responses=_OVER),
    post("/chat/stop", StopTurn, scope=SCOPE, query=("session_id",), audit=False),
    post("/chat/approve", DecideApproval, scope=SCOPE, audit=False),  # the store enters what was decided
    get("/chat/approvals", ListApprovals, scope=SCOPE),
]

"""What happens in the daemon, as it happens: system events, and what the agents are doing."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import Annotated, cast

import msgspec
from quart import Response

from ..actors.agent import AGENTS_TOPIC
from ..actors.inspector import GetAgentStatus
from ..runtime import Event
from .call import Call
from .route import get
from .sse import KEEP_ALIVE, MEDIA_TYPE, event_stream, frame, gap_frame, last_event_id, take
from .turns import Replay, replay

EVENTS_TOPIC = "events"

Topic = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class FollowEvents(msgspec.Struct, frozen=True):
    """`topics` are the event types that are wanted; by default all."""

    topics: Annotated[list[Topic], msgspec.Meta(max_length=100)] = []


async def stream_events(call: Call, message: FollowEvents) -> Response:
    """Follow the daemon's events; each has `event_type`, `content` and `metadata`. `Last-Event-ID` resumes."""
    bus = call.system.bus
    after = last_event_id(call.request.headers.get("Last-Event-ID"))
    past = await replay(bus, EVENTS_TOPIC, bus.last_seq(EVENTS_TOPIC) if after is None else after)
    return event_stream(_event_frames(past, frozenset(message.topics)))


async def stream_agent_status(call: Call) -> Response:
    """Follow what the agents are doing: the whole status at first, then after every change."""
    return event_stream(_status_frames(call))


async def _event_frames(past: Replay, wanted: frozenset[str]) -> AsyncGenerator[bytes, None]:
    with past.subscription as subscription:
        yield frame("connected", {"status": "ok"})
        if past.has_gap:
            yield gap_frame()
        yield _told(past.events, wanted)
        while (events := await take(subscription)) is not None:
            yield _told(events, wanted) if events else KEEP_ALIVE


def _told(events: Iterable[Event], wanted: frozenset[str]) -> bytes:
    """The frames of those events that are wanted; nothing is said of the others."""
    told = (event for event in events if not wanted or event.name in wanted)
    return b"".join(frame(event.name, cast("object", event.data()), event.seq) for event in told)


async def _status_frames(call: Call) -> AsyncGenerator[bytes, None]:
    with call.system.bus.subscribe(AGENTS_TOPIC) as subscription:
        yield frame("status", await call.ask(GetAgentStatus()))
        while (events := await take(subscription)) is not None:
            yield frame("status", await call.ask(GetAgentStatus())) if events else KEEP_ALIVE


ROUTES = [
    get(
        "/events/stream",
        stream_events,
        scope="metrics",
        produces=MEDIA_TYPE,
        is_endless=True,
        headers={"Last-Event-ID": {"type": "string"}},
    ),
    get("/agent/status", GetAgentStatus, scope="sessions"),
    get("/agent/status/stream", stream_agent_status, scope="sessions", produces=MEDIA_TYPE, is_endless=True),
]

"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec
import trio
from quart import Response

from ..runtime import Event, Subscription

KEEP_ALIVE_S = 15.0
KEEP_ALIVE = b": keep-alive\n\n"
CONTENT_TYPE = "text/event-stream; charset=utf-8"
MEDIA_TYPE = "text/event-stream"
_HEADERS = {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def event_stream(frames: AsyncGenerator[bytes, None]) -> Response:
    """A response that sends frames as they come; the generator is closed when the client goes away."""
    response = Response(frames, 200, _HEADERS)
    response.timeout = None
    return response


def frame(name: str, data: object, seq: int | None = None) -> bytes:
    """One event. JSON has no line breaks of its own, so `data` is one line."""
    number = b"" if seq is None else b"id: %d\n" % seq
    return b"%bevent: %b\ndata: %b\n\n" % (number, name.encode(), msgspec.json.encode(data))


def gap_frame() -> bytes:
    """Tells a client that events were lost between what it has and what comes: it should read the history anew."""
    return frame("gap", {"detail": "some events are no longer kept; read the history for what they said"})


async def take(subscription: Subscription) -> list[Event] | None:
    """The events that wait; an empty list after `KEEP_ALIVE_S` of silence, None when there will be no more."""
    with trio.move_on_after(KEEP_ALIVE_S):
        return await subscription.take() or None
    return []


def last_event_id(header: str | None) -> int | None:
    """The number of the last event that a client has; None if it says none that we could have given."""
    if header is None or not (header.isascii() and header.isdigit() and len(header) < 19):
        return None
    return int(header)

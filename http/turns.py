"""Following turns: the events of a session's topic, as clients are told them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import msgspec

from ..runtime import Bus, Event, Subscription

END = "stream_end"
START = "stream_start"

JsonObject = dict[str, object]

FIELDS: Mapping[str, tuple[str, ...]] = {
    START: ("session_id",),
    "chunk": ("content", "type"),
    "thinking": ("content",),
    "tool_start": ("tool", "input", "call_id"),
    "tool_progress": ("call_id", "text", "progress", "total"),
    "tool_result": ("tool", "output", "call_id", "is_error", "source"),
    "approval_required": ("request_id", "tool", "input", "call_id", "reason", "provenance", "expires_at"),
    "error": ("detail",),
    END: ("session_id", "usage"),
}
"""What of an event's data clients are told, by the event's name: the contract's fields first."""


JOINED_CHARS = 64 * 1024
"""Chunks are joined until they hold so much: many a WebSocket client takes no message over 1 MiB."""


class TurnEvent(msgspec.Struct, frozen=True):
    """One event of a turn, or several chunks that waited together. `seq` is the number of the last one."""

    seq: int
    name: str
    turn_id: str
    data: JsonObject

    def told(self) -> JsonObject:
        """The fields that clients are told."""
        data = {name: self.data[name] for name in FIELDS.get(self.name, ()) if name in self.data}
        if self.name == END and data.get("usage") is None:
            data["usage"] = {}
        return data


def turn_events(events: Iterable[Event]) -> Iterator[TurnEvent]:
    """Read what came on a session's topic; chunks of one turn that follow one another are joined, up to a size."""
    waiting: list[TurnEvent] = []
    size = 0
    for event in map(_read, events):
        joins = waiting and event.name == waiting[0].name == "chunk" and event.turn_id == waiting[0].turn_id
        if waiting and not (joins and size < JOINED_CHARS):
            yield _joined(waiting)
            waiting, size = [], 0
        waiting.append(event)
        size += len(str(event.data.get("content", "")))
    if waiting:
        yield _joined(waiting)


def _joined(events: list[TurnEvent]) -> TurnEvent:
    first, *others = events
    if not others:
        return first
    content = "".join(str(event.data["content"]) for event in events)
    return TurnEvent(others[-1].seq, first.name, first.turn_id, {**first.data, "content": content})


def running_turn(events: list[Event]) -> list[Event]:
    """Of all that is kept of a session's events, those of the turn that has not ended yet, from its latest start."""
    for place, event in reversed(list(enumerate(events))):
        if event.name == START:
            return events[place:]
        if event.name == END:
            return events[place + 1 :]
    return events


@dataclass
class Replay:
    """What is kept of a topic's past, and the subscription that goes on from there without a gap or a repeat."""

    subscription: Subscription
    events: list[Event]
    has_gap: bool
    """Events between the number asked for and the first one here are no longer kept."""


async def replay(bus: Bus, topic: str, after: int) -> Replay:
    """Listen to `topic`, and take what is kept of it that is newer than number `after`. Lets no other task run."""
    past = bus.subscribe(topic, after)
    past.close()  # a closed subscription gives what it holds and does not wait
    events = await past.take()
    return Replay(bus.subscribe(topic), events, past.has_gap)


def _read(event: Event) -> TurnEvent:
    data = cast("JsonObject", event.data())
    return TurnEvent(event.seq, event.name, str(data.get("turn_id", "")), data)

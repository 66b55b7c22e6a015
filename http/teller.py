"""What a WebSocket's client is told: answers, and the events of the topics that it listens to.

Each topic has a task that writes what comes. Its buffer is bounded: a client that reads too slowly is closed with 1013,
and comes back with the number of the last event that it has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial
from typing import cast

import msgspec
import trio
from hypercorn.typing import ASGISendCallable

from ..actors.agent import AGENTS_TOPIC, session_topic
from ..runtime import Bus, Event, Subscription
from ..runtime.errors import InvalidInput
from ..storage.tables import utc_now
from .events import EVENTS_TOPIC
from .turns import END, TurnEvent, replay, running_turn, turn_events

SESSIONS_FOLLOWED = 16
"""Sessions that one socket listens to at once; with one more, the first one is left."""

TRY_AGAIN_LATER = 1013  # https://www.iana.org/assignments/websocket/websocket.xhtml

CHANNELS = frozenset({"agent.status", "agent.message", "agent.tool_call"})

JsonObject = dict[str, object]
Tell = Callable[[list[Event]], Awaitable[None]]


class Teller:
    """`nursery` is the conversation's; cancelling it ends the conversation."""

    def __init__(self, bus: Bus, send: ASGISendCallable, nursery: trio.Nursery) -> None:
        self._bus = bus
        self._send = send
        self._nursery = nursery
        self._sessions: dict[str, Subscription] = {}
        self._is_told_status = False
        self._channels: set[str] = set()

    async def tell(self, message: Mapping[str, object]) -> None:
        """Send one message; waits while the client is far behind."""
        text = msgspec.json.encode(message).decode()
        await self._send({"type": "websocket.send", "bytes": None, "text": text})

    def tell_system_events(self, names: Collection[str]) -> None:
        """Tell, from now on, those events of the daemon as a whole that have one of these names."""
        self._start(self._bus.subscribe(EVENTS_TOPIC), partial(self._tell_system, names))

    # Sessions ---------------------------------------------------------------------------------------------------------

    def follow(self, session_id: str) -> None:
        """Tell a session's events from now on; nothing changes if they are told already."""
        if session_id not in self._sessions:
            self._listen(session_id, self._bus.subscribe(session_topic(session_id)))

    async def catch_up(self, session_id: str, after: int | None) -> None:
        """Tell a session's events from number `after`, or from the start of the turn that it is at."""
        earlier = self._sessions.pop(session_id, None)
        if earlier is not None:
            earlier.close()
        past = await replay(self._bus, session_topic(session_id), after or 0)
        if after is not None and past.has_gap:
            await self.tell({"type": "gap", "session_id": session_id, "detail": "some events are no longer kept"})
        await self._tell_turns(session_id, past.events if after is not None else running_turn(past.events))
        self._listen(session_id, past.subscription)

    def _listen(self, session_id: str, subscription: Subscription) -> None:
        if len(self._sessions) >= SESSIONS_FOLLOWED:
            self._sessions.pop(next(iter(self._sessions))).close()
        self._sessions[session_id] = subscription
        self._start(subscription, partial(self._tell_turns, session_id))

    # Channels ---------------------------------------------------------------------------------------------------------

    async def subscribe(self, channels: Iterable[str]) -> None:
        """Tell the named channels' events as well.

        Raises:
            InvalidInput: there is no such channel.
        """
        wanted = set(channels)
        if unknown := wanted - CHANNELS:
            raise InvalidInput(f"expected {sorted(CHANNELS)}, got {sorted(unknown)}", field=["channels"])
        self._channels |= wanted
        if "agent.status" in wanted and not self._is_told_status:
            self._is_told_status = True
            self._start(self._bus.subscribe(AGENTS_TOPIC), self._tell_status)
        await self._tell_subscribed()

    async def unsubscribe(self, channels: Iterable[str]) -> None:
        self._channels -= set(channels)
        await self._tell_subscribed()

    async def _tell_subscribed(self) -> None:
        await self.tell({"type": "subscribed", "channels": sorted(self._channels)})

    # Topics -----------------------------------------------------------------------------------------------------------

    def _start(self, subscription: Subscription, tell: Tell) -> None:
        self._nursery.start_soon(self._pump, subscription, tell)

    async def _pump(self, subscription: Subscription, tell: Tell) -> None:
        """Tell what comes, until the subscription is closed, or cut off because the client reads too slowly."""
        with subscription:
            while events := await subscription.take():
                await tell(events)
        if subscription.is_cut_off:
            reason = "too many events wait; come back with resume_session and last_event_id"
            await self._send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": reason})
            self._nursery.cancel_scope.cancel()

    async def _tell_turns(self, session_id: str, events: Iterable[Event]) -> None:
        for event in turn_events(events):
            await self.tell({**event.told(), "session_id": session_id, "type": event.name, "event_id": event.seq})
            if self._channels:
                await self._tell_channels(session_id, event)

    async def _tell_channels(self, session_id: str, event: TurnEvent) -> None:
        agent = {"agentId": session_id, "session_id": session_id}
        if event.name == END and "agent.message" in self._channels:
            await self.tell({"type": "agent.message", **agent, "content": event.data.get("content", "")})
        elif event.name == "tool_start" and "agent.tool_call" in self._channels:
            await self.tell({"type": "agent.tool_call", **agent, **event.told()})

    async def _tell_status(self, events: Iterable[Event]) -> None:
        for event in events:
            if "agent.status" in self._channels:
                data = cast("JsonObject", event.data())
                await self.tell({"type": "agent.status", "agentId": data.get("session_id"), **data})

    async def _tell_system(self, names: Collection[str], events: Iterable[Event]) -> None:
        for event in events:
            if event.name in names:
                await self.tell({"type": event.name, **SYSTEM_EVENTS[event.name](cast("JsonObject", event.data()))})


def _of_intention(data: JsonObject) -> JsonObject:
    return {**cast("JsonObject", data["metadata"]), "content": data["content"], "timestamp": utc_now()}


SYSTEM_EVENTS: Mapping[str, Callable[[JsonObject], JsonObject]] = {
    "health_update": lambda data: {"data": data["metadata"]},
    "notification": lambda data: {"content": data["content"]},
    "intention_started": _of_intention,
    "intention_completed": _of_intention,
}
"""What a client is told of an event, by its name."""

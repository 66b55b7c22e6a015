"""The real daemon with actors in its tree, and routes in its API, that misbehave when they are told to. A program:

python -P tests/journeys/faulty_daemon.py serve --port 0      # takes what `pocketpaw` takes

POST /api/v1/faults/{actor}   {"how": …, "seconds"?, "times"?}   to the actor of that name under `faulty`
POST /api/v1/faults           {"how": …}                         in the request itself, or to the listener
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Literal

import msgspec
import trio
from pocketpaw.http import routes
from pocketpaw.http.call import Call
from pocketpaw.http.route import post
from pocketpaw.http.sse import event_stream, frame
from pocketpaw.runtime import Actor, Backoff, Child, Done, Message, Supervisor, ThreadActor, cli, daemon
from quart import Response

HANDLER_TIMEOUT_S = 0.5
SHUTDOWN_S = 0.3


class PlannedFailure(Exception):
    """It was asked for."""


class PlannedEnd(BaseException):
    """It was asked for, and is no Exception: what only catches those lets it through."""


# Actors ---------------------------------------------------------------------------------------------------------------


class Misbehave(Message[Done], to="faulty/{actor}"):
    """Do something that no actor should do; `times` is for what is done more than once."""

    actor: str
    how: Literal["raise", "end", "hang", "block", "wait", "crash_loop"]
    seconds: float = 0.0
    times: int = 0


class Task(Actor):
    """Crashes, hangs, or holds up the whole loop."""

    handler_timeout_s = HANDLER_TIMEOUT_S

    async def misbehave(self, message: Misbehave) -> Done:
        if message.how == "raise":
            raise PlannedFailure("a task's handler raises")
        if message.how == "end":
            raise PlannedEnd("a task's handler raises a BaseException")
        if message.how == "hang":
            await trio.sleep_forever()
        if message.how == "block":
            hold_up_the_loop(message.seconds)
        return Done()


class Thread(ThreadActor):
    """Crashes or sleeps on its thread."""

    def misbehave(self, message: Misbehave) -> Done:
        if message.how == "raise":
            raise PlannedFailure("a thread's handler raises")
        if message.how == "end":
            raise PlannedEnd("a thread's handler raises a BaseException")
        if message.how == "block":
            sleep_on_the_thread(message.seconds)
        return Done()


class Reluctant(Actor):
    """Once told to, it never stops by itself, but can be cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self._is_told = False

    async def misbehave(self, message: Misbehave) -> Done:
        self._is_told = True
        return Done()

    async def on_stop(self) -> None:
        if self._is_told:
            await self.never_stop()

    async def never_stop(self) -> None:
        await trio.sleep_forever()


class Stubborn(Reluctant):
    """Once told to, it never stops, and cannot be cancelled either."""

    async def never_stop(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()


class Looping(Actor):
    """Crashes, and then fails to start so many times."""

    failing_starts = 0

    async def on_start(self) -> None:
        if Looping.failing_starts > 0:
            Looping.failing_starts -= 1
            raise PlannedFailure("it does not start")

    async def misbehave(self, message: Misbehave) -> Done:
        Looping.failing_starts = message.times
        raise PlannedFailure("it begins to crash")


class Busy(Actor):
    """Takes its time over each message."""

    async def misbehave(self, message: Misbehave) -> Done:
        await trio.sleep(message.seconds)
        return Done()


def hold_up_the_loop(seconds: float) -> None:
    time.sleep(seconds)


def sleep_on_the_thread(seconds: float) -> None:
    time.sleep(seconds)


FAULTY = Supervisor(
    "faulty",
    [
        Child(Task, on_limit="park"),
        Child(Thread, on_limit="park"),
        Child(Reluctant, shutdown_s=SHUTDOWN_S),
        Child(Stubborn, shutdown_s=SHUTDOWN_S),
        Child(Looping, on_limit="park", max_seconds=60.0, backoff=Backoff(min_s=0.5, max_s=0.5)),
        Child(Busy),
    ],
)

# Routes ---------------------------------------------------------------------------------------------------------------


class Break(msgspec.Struct, frozen=True):
    """Where in its request something fails, or that the listener itself does."""

    how: Literal["raise", "end", "stream", "stream_end", "listener"]


async def break_request(call: Call, message: Break) -> Response | Done:
    """Fail in the midst of a request."""
    if message.how == "raise":
        raise PlannedFailure("a request's handler raises")
    if message.how == "end":
        raise PlannedEnd("a request's handler raises a BaseException")
    if message.how == "listener":
        call.system.node("http").kill(PlannedFailure("the listener is killed"))
        return Done()
    return event_stream(_break_off(message.how))


async def _break_off(how: str) -> AsyncGenerator[bytes, None]:
    yield frame("first", {})
    raise PlannedFailure("a stream fails") if how == "stream" else PlannedEnd("a stream raises a BaseException")


routes.ROUTES += [post("/faults/{actor}", Misbehave, scope="admin"), post("/faults", break_request, scope="admin")]

# The daemon -----------------------------------------------------------------------------------------------------------

_plain_tree = daemon.tree


def _tree(parts: daemon.Parts) -> Supervisor:
    root = _plain_tree(parts)
    *others, http = root.children
    return Supervisor(root.id, [*others, FAULTY, http])


if __name__ == "__main__":
    daemon.tree = _tree
    cli.main()

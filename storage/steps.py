"""The steps of a turn that uses tools: what the model said and asked for, kept before any of it is done.

With them a turn goes on where it was, whatever has died meanwhile.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from ..runtime.errors import Conflict
from ..runtime.message import Done, Message
from .registry import command, query
from .tables import JsonObject, plain, steps, turns, utc_now
from .usage import Usage


class StepCall(msgspec.Struct, frozen=True):
    """A call as the model asked for it; `arguments` is its JSON text."""

    id: str
    name: str
    arguments: str


class Step(msgspec.Struct, frozen=True):
    """One answer of the model that asks for tools. `thoughts` are in the form in which the model wants them back."""

    number: int
    content: str
    tool_calls: list[StepCall]
    thoughts: list[JsonObject] = msgspec.field(default_factory=list[JsonObject])
    usage: Usage | None = None


class AddStep(Message[Done], to="store/writer"):
    """Keep a step of a running turn, before its calls are made.

    It is progress: the attempts at the turn are counted anew. The same step a second time changes nothing.
    """

    turn_id: str
    boot_id: str
    step: Step


class ListSteps(Message[list[Step]], to="store/reader"):
    """List the steps of a turn, in order."""

    turn_id: str


_INSERT = insert(steps)
_PROGRESS = (
    update(turns)
    .where(
        turns.c.id == bindparam("of_turn"),
        turns.c.state == "running",
        turns.c.boot_id == bindparam("by_boot_id"),
    )
    .values(attempts=1, updated_at=bindparam("now"))
)
_OF_TURN = (
    select(steps.c.number, steps.c.content, steps.c.tool_calls, steps.c.thoughts, steps.c.usage)
    .where(steps.c.turn_id == bindparam("turn_id"))
    .order_by(steps.c.number)
)


@command
def add_step(connection: Connection, message: AddStep) -> Done:
    now = utc_now()
    running = {"of_turn": message.turn_id, "by_boot_id": message.boot_id, "now": now}
    if connection.execute(_PROGRESS, running).rowcount == 0:
        raise Conflict(f"the turn {message.turn_id!r} is not this daemon's to go on with", turn_id=message.turn_id)
    step = message.step
    row = {
        "turn_id": message.turn_id,
        "number": step.number,
        "content": step.content,
        "tool_calls": msgspec.to_builtins(step.tool_calls),
        "thoughts": step.thoughts or None,
        "usage": None if step.usage is None else msgspec.to_builtins(step.usage),
        "created_at": now,
    }
    try:
        with connection.begin_nested():
            connection.execute(_INSERT, row)
    except IntegrityError:
        if _kept(connection, message.turn_id, step.number) != _plain(step):
            raise Conflict(
                f"step {step.number} of {message.turn_id!r} is another one", turn_id=message.turn_id
            ) from None
    return Done()


@query
def list_steps(connection: Connection, message: ListSteps) -> list[Step]:
    return read_steps(connection, message.turn_id)


def read_steps(connection: Connection, turn_id: str) -> list[Step]:
    rows = connection.execute(_OF_TURN, {"turn_id": turn_id})
    return [
        Step(
            number,
            content,
            msgspec.convert(calls, list[StepCall]),
            thoughts or [],
            None if spent is None else msgspec.convert(spent, Usage),
        )
        for number, content, calls, thoughts, spent in rows
    ]


def _kept(connection: Connection, turn_id: str, number: int) -> Step | None:
    return next((step for step in read_steps(connection, turn_id) if step.number == number), None)


def _plain(step: Step) -> Step:
    return msgspec.structs.replace(step, content=plain(step.content))

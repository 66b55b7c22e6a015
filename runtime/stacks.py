"""Where code is at this moment: the stacks of threads, and of the tasks that handle a message."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Iterator
from itertools import islice
from types import FrameType
from typing import TYPE_CHECKING

import trio

from .actor import Actor

if TYPE_CHECKING:
    from .cell import Cell
    from .envelope import Envelope

FRAMES_SHOWN = 30
TASKS_SHOWN = 5
"""Of those that a handler's task may be waiting for."""


def where(cell: Cell, envelope: Envelope) -> str:
    """Where the handler of `envelope` is: on its actor's threads, or in its task and the tasks below that."""
    if cell.kind == "thread":
        frames = thread_frames()
        return "\n".join(stack_of(frames[thread]) for thread in cell.threads if thread in frames)
    assert cell.life is not None
    of_actor = (task for task in cell.life.nursery.child_tasks if task.name == cell.path)
    for task in _with_below(of_actor):
        awaited = list(task.iter_await_frames())
        handling = [at for at, (frame, _) in enumerate(awaited) if frame.f_locals.get("envelope") is envelope]
        if handling:
            below = islice(_below(task), TASKS_SHOWN)
            return "\n".join([_text(awaited[handling[-1] :]), *(_text(other.iter_await_frames()) for other in below)])
    return ""


def actor_on(frame: FrameType) -> str:
    """The address of the actor whose code runs in `frame`; empty if it is no actor's."""
    at: FrameType | None = frame
    while at is not None:
        owner = at.f_locals.get("self")
        if isinstance(owner, Actor) and owner.is_placed:
            return owner.path
        at = at.f_back
    return ""


def stack_of(frame: FrameType) -> str:
    return "".join(traceback.format_stack(frame)[-FRAMES_SHOWN:])


def thread_frames() -> dict[int, FrameType]:
    """Where every thread is."""
    return sys._current_frames()  # pyright: ignore[reportPrivateUsage] documented, whatever its name says


def _with_below(tasks: Iterable[trio.lowlevel.Task]) -> Iterator[trio.lowlevel.Task]:
    for task in tasks:
        yield task
        yield from _below(task)


def _below(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    for nursery in task.child_nurseries:
        yield from _with_below(nursery.child_tasks)


def _text(awaited: Iterable[tuple[FrameType, int]]) -> str:
    return "".join(traceback.StackSummary.extract(awaited).format()[-FRAMES_SHOWN:])

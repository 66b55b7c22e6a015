"""How an incarnation ended, in OTP's words, and the two words by which an actor says why."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import trio

from .errors import PocketPawError

ExitKind = Literal["normal", "shutdown", "crashed", "killed", "ignored"]


class IgnoreStart(Exception):
    """Raised in `on_start`: this actor has nothing to do here. Its place in the tree stays, empty (OTP's `ignore`)."""


class StartTimeout(Exception):
    """`on_start` did not end within the child's `start_timeout_s`."""


class SupervisorShutdown(Exception):
    """A supervisor ends by its own decision (OTP's reason `shutdown`)."""


class LimitReached(SupervisorShutdown):
    """A child was restarted too often."""


class AutoShutdown(SupervisorShutdown):
    """A significant child has ended."""


@dataclass(frozen=True, slots=True)
class Exit:
    """`normal`: it ended by itself. `shutdown`: when asked. `killed`: it was cancelled. `crashed`: see `failure`."""

    kind: ExitKind
    failure: BaseException | None = None

    @classmethod
    def of(cls, error: BaseException) -> Exit:
        cause = leaf(error)
        if isinstance(cause, IgnoreStart):
            return cls("ignored")
        return cls("shutdown" if isinstance(cause, SupervisorShutdown) else "crashed", cause)

    @property
    def is_abnormal(self) -> bool:
        """Whether a transient child is restarted after it."""
        return self.kind in ("crashed", "killed")

    def __str__(self) -> str:
        return self.kind if self.failure is None else describe(self.failure)

    def traceback(self) -> str:
        return "".join(traceback.format_exception(self.failure)) if self.failure is not None else ""


def leaf(error: BaseException) -> BaseException:
    """The one cause inside nested groups of one; a group of several stays a group. Cancellations are no cause."""
    causes = [leaf(inner) for inner in members(error) if not is_cancellation(inner)]
    return causes[0] if len(causes) == 1 else error


def describe(error: BaseException) -> str:
    """One line: our own errors by their sentence, others with their type's name."""
    return error.detail if isinstance(error, PocketPawError) else f"{type(error).__name__}: {error}".rstrip(": ")


def is_cancellation(error: BaseException) -> bool:
    """Whether nothing but trio's own cancellation is in it."""
    inside = members(error)
    return all(is_cancellation(inner) for inner in inside) if inside else isinstance(error, trio.Cancelled)


def members(error: BaseException) -> Sequence[BaseException]:
    """What a group holds; nothing if it is none."""
    return cast("Sequence[BaseException]", error.exceptions) if isinstance(error, BaseExceptionGroup) else ()

"""What a check of the daemon's security is: one function that looks, and says what it has seen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ...runtime import Message
from ...storage.self_audits import Gravity
from ..settings import ChangeSettings, LiveSettings

R = TypeVar("R")


class Ask(Protocol):
    def __call__(self, message: Message[R], /, *, timeout_s: float = 30.0) -> Awaitable[R]: ...


@dataclass(frozen=True)
class Premises:
    """What a check may look at."""

    live: LiveSettings
    ask: Ask


@dataclass(frozen=True)
class Seen:
    """What a check has seen; where it did not pass, the message says what to do."""

    passed: bool
    message: str


Look = Callable[[Premises], Awaitable[Seen]]
Repair = Callable[[Premises], Awaitable[None]]


@dataclass(frozen=True)
class SecurityCheck:
    """`repair` mends what it finds, without taking from anybody what they need; None where only a person can."""

    name: str
    severity: Gravity
    look: Look
    repair: Repair | None


def security_check(
    name: str, severity: Gravity = "warning", *, repair: Repair | None = None
) -> Callable[[Look], SecurityCheck]:
    """Make a check of a function."""
    return lambda look: SecurityCheck(name, severity, look, repair)


def setting(**values: object) -> Repair:
    """A repair that changes settings; None is their default."""

    async def change(premises: Premises) -> None:
        await premises.ask(ChangeSettings(changes=values))

    return change


def fine(message: str) -> Seen:
    return Seen(passed=True, message=message)


def wrong(message: str) -> Seen:
    return Seen(passed=False, message=message)

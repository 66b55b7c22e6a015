"""A call that waits for the person at the terminal: what it is, and their word on it."""

from __future__ import annotations

import sys

import click
import msgspec
import trio

from .client import ChatEvent

CHOICES = {"y": "once", "s": "session", "a": "always"}
QUESTION = "Allow? [y]es once, for this [s]ession, [a]lways, [n]o: "
SHOWN = 500


class Decision(msgspec.Struct, frozen=True):
    """`scope` is how far an approval goes; None denies."""

    scope: str | None


def describe(event: ChatEvent) -> str:
    """What waits, why, and who may have provoked it."""
    lines = [f"{event.tool} waits for your approval: {event.reason}"]
    lines += [f"  {name}: {_short(value)}" for name, value in event.input.items()]
    return "\n".join(lines)


async def ask() -> Decision:
    """Ask the person at the terminal until they answer; may be cancelled, and then takes none of their input."""
    while True:
        click.secho(QUESTION, nl=False, err=True, bold=True)
        await trio.lowlevel.wait_readable(sys.stdin)
        line = sys.stdin.readline()
        answer = line.strip().lower()[:1]
        if answer in CHOICES:
            return Decision(CHOICES[answer])
        if answer == "n" or not line:
            return Decision(None)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text)} characters)"

"""Talking with the agent in a terminal: what is said goes to a daemon, what it answers is shown as it comes."""

from __future__ import annotations

import secrets
import signal
import sys
from collections.abc import AsyncIterator
from enum import Enum
from importlib import import_module

import click
import trio

from ..exits import leaf
from . import approval
from .client import ChatEvent, Client
from .failure import Failure, Interrupted

PROMPT = "> "


class Kind(Enum):
    """What the line is that is being written."""

    ANSWER = "answer"
    THOUGHT = "thought"


_UNPRINTABLE = dict.fromkeys([*range(0x20), 0x7F, *range(0x80, 0xA0)])
for _kept in "\t\n":
    del _UNPRINTABLE[ord(_kept)]


class Conversation:
    """One session, as seen from a terminal. Ctrl-C stops the answer that is being written; a second one leaves."""

    def __init__(self, client: Client, session_id: str | None = None) -> None:
        self._client = client
        self.session_id = session_id or f"s-{secrets.token_hex(6)}"
        self._is_stopping = False
        self._is_stopped = False
        self._stop_is_told = trio.Event()
        self._has_begun = False
        self._open_line: Kind | None = None
        self._asked: dict[str, trio.CancelScope] = {}
        self._terminal = trio.Lock()  # one question at a time

    def say(self, content: str) -> None:
        """Say one thing and show the answer.

        Raises:
            Failure: there is no answer, or it failed.
            Interrupted: it was stopped.
            KeyboardInterrupt: the second Ctrl-C; what is being written goes on without us.
        """
        self._is_stopping = self._is_stopped = self._has_begun = False
        self._stop_is_told = trio.Event()
        try:
            trio.run(self._say, content)
        except BaseExceptionGroup as group:
            raise KeyboardInterrupt if group.subgroup(KeyboardInterrupt) else leaf(group) from None
        finally:
            self._end_line()
        if self._is_stopped:
            raise Interrupted("stopped")

    def converse(self) -> None:
        """Ask the person at the terminal for one thing after another, until Ctrl-D or Ctrl-C at the prompt."""
        import_module("readline")  # makes input() editable
        click.echo(f"Session {self.session_id}. Ctrl-C stops an answer, Ctrl-D leaves.", err=True)
        while True:
            try:
                content = input(PROMPT)
            except (EOFError, KeyboardInterrupt):
                click.echo()
                return
            if content.strip():
                try:
                    self.say(content)
                except Failure as failure:
                    failure.show()

    async def _say(self, content: str) -> None:
        error = ""
        with trio.open_signal_receiver(signal.SIGINT) as interrupts:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._heed, interrupts, nursery)
                async with self._client.answer(self.session_id, sendable(content)) as events:
                    async for event in events:
                        error = event.detail or error
                        self._show(event)
                        self._see_to_approval(event, nursery)
                if self._is_stopping:  # the end of what was stopped may come before the answer to the stop
                    await self._stop_is_told.wait()
                nursery.cancel_scope.cancel()
        if error:
            raise Failure(error)

    async def _heed(self, interrupts: AsyncIterator[int], nursery: trio.Nursery) -> None:
        async for _ in interrupts:
            self._is_stopping = True
            nursery.start_soon(self._stop)
            break
        async for _ in interrupts:
            raise KeyboardInterrupt

    async def _stop(self) -> None:
        self._is_stopped = await self._client.stop(self.session_id)
        if not self._is_stopped:
            raise KeyboardInterrupt  # nothing is being written that could be stopped
        self._stop_is_told.set()

    def _see_to_approval(self, event: ChatEvent, nursery: trio.Nursery) -> None:
        """Ask the person about a call that waits; whatever comes of the call in another way ends the question."""
        asked = self._asked.pop(event.call_id, None)
        if asked is not None:
            asked.cancel()
        if event.name != "approval_required":
            return
        self._end_line()
        click.secho(printable(approval.describe(event)), err=True, fg="yellow")
        if sys.stdin.isatty():
            nursery.start_soon(self._ask_person, event)
        else:
            click.echo(f"Decide with: pocketpaw approve {event.request_id} (or deny)", err=True)

    async def _ask_person(self, event: ChatEvent) -> None:
        with trio.CancelScope() as scope:
            self._asked[event.call_id] = scope
            async with self._terminal:
                decision = await approval.ask()
            del self._asked[event.call_id]
            try:
                await self._client.decide(event.request_id, decision.scope)
            except Failure as failure:  # decided elsewhere meanwhile, or not ours to decide
                failure.show()
        if scope.cancelled_caught:
            click.echo("(decided)", err=True)

    def _show(self, event: ChatEvent) -> None:
        match event.name:
            case "stream_start":
                if self._has_begun:
                    self._end_line()
                    click.secho("[the answer begins anew]", err=True, dim=True)
                self._has_begun = True
            case "chunk":
                self._write(event.content, Kind.ANSWER)
            case "thinking" if sys.stderr.isatty():
                self._write(event.content, Kind.THOUGHT)
            case "tool_start":
                self._end_line()
                click.secho(printable(f"[{event.tool}]"), err=True, dim=True)
            case _:
                pass

    def _write(self, text: str, kind: Kind) -> None:
        """Go on with the line, or begin one if the last was of another kind."""
        shown = printable(text)
        if not shown:
            return
        if self._open_line not in (None, kind):
            self._end_line()
        is_thought = kind is Kind.THOUGHT
        click.secho(shown, nl=False, err=is_thought, dim=is_thought)
        self._open_line = None if shown.endswith("\n") else kind

    def _end_line(self) -> None:
        if self._open_line is not None:
            click.echo(err=self._open_line is Kind.THOUGHT)
            self._open_line = None


def printable(text: str) -> str:
    """Drop what a terminal would obey instead of show."""
    return text.translate(_UNPRINTABLE)


def sendable(text: str) -> str:
    """Put a question mark for what came from the terminal and is no text."""
    return text.encode(errors="replace").decode()

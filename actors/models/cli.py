"""A command-line agent as a backend: one run of its program for each answer."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import suppress

import trio

from ...runtime.errors import PocketPawError
from .cli_lines import LineReader, Report
from .cli_programs import Program
from .cli_run import ProgramRun, TooTalkative
from .errors import (
    ModelCredentialRefused,
    ModelInterrupted,
    ModelMalformedAnswer,
    ModelNotInstalled,
    ModelRateLimited,
    ModelTimedOut,
    ModelUnreachable,
)
from .lines import LineDecoder
from .openai_wire import estimated_usage
from .protocol import Finished, Generate, GenerationEvent, TextDelta, ThinkingDelta, Usage
from .server_backend import DEFAULT_LIMITS, Limits
from .sse import EventTooLarge
from .transcript import transcript
from .wire_error import UNREADABLE

AFTERWORD_S = 2.0
"""How long a program may take to close its stdout once it has said that it is done."""

QUOTE_LIMIT_CHARACTERS = 300

_NEEDED = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS"),
)
"""Of our environment, what each of these programs needs, besides the variables that are its own."""

_NO_LOGIN = ("login", "log in", "api key", "unauthorized", "401", "auth method", "authentication", "credential")
_TOO_OFTEN = ("usage limit", "rate limit", "rate_limit", "quota", "429", "overloaded")


class CommandLine:
    """Asks a program in an empty folder, with nothing of ours in its arguments or its environment."""

    def __init__(self, *, name: str, program: Program, model: str = "", limits: Limits = DEFAULT_LIMITS) -> None:
        self.name = name
        self.model = model
        self._program = program
        self._limits = limits
        self._context: dict[str, object] = {"backend": name, "model": model}

    def __repr__(self) -> str:
        return f"CommandLine({self.name!r}, {self.model!r})"

    async def check(self) -> None:
        """See that the program is there; whether it is logged in, only a question would tell."""
        await trio.to_thread.run_sync(self._find)

    async def generate(self, request: Generate) -> AsyncGenerator[GenerationEvent]:
        """Stream the answer of one run; closing the generator kills it. Raises: see errors.py"""
        run = await trio.to_thread.run_sync(self._prepare, transcript(request.messages))
        try:
            await self._start(run)
            report, has_begun, characters = Report(self.model or self.name), False, 0
            decoder, reader = LineDecoder(), self._program.open_reader(report)
            deadline = trio.current_time() + self._limits.total_s
            while True:
                received = await self._receive(run, report, deadline)
                for event in self._read(decoder, reader, received or b"\n"):  # the last line may lack its end
                    has_begun = True
                    if isinstance(event, TextDelta | ThinkingDelta):
                        characters += len(event.text)
                    yield event
                if not received:
                    break
            how = await run.end()
            if report.failure or not report.has_answered:
                raise self._failure(how, report.failure or run.last_words(), has_begun=has_begun)
            yield self._usage(report, request, characters)
            yield Finished("stop")
        finally:
            await run.close()

    def _prepare(self, prompt: str) -> ProgramRun:
        command = [self._find(), *self._arguments()]
        try:
            return ProgramRun(command, prompt)
        except OSError as error:  # no room on the disk
            raise ModelUnreachable(f"{self.name} cannot be run: {error.strerror}", **self._context) from error

    def _find(self) -> str:
        """Find the program on the PATH; blocks on the disk."""
        program = self._program
        found = shutil.which(program.command[0])
        if found is None:
            raise ModelNotInstalled(
                f"{self.name} needs {program.command[0]!r} on the PATH: {program.install_command} ({program.docs_url})",
                install_hint=program.install_command,
                **self._context,
            )
        return found

    def _arguments(self) -> list[str]:
        """Give what follows the program's name; every user of the machine can read it, so never the conversation."""
        arguments = list(self._program.command[1:])
        where = len(arguments) - (arguments[-1] == "-")
        return [*arguments[:where], "--model", self.model, *arguments[where:]] if self.model else arguments

    async def _start(self, run: ProgramRun) -> None:
        own = self._program.variables
        kept = {name: value for name, value in os.environ.items() if name in _NEEDED or name.startswith(own)}
        try:
            await run.start(kept | self._program.environment)
        except OSError as error:
            raise ModelUnreachable(f"{self.name} cannot be run: {error.strerror}", **self._context) from error

    async def _receive(self, run: ProgramRun, report: Report, deadline: float) -> bytes:
        patience_s = AFTERWORD_S if report.is_over else self._limits.silence_s
        try:
            with trio.fail_at(min(deadline, trio.current_time() + patience_s)):
                return await run.receive()
        except trio.TooSlowError as error:
            if report.is_over:
                return b""
            detail = f"{self.name} was silent for too long, or did not finish in time"
            raise ModelTimedOut(detail, **self._context) from error
        except TooTalkative as error:
            raise ModelMalformedAnswer(f"{self.name} wrote {error}", **self._context) from error

    def _read(self, decoder: LineDecoder, reader: LineReader, received: bytes) -> list[GenerationEvent]:
        events: list[GenerationEvent] = []
        try:
            for line in decoder.feed(received):
                with suppress(*UNREADABLE):  # a notice between the lines, or a kind of line that is news to us
                    events += reader.read(line)
        except EventTooLarge as error:
            raise ModelMalformedAnswer(f"{self.name} wrote {error}", **self._context) from error
        return events

    def _usage(self, report: Report, request: Generate, characters: int) -> Usage:
        if not report.has_counted:
            return estimated_usage(request.messages, characters, report.model, self.name)
        given, made = report.input_tokens, report.output_tokens
        return Usage(given, made, given + made, report.model, self.name, cost_usd=report.cost_usd)

    def _failure(self, how: str, words: str, *, has_begun: bool) -> PocketPawError:
        """Name the failure that a program's words stand for; there is no better clue."""
        words = " ".join(words.split())[:QUOTE_LIMIT_CHARACTERS]
        detail = f"{self.name} {how}" + (f": {words}" if words else " without a word")
        clues = words.lower()
        if has_begun:
            return ModelInterrupted(f"the answer broke off: {detail}", **self._context)
        if any(clue in clues for clue in _NO_LOGIN):
            hint = f"run `{self._program.command[0]}` once in a terminal and log in"
            return ModelCredentialRefused(f"{detail}; {hint}", **self._context)
        if any(clue in clues for clue in _TOO_OFTEN):
            return ModelRateLimited(detail, retry_after_s=None, **self._context)
        return ModelUnreachable(detail, **self._context)

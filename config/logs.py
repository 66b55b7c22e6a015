"""The log: one event a line, as JSON or for a terminal, from our own code and from libraries alike.

Invariant: no line, whatever is in it, holds a secret; and logging never fails for whoever logs.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from datetime import datetime
from typing import Any, Literal, TextIO, cast
from urllib.parse import quote

import msgspec
import structlog

Form = Literal["auto", "console", "json"]
Secrets = Callable[[], frozenset[str]]
EventDict = MutableMapping[str, Any]

REDACTED = "[secret]"
SHORTEST_SECRET = 6
"""A shorter text is found in too many ordinary words to be taken out of them."""

LONGEST_IN_PATTERN = 1000
"""A longer text is looked for by itself: to compile one of a megabyte takes seconds, in which all else stands still."""

REPEATS = 5
REPEAT_WINDOW_S = 60.0
"""Of lines with the same event, level and actor, at most `REPEATS` are written in this time; the rest is counted."""

REMEMBERED = 1000
DEPTH = 40


class Redactor:
    """Takes the exact values of secrets out of texts, also as they look inside JSON, a repr or a URL."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._known: frozenset[str] = frozenset()
        self._long: list[str] = []
        self._pattern: re.Pattern[str] | None = None

    def text(self, text: str) -> str:
        secrets = self._secrets()
        if secrets is not self._known:
            (self._long, self._pattern), self._known = _wanted(secrets), secrets
        for form in self._long:
            text = text.replace(form, REDACTED)
        return text if self._pattern is None else self._pattern.sub(REDACTED, text)

    def value(self, value: object, depth: int = 0) -> object:
        """Return `value` as plain data without secrets; what is no plain data becomes its repr."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, datetime):
            return value.isoformat()
        if depth == DEPTH:
            return "…"
        if isinstance(value, Mapping):
            items = cast("Mapping[object, object]", value).items()
            return {self.text(str(key)): self.value(item, depth + 1) for key, item in items}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(item, depth + 1) for item in cast("list[object]", value)]
        return self.text(repr(value))


def configure(
    stream: TextIO,
    redactor: Redactor,
    *,
    form: Form = "auto",
    level: Callable[[], str] = lambda: "info",
    context: Callable[[], Mapping[str, str]] = dict,
) -> None:
    """Send all logging to `stream`. `level` is asked for each event; `context` says what an event belongs to."""
    is_console = form == "console" or (form == "auto" and stream.isatty())
    lines = _Lines(stream)
    structlog.configure(
        processors=[
            _Threshold(level),
            _Context(context),
            structlog.processors.add_log_level,
            _Repeats(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _Redaction(redactor),
            _console(stream) if is_console else _json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    logging.captureWarnings(capture=True)
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)


def _wanted(secrets: frozenset[str]) -> tuple[list[str], re.Pattern[str] | None]:
    """The long texts to look for, and a pattern of the others."""
    forms = {
        form
        for secret in secrets
        if len(secret) >= SHORTEST_SECRET
        for form in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe=""))
    }
    longest_first = sorted(forms, key=len, reverse=True)  # of two secrets that begin alike, none may be left in part
    short = [form for form in longest_first if len(form) <= LONGEST_IN_PATTERN]
    return longest_first[: -len(short) or None], re.compile("|".join(map(re.escape, short))) if short else None


class _Threshold:
    """Drops what is below the level that is set now."""

    def __init__(self, level: Callable[[], str]) -> None:
        self._level = level

    def __call__(self, _logger: object, method: str, event: EventDict) -> EventDict:
        if _severity(method) < _severity(self._level()):
            raise structlog.DropEvent
        return event


class _Context:
    """Adds what an event belongs to, where the event does not say so itself."""

    def __init__(self, context: Callable[[], Mapping[str, str]]) -> None:
        self._context = context

    def __call__(self, _logger: object, _method: str, event: EventDict) -> EventDict:
        return {**self._context(), **event}


class _Repeats:
    """Thins out lines that repeat; the next one that is written says how many were not. Called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str, str], tuple[float, int]] = {}  # since when, and how many since

    def __call__(self, _logger: object, method: str, event: EventDict) -> EventDict:
        key = (method, str(event.get("event", "")), str(event.get("actor", "")))
        now = time.monotonic()
        with self._lock:
            since, count = self._seen.pop(key, (now, 0))
            is_over = now - since > REPEAT_WINDOW_S
            self._seen[key] = (now, 1) if is_over else (since, count + 1)
            if len(self._seen) > REMEMBERED:
                del self._seen[next(iter(self._seen))]
        if not is_over and count >= REPEATS:
            raise structlog.DropEvent
        if is_over and count > REPEATS:
            event["not_logged"] = count - REPEATS
        return event


class _Redaction:
    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor

    def __call__(self, _logger: object, _method: str, event: EventDict) -> EventDict:
        return {key: self._redactor.value(value) for key, value in event.items()}


class _Lines:
    """Writes whole lines. What cannot be written is counted, and the next line that can be says so."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._lost = 0

    def write(self, line: str) -> None:
        with self._lock:
            try:
                if self._lost:
                    self._stream.write(f"({self._lost} lines of the log could not be written)\n")
                self._stream.write(f"{line}\n")
                self._stream.flush()
            except (OSError, ValueError):  # the disk is full, the terminal gone, the stream closed
                self._lost += 1
            else:
                self._lost = 0

    msg = debug = info = warning = error = critical = exception = write


class _Forward(logging.Handler):
    """Brings what libraries log into the same log."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        method = record.levelname.lower() if record.levelname in ("DEBUG", "INFO", "WARNING", "ERROR") else "critical"
        getattr(log, method)(record.getMessage(), logger=record.name, exc_info=record.exc_info or None)


def _json(_logger: object, _method: str, event: EventDict) -> str:
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return msgspec.json.encode({**first, **event}).decode()


def _console(stream: TextIO) -> Callable[[object, str, EventDict], str]:
    render = structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
    )

    def one_line(logger: object, method: str, event: EventDict) -> str:
        event["event"] = str(event.get("event", "")).replace("\n", "\\n")
        return str(render(logger, method, event))

    return one_line


def _severity(name: str) -> int:
    return logging.getLevelNamesMapping()["ERROR" if name == "exception" else name.upper()]

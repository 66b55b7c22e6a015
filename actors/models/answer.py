"""One answer of a model server, read off its HTTP response while that is still coming in."""

from __future__ import annotations

import math
from typing import Protocol

import httpcore2
import trio

from ...runtime.errors import PocketPawError, Unavailable
from .connections import HTTP_ERRORS
from .errors import ModelInterrupted, ModelMalformedAnswer
from .failures import Source, failure_in_answer, failure_of_transport
from .protocol import GenerationEvent
from .sse import EventTooLarge
from .wire_error import UNREADABLE, ErrorInAnswer

AFTERWORD_S = 1.0
"""How long a server may take, once the answer is whole, to say what it took and to end the body."""


class Decoder(Protocol):
    """Cuts a body into the pieces that its reader reads."""

    def feed(self, received: bytes) -> list[bytes]:
        """Raises: EventTooLarge"""
        ...

    def finish(self) -> list[bytes]: ...


class Reader(Protocol):
    """Turns the pieces of one answer into events, and keeps what can only be told at its end."""

    @property
    def is_whole(self) -> bool:
        """The server said that the answer ends here."""
        ...

    @property
    def has_read_anything(self) -> bool: ...

    def read(self, data: bytes) -> list[GenerationEvent]:
        """Raises: ErrorInAnswer; UNREADABLE if it is no piece of an answer"""
        ...

    def closing_events(self) -> list[GenerationEvent]: ...


class Answer:
    """Gives the events of a response with status 200; the caller closes it."""

    def __init__(
        self, response: httpcore2.Response, decoder: Decoder, reader: Reader, source: Source, deadline: float
    ) -> None:
        self._response = response
        self._decoder = decoder
        self._reader = reader
        self._source = source
        self._deadline = deadline
        self._pieces = response.aiter_stream()
        self._received_bytes = 0
        self._has_begun = False
        self._is_over = False
        self._afterword_until = math.inf

    async def next_events(self) -> list[GenerationEvent]:
        """Wait for the next events; none when the answer is over.

        The body is read to its end before the last of them: only so can the connection be used again.

        Raises: ModelInterrupted, ModelTimedOut, ModelMalformedAnswer, and what an error inside the answer stands for
        """
        events: list[GenerationEvent] = []
        while not events and not self._is_over:
            received = await self._receive()
            try:
                events = self._read_end() if received is None else self._read(received)
            except (*UNREADABLE, EventTooLarge) as error:
                raise self._malformed(str(error)) from error
            except ErrorInAnswer as error:
                raise self._interrupted_by(failure_in_answer(error.error, self._source)) from error
        self._has_begun = True
        return events

    async def close(self) -> None:
        """Release the connection: for reuse if the body was read to its end, else by closing it."""
        try:
            await self._pieces.aclose()
        finally:
            await self._response.aclose()

    async def _receive(self) -> bytes | None:
        """Read a piece of the body; None at its end, or when a whole answer is not followed by it.

        A cancel scope for each piece would cost as much as reading it. The connection's own timeout ends a silence, so
        it is enough to look at the deadline whenever a piece has come.
        """
        if self._reader.is_whole:
            return await self._receive_afterword()
        try:
            received = await anext(self._pieces, None)
            if trio.current_time() >= self._deadline:
                raise trio.TooSlowError
        except (*HTTP_ERRORS, trio.TooSlowError) as error:
            raise self._interrupted_by(failure_of_transport(error, self._source)) from error
        return received

    async def _receive_afterword(self) -> bytes | None:
        self._afterword_until = min(self._afterword_until, trio.current_time() + AFTERWORD_S)
        try:
            with trio.fail_at(self._afterword_until):
                return await anext(self._pieces, None)
        except (*HTTP_ERRORS, trio.TooSlowError):
            return None

    def _interrupted_by(self, failure: PocketPawError) -> PocketPawError:
        """Say so if there had been a beginning: then it is too late for another try."""
        if self._has_begun and isinstance(failure, Unavailable):
            return ModelInterrupted(f"the answer broke off: {failure.detail}", **failure.data)
        return failure

    def _read(self, received: bytes) -> list[GenerationEvent]:
        self._received_bytes += len(received)
        return [event for data in self._decoder.feed(received) for event in self._reader.read(data)]

    def _read_end(self) -> list[GenerationEvent]:
        had_read_anything = self._reader.has_read_anything
        try:
            events = [event for data in self._decoder.finish() for event in self._reader.read(data)]
        except UNREADABLE as error:
            if not had_read_anything:
                raise
            raise self._interrupted("in the middle of an event") from error
        if not self._reader.is_whole:
            if self._reader.has_read_anything:
                raise self._interrupted("before it said that the answer was whole")
            headers = {name.lower(): value.decode("latin-1") for name, value in self._response.headers}
            kind = headers.get(b"content-type", "no content type")
            raise self._malformed(f"{self._received_bytes} bytes of {kind} without a single event")
        self._is_over = True
        return events + self._reader.closing_events()

    def _interrupted(self, where: str) -> ModelInterrupted:
        source = self._source
        detail = f"{source.backend} at {source.address} ended the connection {where}"
        return ModelInterrupted(detail, backend=source.backend, model=source.model)

    def _malformed(self, what: str) -> ModelMalformedAnswer:
        source = self._source
        detail = f"{source.backend} at {source.address} sent what is not a model's answer: {source.quote(what)}"
        return ModelMalformedAnswer(detail, backend=source.backend, model=source.model)

"""One answer of an OpenAI-like server, read off its HTTP response while that is still coming in."""

from __future__ import annotations

import httpcore2
import msgspec
import trio

from ...runtime.errors import PocketPawError, Unavailable
from .connections import HTTP_ERRORS
from .errors import ModelInterrupted, ModelMalformedAnswer
from .openai_failures import Source, failure_in_answer, failure_of_transport
from .openai_wire import AnswerReader, ErrorInAnswer
from .protocol import GenerationEvent
from .sse import EventDecoder, EventTooLarge

WHOLE_ANSWER_LIMIT_BYTES = 16 * 1024 * 1024
AFTERWORD_S = 1.0
"""How long a server may take, once the answer is whole, to say what it took and to end the body."""


class Answer:
    """Gives the events of a response with status 200; the caller closes it."""

    def __init__(self, response: httpcore2.Response, reader: AnswerReader, source: Source, deadline: float) -> None:
        self._response = response
        self._reader = reader
        self._source = source
        self._deadline = deadline
        self._pieces = response.aiter_stream()
        self._decoder = EventDecoder()
        self._body: bytearray | None = None
        """All of it, from a server that does not stream."""
        self._received_bytes = 0
        self._has_begun = False
        self._is_over = False

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
            except msgspec.DecodeError as error:
                raise self._malformed(str(error)) from error
            except EventTooLarge as error:
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
        """Read a piece of the body; None at its end, or when a whole answer is not followed by it."""
        is_whole = self._reader.is_whole
        deadline = min(self._deadline, trio.current_time() + AFTERWORD_S) if is_whole else self._deadline
        try:
            with trio.fail_at(deadline):
                return await anext(self._pieces, None)
        except (*HTTP_ERRORS, trio.TooSlowError) as error:
            if is_whole:
                return None
            failure = failure_of_transport(error, self._source)
            raise self._interrupted_by(failure) from error

    def _interrupted_by(self, failure: PocketPawError) -> PocketPawError:
        """Say so if there had been a beginning: then it is too late for another try."""
        if self._has_begun and isinstance(failure, Unavailable):
            return ModelInterrupted(f"the answer broke off: {failure.detail}", **failure.data)
        return failure

    def _read(self, received: bytes) -> list[GenerationEvent]:
        if self._received_bytes == 0 and received.lstrip().startswith(b"{"):
            self._body = bytearray()
        self._received_bytes += len(received)
        if self._body is None:
            return [event for data in self._decoder.feed(received) for event in self._reader.read(data)]
        self._body += received
        if len(self._body) > WHOLE_ANSWER_LIMIT_BYTES:
            raise EventTooLarge(f"an answer of more than {WHOLE_ANSWER_LIMIT_BYTES} bytes")
        return []

    def _read_end(self) -> list[GenerationEvent]:
        if self._body is not None:
            events = self._reader.read(bytes(self._body))
        else:
            try:
                events = [event for data in self._decoder.finish() for event in self._reader.read(data)]
            except msgspec.DecodeError as error:
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
        detail = f"{source.backend} at {source.address} sent what is not a chat completion: {source.quote(what)}"
        return ModelMalformedAnswer(detail, backend=source.backend, model=source.model)

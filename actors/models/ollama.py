"""Ollama, asked in its own way: it says which models it has, and fetches those that it has not."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from typing import ClassVar

import msgspec
import trio

from .abilities import without_tools
from .connections import HTTP_ERRORS, Connections
from .errors import ModelMalformedAnswer, ModelMisconfigured
from .failures import failure_in_answer, failure_of_transport
from .images import Pictures
from .lines import LineDecoder
from .ollama_wire import ChatReader, PullLine, decode_pull_line, encode_request, names_in_tags
from .protocol import Generate
from .server_backend import DEFAULT_LIMITS, Limits, ServerBackend
from .sse import EventTooLarge
from .wire_error import UNREADABLE, WireError

TAGS_LIMIT_BYTES = 4 * 1024 * 1024
PULL_S = 6 * 3600.0
"""For the whole of a pull: a large model on a slow line."""


class Ollama(ServerBackend):
    """Offers no tools to a model that turned out to take none."""

    chat_path: ClassVar[bytes] = b"/api/chat"
    check_path: ClassVar[bytes] = b"/api/tags"
    example_address: ClassVar[str] = "http://localhost:11434"

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        model: str,
        client: Connections,
        context_tokens: int = 0,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        base_url = base_url.rstrip("/").removesuffix("/v1")
        super().__init__(name=name, base_url=base_url, model=model, client=client, limits=limits)
        self._context_tokens = context_tokens
        self._takes_tools = True

    def encode(self, request: Generate, max_tokens: int | None, pictures: Pictures) -> bytes:
        if not self._takes_tools:
            request = without_tools(request)
        return encode_request(
            self.model,
            request.messages,
            max_tokens,
            request.tools,
            context_tokens=self._context_tokens,
            pictures=pictures,
        )

    def open_reader(self, request: Generate) -> tuple[LineDecoder, ChatReader]:
        return LineDecoder(), ChatReader(backend=self.name, model=self.model, messages=request.messages)

    def adapt_to(self, refusal: str) -> bool:
        is_new = self._takes_tools and "does not support tools" in refusal
        self._takes_tools = self._takes_tools and not is_new
        return is_new

    async def check(self) -> None:
        """See that the server is there and has the model."""
        body = await self.fetch_list(TAGS_LIMIT_BYTES)
        try:
            names = names_in_tags(body)
        except UNREADABLE as error:
            source = self.source
            raise ModelMalformedAnswer(
                f"{source.address} does not answer like an Ollama server", backend=self.name, model=self.model
            ) from error
        if not names & {self.model, f"{self.model}:latest"}:
            raise ModelMisconfigured(
                f"{self.name} at {self.source.address} does not have {self.model!r} yet: "
                f"run `ollama pull {self.model}`, or POST backends/install",
                backend=self.name,
                model=self.model,
            )

    async def pull(self) -> AsyncGenerator[PullLine]:
        """Have the server fetch the model; closing the generator ends it, and what has come is kept for the next time.

        Raises: see errors.py
        """
        body = msgspec.json.encode({"model": self.model, "stream": True})
        deadline = trio.current_time() + PULL_S
        response = await self.send("POST", b"/api/pull", body, deadline)
        try:
            if response.status != HTTPStatus.OK:
                raise await self.failure_of(response)
            decoder = LineDecoder()
            async with aclosing(response.aiter_stream()) as pieces:
                async for piece in pieces:
                    if trio.current_time() >= deadline:  # as for an answer, a silence ends by itself
                        raise trio.TooSlowError
                    for line in decoder.feed(piece):
                        yield self._progress(line)
            for line in decoder.finish():
                yield self._progress(line)
        except EventTooLarge as error:
            detail = f"{self.source.address} said of its pull: {error}"
            raise ModelMalformedAnswer(detail, backend=self.name, model=self.model) from error
        except (*HTTP_ERRORS, trio.TooSlowError) as error:
            raise failure_of_transport(error, self.source) from error
        finally:
            await response.aclose()

    def _progress(self, line: bytes) -> PullLine:
        try:
            progress = decode_pull_line(line)
        except UNREADABLE as error:
            detail = f"{self.source.address} said of its pull: {self.source.quote(line.decode('utf-8', 'replace'))}"
            raise ModelMalformedAnswer(detail, backend=self.name, model=self.model) from error
        if progress.error:
            raise failure_in_answer(WireError(message=progress.error), self.source)
        return progress

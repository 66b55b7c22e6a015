"""Anthropic's models, or a server that speaks their wire."""

from __future__ import annotations

from typing import ClassVar

from .anthropic_wire import NO_THINKING, MessageReader, Thinking, encode_request
from .connections import Connections
from .images import Pictures
from .protocol import Generate
from .server_backend import DEFAULT_LIMITS, Header, Limits, ServerBackend
from .sse import EventDecoder

API_VERSION = b"2023-06-01"

DEFAULT_MAX_TOKENS = 8192
"""Their wire wants a limit; every model that is still served can write so much."""

LEAST_THINKING_TOKENS = 1024
"""A smaller budget is refused."""


class Anthropic(ServerBackend):
    """Learns from a model's refusals how it is asked to think."""

    chat_path: ClassVar[bytes] = b"/v1/messages"
    check_path: ClassVar[bytes] = b"/v1/models?limit=1"
    example_address: ClassVar[str] = "https://api.anthropic.com"

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        model: str,
        client: Connections,
        api_key: str = "",
        max_tokens: int | None = None,
        thinking_tokens: int = 0,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__(
            name=name,
            base_url=base_url.rstrip("/").removesuffix("/v1"),
            model=model,
            client=client,
            api_key=api_key,
            max_tokens=max_tokens,
            limits=limits,
        )
        self._thinking = NO_THINKING
        if thinking_tokens:
            self._thinking = Thinking("enabled", max(thinking_tokens, LEAST_THINKING_TOKENS))

    def credential(self, api_key: str) -> list[Header]:
        return [(b"x-api-key", api_key.encode("ascii")), (b"anthropic-version", API_VERSION)]

    def encode(self, request: Generate, max_tokens: int | None, pictures: Pictures) -> bytes:
        return encode_request(
            self.model,
            request.messages,
            max_tokens or DEFAULT_MAX_TOKENS,
            request.tools,
            backend=self.name,
            thinking=self._thinking,
            pictures=pictures,
        )

    def open_reader(self, request: Generate) -> tuple[EventDecoder, MessageReader]:
        return EventDecoder(), MessageReader(backend=self.name, model=self.model)

    def adapt_to(self, refusal: str) -> bool:
        thinking = self._thinking.adapted_to(refusal)
        if thinking is not None:
            self._thinking = thinking
        return thinking is not None

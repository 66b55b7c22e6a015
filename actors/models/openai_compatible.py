"""A model behind a server that speaks OpenAI's wire: OpenAI, Gemini, LM Studio, vLLM, LiteLLM, OpenRouter."""

from __future__ import annotations

from typing import ClassVar

from .connections import Connections
from .images import Pictures
from .openai_wire import DEFAULT_DIALECT, AnswerReader, CompletionDecoder, Dialect, encode_request
from .protocol import Generate
from .server_backend import DEFAULT_LIMITS, Limits, ServerBackend


class OpenAICompatible(ServerBackend):
    """Learns from a server's refusals how it wants to be asked."""

    chat_path: ClassVar[bytes] = b"/chat/completions"
    check_path: ClassVar[bytes] = b"/models"
    example_address: ClassVar[str] = "http://127.0.0.1:8000/v1"

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        model: str,
        client: Connections,
        api_key: str = "",
        max_tokens: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
        dialect: Dialect = DEFAULT_DIALECT,
    ) -> None:
        super().__init__(
            name=name,
            base_url=base_url,
            model=model,
            client=client,
            api_key=api_key,
            max_tokens=max_tokens,
            limits=limits,
        )
        self._dialect = dialect

    def encode(self, request: Generate, max_tokens: int | None, pictures: Pictures) -> bytes:
        return encode_request(
            self.model,
            request.messages,
            max_tokens,
            request.tools,
            self._dialect,
            backend=self.name,
            pictures=pictures,
        )

    def open_reader(self, request: Generate) -> tuple[CompletionDecoder, AnswerReader]:
        return CompletionDecoder(), AnswerReader(backend=self.name, model=self.model, messages=request.messages)

    def adapt_to(self, refusal: str) -> bool:
        dialect = self._dialect.adapted_to(refusal)
        if dialect is not None:
            self._dialect = dialect
        return dialect is not None

"""Makes what asks a configured backend; imported by whoever asks one, as an HTTP client is 4 MB."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

import msgspec

from .anthropic import Anthropic
from .catalogue import OWN_CHOICE, Configured
from .cli import CommandLine
from .connections import Connections
from .ollama import Ollama
from .openai_compatible import OpenAICompatible
from .openai_wire import DEFAULT_DIALECT, Dialect
from .protocol import Generate, GenerationEvent
from .server_backend import DEFAULT_LIMITS, Limits

FALLBACK_SILENCE_S = 30.0
"""How long a backend may be silent while another one waits to answer instead."""

PROGRAM_SILENCE_S = 300.0
"""A command-line agent may be silent for longer: some say nothing until they have said it all."""


class Opened(Protocol):
    """A backend that can be asked."""

    def generate(self, request: Generate) -> AsyncGenerator[GenerationEvent]:
        """Raises: see errors.py"""
        ...

    async def check(self) -> None:
        """See, at no cost, whether it can be asked; raises what a question would."""
        ...


def open_backend(
    backend: Configured, client: Connections, limits: Limits = DEFAULT_LIMITS, *, has_fallback: bool = False
) -> Opened:
    """Make what asks a backend other than the embedded model; one with a fallback is tried once, and briefly."""
    if has_fallback:
        limits = msgspec.structs.replace(limits, retries=0, silence_s=min(limits.silence_s, FALLBACK_SILENCE_S))
    if (program := backend.program) is not None:
        model = "" if backend.model == OWN_CHOICE else backend.model
        limits = msgspec.structs.replace(limits, silence_s=PROGRAM_SILENCE_S)
        return CommandLine(name=backend.name, program=program, model=model, limits=limits)
    if backend.name == "anthropic":
        return Anthropic(
            name=backend.name,
            base_url=backend.base_url,
            model=backend.model,
            client=client,
            api_key=backend.api_key,
            max_tokens=backend.max_tokens,
            thinking_tokens=backend.thinking_tokens,
            limits=limits,
        )
    if backend.name == "ollama":
        return open_ollama(backend, client, limits)
    return OpenAICompatible(
        name=backend.name,
        base_url=backend.base_url,
        model=backend.model,
        client=client,
        api_key=backend.api_key,
        max_tokens=backend.max_tokens,
        limits=limits,
        dialect=Dialect(wants_signatures=True) if backend.name == "gemini" else DEFAULT_DIALECT,
    )


def open_ollama(backend: Configured, client: Connections, limits: Limits = DEFAULT_LIMITS) -> Ollama:
    return Ollama(
        name=backend.name,
        base_url=backend.base_url,
        model=backend.model,
        client=client,
        context_tokens=backend.window_tokens,
        limits=limits,
    )

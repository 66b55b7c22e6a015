"""The backends that there are, as data, and which of them the settings choose."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from ...config.settings import Settings
from . import embedded_worker
from .errors import ModelNotInstalled

if TYPE_CHECKING:
    from .connections import Connections
    from .openai_compatible import Limits, OpenAICompatible

AUTO = "auto"
_DEFAULTS = Settings()


class Configured(msgspec.Struct, frozen=True):
    """A backend that can be asked: where, and with what. Its repr keeps the key to itself."""

    name: str
    model: str
    base_url: str = ""
    """Empty for the embedded model."""
    api_key: str = ""
    max_tokens: int | None = None

    def __repr__(self) -> str:
        return f"Configured({self.name!r}, {self.model!r})"

    @property
    def is_embedded(self) -> bool:
        return self.name == embedded_worker.BACKEND


class InstallHint(msgspec.Struct, frozen=True, omit_defaults=True):
    """How to get what a backend needs; empty if it needs nothing."""

    pip_package: str = ""
    pip_spec: str = ""
    verify_import: str = ""


class BackendInfo(msgspec.Struct, frozen=True, rename="camel"):
    """A row of GET backends."""

    name: str
    display_name: str
    available: bool
    """What it needs is installed; whether it is configured too, its `requiredKeys` tell."""
    capabilities: tuple[str, ...]
    builtin_tools: tuple[str, ...]
    required_keys: tuple[str, ...]
    supported_providers: tuple[str, ...]
    install_hint: InstallHint
    beta: bool = False


class Backend(msgspec.Struct, frozen=True):
    """One kind of backend, and how to find it in the settings."""

    name: str
    display_name: str
    required_keys: tuple[str, ...]
    """The settings without which it cannot work."""
    connect: Callable[[Settings], Configured]
    capabilities: tuple[str, ...] = ("streaming", "tools", "multi_turn", "custom_system_prompt")
    providers: tuple[str, ...] = ()
    install_hint: InstallHint = InstallHint()
    defaulted_keys: tuple[str, ...] = ()
    """Those of the required ones that have a default: `auto` takes the backend only if one of them was changed."""

    def missing_keys(self, settings: Settings) -> list[str]:
        return [key for key in self.required_keys if not getattr(settings, key)]

    def is_meant(self, settings: Settings) -> bool:
        """Whether the operator set it up, rather than it being there by default."""
        return not self.missing_keys(settings) and (
            not self.defaulted_keys
            or any(getattr(settings, key) != getattr(_DEFAULTS, key) for key in self.defaulted_keys)
        )


def _openai_compatible(settings: Settings) -> Configured:
    return Configured(
        "openai_compatible",
        settings.openai_compatible_model,
        settings.openai_compatible_base_url,
        settings.openai_compatible_api_key,
        settings.openai_compatible_max_tokens or None,
    )


def _openrouter(settings: Settings) -> Configured:
    return Configured(
        "openrouter", settings.openrouter_model, settings.openrouter_base_url, settings.openrouter_api_key
    )


def _litellm(settings: Settings) -> Configured:
    base_url, key = _with_version(settings.litellm_api_base), settings.litellm_api_key
    return Configured("litellm", settings.litellm_model, base_url, key, settings.litellm_max_tokens or None)


def _ollama(settings: Settings) -> Configured:
    return Configured("ollama", settings.ollama_model, _with_version(settings.ollama_host))


def _embedded(_: Settings) -> Configured:
    return Configured(embedded_worker.BACKEND, embedded_worker.MODEL)


def _with_version(address: str) -> str:
    """Complete the address of a server that is commonly given without its API's path."""
    address = address.rstrip("/")
    return address if address.endswith("/v1") else f"{address}/v1"


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (  # in the order in which `auto` looks
        Backend(
            "openai_compatible",
            "OpenAI-compatible server",
            ("openai_compatible_base_url", "openai_compatible_model"),
            _openai_compatible,
            providers=("openai", "lm_studio", "vllm", "llama.cpp", "openai_compatible"),
        ),
        Backend(
            "openrouter",
            "OpenRouter",
            ("openrouter_api_key", "openrouter_model"),
            _openrouter,
            providers=("openrouter",),
        ),
        Backend("litellm", "LiteLLM", ("litellm_api_base", "litellm_model"), _litellm, providers=("litellm",)),
        Backend(
            "ollama",
            "Ollama",
            ("ollama_host", "ollama_model"),
            _ollama,
            providers=("ollama",),
            defaulted_keys=("ollama_host", "ollama_model"),
        ),
        Backend(
            embedded_worker.BACKEND,
            "SmolLM2 135M, embedded",
            (),
            _embedded,
            capabilities=("streaming", "multi_turn", "custom_system_prompt"),
            install_hint=InstallHint("xllamacpp", "pocketpaw[embedded]", "xllamacpp"),
        ),
    )
}


class Selection(msgspec.Struct, frozen=True):
    """What the settings choose: the backends in the order of trying, and a sentence for each that cannot be asked."""

    backends: tuple[Configured, ...]
    problems: tuple[str, ...] = ()


def configured(settings: Settings) -> Selection:
    """Choose by `agent_backend`, then `fallback_backends`; a backend is tried once, however often it is named.

    A named backend that cannot work is a problem and is left out: nothing else is put in its place unasked.
    """
    backends: dict[str, Configured] = {}
    problems: list[str] = []
    for setting, name in _named(settings):
        backend = BACKENDS.get(name)
        if backend is None:
            problems.append(f"{setting} names {name!r}, which is not built yet; there are {_listed(BACKENDS)}")
        elif missing := backend.missing_keys(settings):
            problems.append(f"{setting} names {name!r}, which needs {_listed(missing)}")
        else:
            backends.setdefault(name, backend.connect(settings))
    return Selection(tuple(backends.values()), tuple(problems))


def _named(settings: Settings) -> Iterable[tuple[str, str]]:
    yield "agent_backend", _resolve(settings.agent_backend, settings)
    for name in settings.fallback_backends:
        yield "fallback_backends", _resolve(name, settings)


def _resolve(name: str, settings: Settings) -> str:
    if name != AUTO:
        return name
    return next(backend.name for backend in BACKENDS.values() if backend.is_meant(settings))  # embedded always is


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


FALLBACK_SILENCE_S = 30.0
"""How long a backend may be silent while another one waits to answer instead."""


def open_backend(
    backend: Configured, client: Connections, limits: Limits | None = None, *, has_fallback: bool = False
) -> OpenAICompatible:
    """Make what asks a backend other than the embedded model; one with a fallback is tried once, and briefly."""
    from .openai_compatible import DEFAULT_LIMITS, OpenAICompatible

    limits = limits or DEFAULT_LIMITS
    if has_fallback:
        limits = msgspec.structs.replace(limits, retries=0, silence_s=min(limits.silence_s, FALLBACK_SILENCE_S))

    return OpenAICompatible(
        name=backend.name,
        base_url=backend.base_url,
        model=backend.model,
        client=client,
        api_key=backend.api_key,
        max_tokens=backend.max_tokens,
        limits=limits,
    )


def list_backends() -> list[BackendInfo]:
    """List every backend, for GET backends; looks at the file system."""
    return [
        BackendInfo(
            name=backend.name,
            display_name=backend.display_name,
            available=backend.name != embedded_worker.BACKEND or _is_embedded_installed(),
            capabilities=backend.capabilities,
            builtin_tools=(),
            required_keys=backend.required_keys,
            supported_providers=backend.providers,
            install_hint=backend.install_hint,
        )
        for backend in BACKENDS.values()
    ]


def _is_embedded_installed() -> bool:
    try:
        embedded_worker.find_model()
    except ModelNotInstalled:
        return False
    return True

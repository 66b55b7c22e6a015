"""The backends that there are, as data, and which of them the settings choose for a request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec

from ...config.settings import Settings
from . import embedded_worker
from .cli_programs import PROGRAMS, Program
from .prices import Prices
from .protocol import Generate
from .routing import Rule, holds, parse_rule

AUTO = "auto"
CLI = "cli:"
"""How the names of the command-line agents begin."""

OWN_CHOICE = "its own choice"
"""The model of a command-line agent that is not told which."""

LARGE_WINDOW_TOKENS = 200_000
_SPEAKS = ("streaming", "multi_turn", "custom_system_prompt")
_ACTS = ("streaming", "tools", "vision", "multi_turn", "custom_system_prompt")
_DEFAULTS = Settings()


class Configured(msgspec.Struct, frozen=True):
    """A backend that can be asked: where, and with what. Its repr keeps the key to itself."""

    name: str
    model: str
    base_url: str = ""
    """Empty for the embedded model."""
    api_key: str = ""
    max_tokens: int | None = None
    thinking_tokens: int = 0
    window_tokens: int = 0
    """What the model reads at most; 0 where nobody knows."""

    def __repr__(self) -> str:
        return f"Configured({self.name!r}, {self.model!r})"

    @property
    def is_embedded(self) -> bool:
        return self.name == embedded_worker.BACKEND

    @property
    def program(self) -> Program | None:
        """The command-line agent that it is, if it is one."""
        return PROGRAMS.get(self.name.removeprefix(CLI)) if self.name.startswith(CLI) else None

    @property
    def capabilities(self) -> tuple[str, ...]:
        return BACKENDS[self.name].capabilities


class InstallHint(msgspec.Struct, frozen=True, omit_defaults=True):
    """How to get what a backend needs; empty if it needs nothing."""

    pip_package: str = ""
    pip_spec: str = ""
    verify_import: str = ""
    external_cmd: str = ""
    docs_url: str = ""


class Backend(msgspec.Struct, frozen=True):
    """One kind of backend, and how to find it in the settings."""

    name: str
    display_name: str
    required_keys: tuple[str, ...]
    """The settings without which it cannot work."""
    connect: Callable[[Settings], Configured]
    capabilities: tuple[str, ...] = _ACTS
    providers: tuple[str, ...] = ()
    install_hint: InstallHint = InstallHint()
    defaulted_keys: tuple[str, ...] = ()
    """Those of the required ones that have a default: `auto` takes the backend only if one of them was changed."""
    is_named_only: bool = False
    """`auto` does not take it: it may be there for other reasons than to answer here."""
    is_beta: bool = False

    def missing_keys(self, settings: Settings) -> list[str]:
        return [key for key in self.required_keys if not getattr(settings, key)]

    def is_meant(self, settings: Settings) -> bool:
        """Whether the operator set it up, rather than it being there by default."""
        if self.is_named_only or self.missing_keys(settings):
            return False
        return not self.defaulted_keys or any(
            getattr(settings, key) != getattr(_DEFAULTS, key) for key in self.defaulted_keys
        )


def _openai_compatible(settings: Settings) -> Configured:
    return Configured(
        "openai_compatible",
        settings.openai_compatible_model,
        settings.openai_compatible_base_url,
        settings.openai_compatible_api_key,
        settings.openai_compatible_max_tokens or None,
    )


def _anthropic(settings: Settings) -> Configured:
    return Configured(
        "anthropic",
        settings.anthropic_model,
        settings.anthropic_base_url,
        settings.anthropic_api_key,
        settings.anthropic_max_tokens or None,
        settings.anthropic_thinking_tokens,
        LARGE_WINDOW_TOKENS,
    )


def _gemini(settings: Settings) -> Configured:
    """Through the endpoint that speaks OpenAI's wire (ai.google.dev/gemini-api/docs/openai)."""
    return Configured(
        "gemini",
        settings.gemini_model,
        f"{settings.gemini_base_url.rstrip('/')}/v1beta/openai",
        settings.google_api_key,
        window_tokens=LARGE_WINDOW_TOKENS,
    )


def _openrouter(settings: Settings) -> Configured:
    return Configured(
        "openrouter", settings.openrouter_model, settings.openrouter_base_url, settings.openrouter_api_key
    )


def _litellm(settings: Settings) -> Configured:
    base_url, key = _with_version(settings.litellm_api_base), settings.litellm_api_key
    return Configured("litellm", settings.litellm_model, base_url, key, settings.litellm_max_tokens or None)


def _ollama(settings: Settings) -> Configured:
    host, window_tokens = settings.ollama_host, settings.ollama_context_tokens
    return Configured("ollama", settings.ollama_model, host, window_tokens=window_tokens)


def _program(program: Program, _: Settings) -> Configured:
    return Configured(f"{CLI}{program.name}", OWN_CHOICE, program.command[0], window_tokens=LARGE_WINDOW_TOKENS)


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
            "anthropic", "Anthropic", ("anthropic_api_key", "anthropic_model"), _anthropic, providers=("anthropic",)
        ),
        Backend(
            "openrouter",
            "OpenRouter",
            ("openrouter_api_key", "openrouter_model"),
            _openrouter,
            providers=("openrouter",),
        ),
        Backend("gemini", "Google Gemini", ("google_api_key", "gemini_model"), _gemini, providers=("google",)),
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
            capabilities=_SPEAKS,
            install_hint=InstallHint("xllamacpp", "pocketpaw[embedded]", "xllamacpp"),
        ),
        *(
            Backend(
                f"{CLI}{program.name}",
                program.display_name,
                (),
                partial(_program, program),
                capabilities=_SPEAKS,
                install_hint=InstallHint(external_cmd=program.install_command, docs_url=program.docs_url),
                is_named_only=True,
                is_beta=True,
            )
            for program in PROGRAMS.values()
        ),
    )
}


class Selection(msgspec.Struct, frozen=True):
    """What the settings choose: the backends in the order of trying, and a sentence for each that cannot be asked."""

    backends: tuple[Configured, ...]
    problems: tuple[str, ...] = ()
    routes: tuple[tuple[Rule, Configured], ...] = ()

    def all_backends(self) -> list[Configured]:
        """Every backend that may be asked, each once."""
        return list(dict.fromkeys([*self.backends, *(backend for _, backend in self.routes)]))

    def order_for(self, request: Generate, prices: Prices) -> Sequence[Configured]:
        """Give the backends in the order in which they are asked for `request`."""
        model = self.backends[0].model if self.backends else ""
        for rule, backend in self.routes:
            if holds(rule, request, prices, model):
                return list(dict.fromkeys([backend, *self.backends]))
        return self.backends


def configured(settings: Settings) -> Selection:
    """Choose by `agent_backend`, then `fallback_backends`; a backend is tried once, however often it is named.

    A named backend that cannot work is a problem and is left out: nothing else is put in its place unasked.
    """
    backends: dict[str, Configured] = {}
    problems: list[str] = []
    for setting, name in _named(settings):
        problem = _problem(name, settings)
        if problem:
            problems.append(f"{setting} names {name!r}, {problem}")
        else:
            backends.setdefault(name, BACKENDS[name].connect(settings))
    routes: list[tuple[Rule, Configured]] = []
    for rule in map(parse_rule, settings.model_routes):
        problem = _problem(rule.backend, settings, is_model_named=bool(rule.model))
        if problem:
            problems.append(f"model_routes names {rule.backend!r}, {problem}")
        else:
            backend = BACKENDS[rule.backend].connect(settings)
            routes.append((rule, msgspec.structs.replace(backend, model=rule.model or backend.model)))
    return Selection(tuple(backends.values()), tuple(problems), tuple(routes))


def _problem(name: str, settings: Settings, *, is_model_named: bool = False) -> str:
    """Say why a backend cannot be asked; empty if it can."""
    backend = BACKENDS.get(name)
    if backend is None:
        return f"which is not built yet; there are {_listed(BACKENDS)}"
    missing = [key for key in backend.missing_keys(settings) if not (is_model_named and key.endswith("_model"))]
    return f"which needs {_listed(missing)}" if missing else ""


def answers_with_embedded(settings: Settings) -> bool:
    """Whether the first model that is asked is the embedded one, which is too small to take notes or to sum up."""
    backends = configured(settings).backends
    return not backends or backends[0].is_embedded


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

"""Which backends the settings choose, and in which order."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest
from pocketpaw.actors.models.anthropic import Anthropic
from pocketpaw.actors.models.catalogue import BACKENDS, Configured, configured
from pocketpaw.actors.models.cli import CommandLine
from pocketpaw.actors.models.connections import Connections
from pocketpaw.actors.models.ollama import Ollama
from pocketpaw.actors.models.openai_compatible import OpenAICompatible
from pocketpaw.actors.models.opening import open_backend
from pocketpaw.config.settings import SETTINGS, SettingError, Settings, check

KEY = "sk-canary-0123456789"
LOCAL = Settings(openai_compatible_base_url="http://127.0.0.1:8000/v1", openai_compatible_model="m")


def names(settings: Settings) -> list[str]:
    return [backend.name for backend in configured(settings).backends]


def test_with_nothing_set_the_embedded_model_answers() -> None:
    assert names(Settings()) == ["embedded"]
    assert configured(Settings()).problems == ()


def test_auto_takes_the_first_that_is_set_up() -> None:
    assert names(LOCAL) == ["openai_compatible"]
    assert names(Settings(openrouter_api_key=KEY, openrouter_model="m", litellm_model="n")) == ["openrouter"]
    assert names(Settings(litellm_model="n")) == ["litellm"]


def test_auto_does_not_take_ollama_for_its_defaults_alone() -> None:
    assert names(Settings(ollama_model="qwen3")) == ["ollama"]
    assert names(Settings(agent_backend="ollama")) == ["ollama"]


def test_fallbacks_follow_in_order_and_nobody_is_asked_twice() -> None:
    settings = msgspec.structs.replace(LOCAL, fallback_backends=("ollama", "auto", "embedded", "ollama"))
    assert names(settings) == ["openai_compatible", "ollama", "embedded"]


def test_a_named_backend_that_cannot_work_is_a_problem_and_not_replaced() -> None:
    selection = configured(Settings(agent_backend="openrouter", openrouter_model="m"))
    assert selection.backends == ()
    assert selection.problems == ("agent_backend names 'openrouter', which needs openrouter_api_key",)
    selection = configured(Settings(agent_backend="gemini", fallback_backends=("cli:x", "embedded")))
    assert [backend.name for backend in selection.backends] == ["embedded"]
    assert selection.problems[0] == "agent_backend names 'gemini', which needs google_api_key"
    assert selection.problems[1].startswith("fallback_backends names 'cli:x', which is not built yet; there are ")


def test_auto_never_takes_a_program_that_happens_to_be_there() -> None:
    assert names(Settings(anthropic_api_key=KEY)) == ["anthropic"]
    assert names(Settings(google_api_key=KEY)) == ["gemini"]
    assert names(Settings(agent_backend="cli:claude")) == ["cli:claude"]
    assert all(backend.is_named_only for name, backend in BACKENDS.items() if name.startswith("cli:"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            Settings(
                openai_compatible_base_url="http://h/v1",
                openai_compatible_model="m",
                openai_compatible_api_key=KEY,
                openai_compatible_max_tokens=9,
            ),
            Configured("openai_compatible", "m", "http://h/v1", KEY, 9),
        ),
        (LOCAL, Configured("openai_compatible", "m", "http://127.0.0.1:8000/v1")),
        (Settings(agent_backend="ollama"), Configured("ollama", "llama3.2", "http://localhost:11434")),
        (
            Settings(ollama_host="http://box:1/v1", ollama_model="q", ollama_context_tokens=9000),
            Configured("ollama", "q", "http://box:1/v1", window_tokens=9000),
        ),
        (
            Settings(anthropic_api_key=KEY, anthropic_max_tokens=9, anthropic_thinking_tokens=2000),
            Configured("anthropic", "claude-sonnet-4-6", "https://api.anthropic.com", KEY, 9, 2000, 200_000),
        ),
        (
            Settings(google_api_key=KEY, gemini_base_url="http://g/"),
            Configured("gemini", "gemini-3-pro-preview", "http://g/v1beta/openai", KEY, window_tokens=200_000),
        ),
        (
            Settings(agent_backend="cli:codex"),
            Configured("cli:codex", "its own choice", "codex", window_tokens=200_000),
        ),
        (
            Settings(litellm_model="n", litellm_api_key=KEY, litellm_api_base="http://h:4000/"),
            Configured("litellm", "n", "http://h:4000/v1", KEY),
        ),
        (
            Settings(openrouter_model="n", openrouter_api_key=KEY),
            Configured("openrouter", "n", "https://openrouter.ai/api/v1", KEY),
        ),
        (Settings(agent_backend="embedded"), Configured("embedded", "SmolLM2-135M-Instruct")),
    ],
)
def test_each_backend_is_reached_where_its_settings_say(settings: Settings, expected: Configured) -> None:
    assert configured(settings).backends == (expected,)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (Settings(openrouter_model="n", openrouter_api_key=KEY), OpenAICompatible),
        (Settings(anthropic_api_key=KEY), Anthropic),
        (Settings(agent_backend="ollama"), Ollama),
        (Settings(agent_backend="cli:claude"), CommandLine),
    ],
)
async def test_what_is_configured_can_be_opened_and_hides_its_key(settings: Settings, kind: type) -> None:
    (backend,) = configured(settings).backends
    async with Connections() as client:
        opened = open_backend(backend, client)
    assert isinstance(opened, kind)
    assert KEY not in repr(backend) + repr(opened) + repr(configured(settings))


def test_every_required_key_is_a_setting() -> None:
    for backend in BACKENDS.values():
        assert {*backend.required_keys, *backend.defaulted_keys} <= set(Settings.__struct_fields__)


def test_every_backend_that_can_be_set_is_there() -> None:
    for name in BACKENDS:
        assert check("agent_backend", name) == name
        if not name.startswith("cli:"):
            assert name in SETTINGS["agent_backend"].about.expects


def test_routes_are_checked_when_they_are_set() -> None:
    good = ["images -> anthropic", "topic:code,c++ -> cli:claude:opus", "longer_than:9->openrouter:qwen/qwen3:free"]
    assert check("model_routes", good) == tuple(good)
    for bad in ("images", "images -> nobody", "longer_than -> ollama", "topic: -> ollama", "costs_over:x -> ollama"):
        with pytest.raises(SettingError, match="a list of rules such as"):
            check("model_routes", [bad])
    with pytest.raises(SettingError, match="3/15"):
        check("model_prices", {"m": "cheap"})


def test_a_route_to_a_backend_that_is_not_set_up_is_a_problem() -> None:
    selection = configured(Settings(model_routes=("images -> anthropic", "tools -> cli:nobody", "tools -> ollama:q")))
    assert [backend.name for backend in selection.all_backends()] == ["embedded", "ollama"]
    assert [problem.partition(";")[0] for problem in selection.problems] == [
        "model_routes names 'anthropic', which needs anthropic_api_key",
        "model_routes names 'cli:nobody', which is not built yet",
    ]


def test_nobody_needs_an_http_client_before_a_server_is_asked() -> None:
    heavy = "{'httpcore2', 'httpx2', 'anyio'}"
    modules = "embedded_worker, installer, router"
    program = f"import sys; from pocketpaw.actors.models import {modules}; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"

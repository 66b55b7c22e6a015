"""Which backends the settings choose, and in which order."""

from __future__ import annotations

import msgspec
import pytest
from pocketpaw.actors.models import catalogue, embedded_worker
from pocketpaw.actors.models.catalogue import BACKENDS, Configured, configured, list_backends, open_backend
from pocketpaw.actors.models.errors import ModelNotInstalled
from pocketpaw.actors.models.openai_compatible import OpenAICompatible, open_client
from pocketpaw.config.settings import Settings

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
    assert [problem.partition(",")[0] for problem in selection.problems] == [
        "agent_backend names 'gemini'",
        "fallback_backends names 'cli:x'",
    ]


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
        (Settings(agent_backend="ollama"), Configured("ollama", "llama3.2", "http://localhost:11434/v1")),
        (
            Settings(ollama_host="http://box:1/v1/", ollama_model="q"),
            Configured("ollama", "q", "http://box:1/v1"),
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


async def test_what_is_configured_can_be_opened_and_hides_its_key() -> None:
    (backend,) = configured(Settings(openrouter_model="n", openrouter_api_key=KEY)).backends
    async with open_client() as client:
        opened = open_backend(backend, client)
    assert isinstance(opened, OpenAICompatible)
    assert KEY not in repr(backend) + repr(opened) + repr(configured(Settings(openrouter_model="n")))


def test_every_required_key_is_a_setting() -> None:
    for backend in BACKENDS.values():
        assert {*backend.required_keys, *backend.defaulted_keys} <= set(Settings.__struct_fields__)


def test_the_list_of_backends_has_the_contracts_fields() -> None:
    rows = msgspec.json.decode(msgspec.json.encode(list_backends()))
    assert [row["name"] for row in rows] == list(BACKENDS)
    for row in rows:
        assert set(row) == {
            "name",
            "displayName",
            "available",
            "capabilities",
            "builtinTools",
            "requiredKeys",
            "supportedProviders",
            "installHint",
            "beta",
        }
    assert rows[-1]["installHint"]["pip_spec"] == "pocketpaw[embedded]"
    assert rows[0]["installHint"] == {}


def test_the_embedded_model_is_not_available_when_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ModelNotInstalled("missing")

    monkeypatch.setattr(embedded_worker, "find_model", fail)
    (row,) = [row for row in catalogue.list_backends() if row.name == "embedded"]
    assert not row.available

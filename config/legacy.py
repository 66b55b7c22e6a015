"""What PocketPaw 0.4 called its backends, in our names.

There a backend is an agent SDK and its model comes from a provider, which stands in a setting of its own; here the
provider is the backend.
"""

from collections.abc import Mapping
from typing import cast

_PROVIDER_SETTINGS = {
    "claude_agent_sdk": ("claude_sdk_provider", "anthropic"),
    "openai_agents": ("openai_agents_provider", "openai"),
    "google_adk": ("google_adk_provider", "google"),
    "copilot_sdk": ("copilot_sdk_provider", "copilot"),
}
"""The SDK: the setting that names its provider, and that setting's default."""

_BACKENDS = {
    "anthropic": ("anthropic", "anthropic_api_key"),
    "google": ("gemini", "google_api_key"),
    "litellm": ("litellm", ""),
    "ollama": ("ollama", ""),
    "openai_compatible": ("openai_compatible", "openai_compatible_base_url"),
    "openrouter": ("openrouter", "openrouter_api_key"),
}
"""The provider: our backend, and the setting, if any, without which it cannot work."""


def modern(setting: str, written: object, values: Mapping[str, object]) -> object:
    """Return what is `written` for `setting` in our names; `values` is everything that was set.

    A name that has no counterpart here is left as it is, so that checking it says so.
    """
    if setting not in ("agent_backend", "fallback_backends"):
        return written
    if isinstance(written, str):
        return ",".join(_backend(name, values) for name in written.split(","))
    if isinstance(written, list):
        names = cast("list[object]", written)
        return [_backend(name, values) if isinstance(name, str) else name for name in names]
    return written


def _backend(name: str, values: Mapping[str, object]) -> str:
    name = name.strip()
    if name not in _PROVIDER_SETTINGS:
        return name
    setting, default = _PROVIDER_SETTINGS[name]
    provider = values.get(setting) or default
    backend, needs = _BACKENDS.get(str(provider), (name, ""))
    return backend if not needs or values.get(needs) else name

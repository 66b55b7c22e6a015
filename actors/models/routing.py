"""Rules that choose the backend of a request: the setting `model_routes`, read.

    images -> anthropic                        with a picture in the conversation
    tools -> openrouter:qwen/qwen3             where tools are offered
    longer_than:20000 -> gemini                the conversation has more characters
    shorter_than:200 -> ollama:llama3.2        the question has fewer characters
    topic:code,python -> anthropic             one of these words stands in the question
    costs_over:0.05 -> ollama                  reading the conversation would cost more US dollars where it would go

The first rule that holds decides who is asked first; after that one come the others, as without any rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import msgspec

from .abilities import has_images
from .prices import Prices
from .protocol import Generate
from .window import estimate_tokens


class Rule(msgspec.Struct, frozen=True):
    """One line of the above; `model` is empty where the backend's own setting names it."""

    condition: str
    argument: str
    backend: str
    model: str = ""


def parse_rule(text: str) -> Rule:
    """Read a rule that the settings have accepted."""
    condition, _, target = text.partition("->")
    name, _, argument = condition.strip().partition(":")
    backend, _, model = target.strip().partition(":")
    if backend == "cli":
        program, _, model = model.partition(":")
        backend = f"cli:{program}"
    return Rule(name, argument.strip(), backend, model)


def holds(rule: Rule, request: Generate, prices: Prices, model: str) -> bool:
    """Tell whether `rule` is meant for `request`, which would go to `model` if none was."""
    return _CONDITIONS[rule.condition](rule.argument, request, prices, model)


def _has_images(_: str, request: Generate, __: Prices, ___: str) -> bool:
    return has_images(request)


def _has_tools(_: str, request: Generate, __: Prices, ___: str) -> bool:
    return bool(request.tools)


def _is_longer(limit: str, request: Generate, _: Prices, __: str) -> bool:
    return sum(len(message.content) for message in request.messages) > int(limit)


def _is_shorter(limit: str, request: Generate, _: Prices, __: str) -> bool:
    return len(_question(request)) < int(limit)


def _is_about(words: str, request: Generate, _: Prices, __: str) -> bool:
    wanted = "|".join(re.escape(word.strip()) for word in words.split(",") if word.strip())
    return re.search(rf"(?<!\w)(?:{wanted})(?!\w)", _question(request), re.IGNORECASE) is not None


def _costs_more(limit: str, request: Generate, prices: Prices, model: str) -> bool:
    return prices.cost(model, _tokens(request), 0) > float(limit)


_CONDITIONS: dict[str, Callable[[str, Generate, Prices, str], bool]] = {
    "images": _has_images,
    "tools": _has_tools,
    "longer_than": _is_longer,
    "shorter_than": _is_shorter,
    "topic": _is_about,
    "costs_over": _costs_more,
}
CONDITIONS: Iterable[str] = _CONDITIONS.keys()


def _question(request: Generate) -> str:
    return next((message.content for message in reversed(request.messages) if message.role == "user"), "")


def _tokens(request: Generate) -> int:
    return sum(map(estimate_tokens, request.messages))

"""Which rule is meant for which request, and what answers cost."""

from __future__ import annotations

import pytest
from pocketpaw.actors.models.prices import Prices
from pocketpaw.actors.models.protocol import ChatMessage, Generate, Tool, Usage
from pocketpaw.actors.models.routing import Rule, holds, parse_rule

PRICES = Prices({"m": "3/15"})
TOOL = Tool("look", "Look.", {})


def asked(text: str, before: str = "", images: tuple[str, ...] = (), tools: tuple[Tool, ...] = ()) -> Generate:
    earlier = (ChatMessage("user", before), ChatMessage("assistant", "Well.")) if before else ()
    return Generate(messages=(*earlier, ChatMessage("user", text, images=images)), tools=tools)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("images -> anthropic", Rule("images", "", "anthropic")),
        (
            "longer_than:20000->openrouter:qwen/qwen3:free",
            Rule("longer_than", "20000", "openrouter", "qwen/qwen3:free"),
        ),
        ("topic:code,c++ -> cli:claude", Rule("topic", "code,c++", "cli:claude")),
        ("tools -> cli:claude:opus", Rule("tools", "", "cli:claude", "opus")),
    ],
)
def test_a_rule_is_read(text: str, rule: Rule) -> None:
    assert parse_rule(text) == rule


@pytest.mark.parametrize(
    ("condition", "request_", "expected"),
    [
        ("images", asked("what?", images=("/a.png",)), True),
        ("images", asked("what?"), False),
        ("tools", asked("what?", tools=(TOOL,)), True),
        ("tools", asked("what?"), False),
        ("longer_than:100", asked("and?", before="x" * 100), True),
        ("longer_than:110", asked("and?", before="x" * 100), False),
        ("shorter_than:5", asked("and?", before="x" * 100), True),
        ("shorter_than:4", asked("and?"), False),
        ("topic:code, c++", asked("Write C++, please"), True),
        ("topic:code,c++", asked("I decode it", before="code"), False),
        ("topic:größe", asked("Welche GRÖSSE? Nein: Größe!"), True),
        ("costs_over:0.0009", asked("x" * 1000), True),
        ("costs_over:0.002", asked("x" * 1000), False),
    ],
)
def test_a_rule_holds_for_what_it_is_meant_for(condition: str, request_: Generate, *, expected: bool) -> None:
    assert holds(parse_rule(f"{condition} -> ollama"), request_, PRICES, "m") is expected


def test_prices_fill_in_what_a_backend_does_not_say() -> None:
    usage = Usage(1_000_000, 100_000, 1_100_000, "m", "b")
    assert PRICES.priced(usage, "other").cost_usd == 4.5
    assert PRICES.priced(Usage(1_000_000, 0, 1_000_000, "m-2026-11", "b"), "m").cost_usd == 3.0
    assert PRICES.priced(Usage(1, 1, 2, "unknown", "b"), "unknown").cost_usd == 0.0
    told = Usage(1, 1, 2, "m", "b", cost_usd=0.5)
    assert PRICES.priced(told, "m") is told

"""What models cost, where the operator says so and the backend does not: the setting `model_prices`, read."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from .protocol import Usage

TOKENS_OF_A_PRICE = 1_000_000


class Prices:
    """Prices by model, each as `in/out`: US dollars for a million tokens read, and for a million written."""

    def __init__(self, written: Mapping[str, str]) -> None:
        self._prices = {model: tuple(map(float, price.split("/"))) for model, price in written.items()}

    def cost(self, model: str, input_tokens: int, output_tokens: int) -> float:
        """What that many tokens cost, in US dollars; 0 for a model whose price is not known."""
        into, out = self._prices.get(model, (0.0, 0.0))
        return (input_tokens * into + output_tokens * out) / TOKENS_OF_A_PRICE

    def priced(self, usage: Usage, model: str) -> Usage:
        """Fill in what an answer cost, if its backend did not say; `model` is as the settings name it."""
        if usage.cost_usd or not self._prices:
            return usage
        named = usage.model if usage.model in self._prices else model
        return msgspec.structs.replace(usage, cost_usd=self.cost(named, usage.input_tokens, usage.output_tokens))

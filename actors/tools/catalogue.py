"""The tools there are, shared by the gate, which looks them up, and the agents, which offer them to models."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ...config.settings import Settings
from ..models.protocol import Tool
from .policy import is_offered
from .protocol import ToolInfo

Works = Callable[[ToolInfo, Settings], bool]
"""Whether a tool works with these settings."""


class Catalogue:
    """Every tool by name; of two with one name the built-in one counts. Only the keeper of MCP servers changes them."""

    def __init__(self) -> None:
        self._built_in: dict[str, ToolInfo] = {}
        self._conditions: dict[str, Works] = {}
        self._outside: dict[str, ToolInfo] = {}
        self._settings: Settings | None = None
        self._offer: tuple[Tool, ...] = ()

    def add(self, tools: Iterable[ToolInfo], works: Works | None = None) -> None:
        for tool in tools:
            self._built_in.setdefault(tool.name, tool)
            if works is not None:
                self._conditions[tool.name] = works
        self._settings = None

    def replace_outside(self, tools: Iterable[ToolInfo]) -> None:
        """Take what MCP servers offer now."""
        self._outside = {tool.name: tool for tool in tools if tool.name not in self._built_in}
        self._settings = None

    def get(self, name: str) -> ToolInfo | None:
        return self._built_in.get(name) or self._outside.get(name)

    def offer(self, settings: Settings) -> tuple[Tool, ...]:
        """What a model is told, by name; made anew only when tools or settings have changed."""
        if settings is not self._settings:
            known = sorted({**self._outside, **self._built_in}.values(), key=lambda tool: tool.name)
            self._offer = tuple(
                Tool(tool.name, tool.description, tool.parameters)
                for tool in known
                if is_offered(tool, settings) and self._works(tool, settings)
            )
            self._settings = settings
        return self._offer

    def _works(self, tool: ToolInfo, settings: Settings) -> bool:
        works = self._conditions.get(tool.name)
        return works is None or works(tool, settings)

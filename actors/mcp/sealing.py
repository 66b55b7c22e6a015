"""Which values of the servers' configuration are kept in the vault: in the file, `…` stands for each of them.

Those are all variables of the environment (which of them are secret nobody can tell), headers that do not take theirs
from a variable, and addresses with a password or a query. A program's arguments are none: every process sees them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, cast

from ...config.setting import MASK
from ...config.vault import MCP

Entries = list[dict[str, object]]

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PRIVATE_URL = re.compile(r"\?|://[^/]*@")
_MAPS: tuple[Literal["env", "headers"], ...] = ("env", "headers")


class _Place(NamedTuple):
    """Where a value stands, and what the vault calls it."""

    name: str
    kind: Literal["env", "headers", "url"]
    holder: dict[str, object]
    key: str
    text: str


def found(entries: Entries) -> dict[str, str]:
    """Return the values that stand in the clear and belong in the vault, by their names there."""
    return {place.name: place.text for place in _places(entries) if place.text != MASK and _belongs(place)}


def marked(entries: Entries) -> set[str]:
    """Name the values that have their marks in the file."""
    return {place.name for place in _places(entries) if place.text == MASK}


def fill(entries: Entries, secrets: Mapping[str, str]) -> None:
    """Put the vault's values in the places of their marks, as far as they are there."""
    for place in _places(entries):
        if place.text == MASK:
            place.holder[place.key] = secrets.get(place.name, MASK)


def seal(entries: Entries, names: Iterable[str]) -> None:
    """Put marks in the places of these values."""
    sealed = set(names)
    for place in _places(entries):
        if place.name in sealed:
            place.holder[place.key] = MASK


def unfilled(entry: dict[str, object]) -> list[str]:
    """Name the values of a server that are marks still."""
    return [place.name.split("/", 2)[2] for place in _places([entry]) if place.text == MASK]


def _places(entries: Entries) -> Iterator[_Place]:
    """Every value that may belong in the vault. Of two servers of one name only the first is used, and so sealed."""
    seen: set[str] = set()
    for entry in entries:
        server = entry.get("name")
        if not isinstance(server, str) or server in seen or not _NAME.fullmatch(server):
            continue
        seen.add(server)
        for kind in _MAPS:
            if isinstance(holder := entry.get(kind), dict):
                values = cast("dict[str, object]", holder)
                for key, text in values.items():
                    if isinstance(text, str) and text:
                        yield _Place(f"{MCP}{server}/{kind}/{key}", kind, values, key, text)
        if isinstance(url := entry.get("url"), str) and url:
            yield _Place(f"{MCP}{server}/url", "url", entry, "url", url)


def _belongs(place: _Place) -> bool:
    if place.kind == "url":
        return bool(_PRIVATE_URL.search(place.text))
    return place.kind == "env" or not VARIABLE.search(place.text)

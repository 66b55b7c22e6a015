"""The contract's notation for JSON: `{id, title?, usage:{…}, tags:[…], ok:true}`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

Form = Mapping[str, object]
"""The fields of an object, an optional one's name with `?`: each is a Form, a list of one, a type's name, or None."""

MAP = "*"
"""Stands for the name of each field, where names are data: `{name:{enabled,…}}`."""

_STRUCT = re.compile(r"`(\[?\{.*?)`")


def structs(text: str) -> list[Form]:
    """The objects in `text`; of a list of objects, what one of them has."""
    return [_Reader(found[1].removeprefix("[")).object() for found in _STRUCT.finditer(text)]


class _Reader:
    """A recursive descent through one object."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def object(self) -> Form:
        self._at += 1
        fields: dict[str, object] = {name: value for name, value in self._fields() if name and not name.endswith("_")}
        self._at += 1
        is_map = list(fields) == ["name"] and fields["name"] is not None
        return {MAP: fields["name"]} if is_map else fields

    def _fields(self) -> Iterator[tuple[str, object]]:
        while self._next() not in ("}", ""):
            name = re.match(r"\w*\??", self._text[self._at :])
            assert name is not None
            self._at += name.end()
            words = self._until(":,}")
            optional = "?" if words.lstrip().startswith("?") and not name[0].endswith("?") else ""
            value = None
            if self._next() == ":":
                self._at += 1
                value = self._value()
            if self._next() == ",":
                self._at += 1
            yield name[0] + optional, value

    def _value(self) -> object:
        if self._next() == "{":
            return self.object()
        if self._next() == "[":
            inner = self._text[self._at + 1 :].lstrip()
            found: list[Form] = [_Reader(inner).object()] if inner.startswith("{") else []
            self._until(",}")
            return found
        word = self._until(",}").strip()
        if word in ("true", "false"):
            return "boolean"
        return "string" if word.startswith('"') or "/" in word else None

    def _next(self) -> str:
        self._at += len(self._text[self._at :]) - len(self._text[self._at :].lstrip())
        return self._text[self._at : self._at + 1]

    def _until(self, ends: str) -> str:
        """Go to the next of `ends` that is in no bracket of its own; returns what is passed over."""
        begun, depth = self._at, 0
        while self._at < len(self._text):
            one = self._text[self._at]
            if depth == 0 and one in ends:
                break
            depth += (one in "{[(") - (one in ")]}")
            if one == "}" and depth == 0:
                self._at += 1
                break
            self._at += 1
        return self._text[begun : self._at]

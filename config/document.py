"""The configuration file as read: its values, and the lines where they stand."""

import json
import math
import re
from pathlib import Path
from typing import NoReturn, cast

import msgspec

from .private_file import write_private

_SPACE = re.compile(r"[ \t\r\n]*")


class UnreadableFileError(Exception):
    """A file that is there but is no JSON object; nothing may be written over it."""

    def __init__(self, path: Path, reason: str, line: int | None = None) -> None:
        super().__init__(f"{path}{f', line {line}' if line else ''}: {reason}")
        self.path = path
        self.reason = reason
        self.line = line


class Document(msgspec.Struct, frozen=True):
    """A JSON object and its text. Neither is in its repr, since both may hold secrets."""

    values: dict[str, object]
    text: str

    def line_of(self, key: str) -> int | None:
        """Return the line on which the last `key` of the outermost object stands."""
        return _key_lines(self.text).get(key) if self.text else None

    def __repr__(self) -> str:
        return f"<Document: {len(self.values)} keys>"

    def __rich_repr__(self) -> list[tuple[str, int]]:
        return [("keys", len(self.values))]


def read_document(path: Path) -> Document:
    """Read the JSON object in `path`; a file that is not there is an empty one. Raises UnreadableFileError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Document({}, "")
    except OSError as error:
        raise UnreadableFileError(path, f"it cannot be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableFileError(path, "it is not UTF-8 text", data.count(b"\n", 0, error.start) + 1) from error
    return Document(_parsed(path, text), text)


def write_document(path: Path, values: dict[str, object]) -> None:
    """Write `values` to `path`, a line each, whole or not at all, readable by the owner only. Raises OSError."""
    lines = (f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in values.items())
    write_private(path, "\n".join(("{", ",\n".join(lines), "}", "")).encode("ascii"))


def _parsed(path: Path, text: str) -> dict[str, object]:
    try:
        values = cast("object", json.loads(text, parse_float=_finite, parse_constant=_refuse))
    except json.JSONDecodeError as error:
        raise UnreadableFileError(path, f"invalid JSON: {error.msg} (column {error.colno})", error.lineno) from error
    except (ValueError, RecursionError) as error:  # a number too large to hold, or brackets nested too deep
        raise UnreadableFileError(path, f"invalid JSON: {error}") from error
    if not isinstance(values, dict):
        raise UnreadableFileError(path, "expected a JSON object, {…}", 1)
    return cast("dict[str, object]", values)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _key_lines(text: str) -> dict[str, int]:
    """Walk the outermost object of `text`, which is valid JSON."""
    decoder = json.JSONDecoder()
    lines: dict[str, int] = {}
    position = _after_space(text, text.index("{") + 1)
    while text[position] != "}":
        line = text.count("\n", 0, position) + 1
        key, position = decoder.raw_decode(text, position)
        lines[key] = line
        position = _after_space(text, _after_space(text, position) + 1)  # the colon
        _, position = decoder.raw_decode(text, position)
        position = _after_space(text, position)
        if text[position] == ",":
            position = _after_space(text, position + 1)
    return lines


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None  # the pattern matches nothing, too
    return match.end()

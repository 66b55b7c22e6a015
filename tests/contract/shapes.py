"""The shape of JSON: names and types, and no text of it. `id?` is a field that not every one of a list has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import cast

from .notation import MAP, Form

Shape = str | Mapping[str, "Shape"] | Sequence["Shape"]

NULL = "null"
NAMES: Mapping[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}


def shape_of(value: object) -> Shape:
    """Of a list, what all of its items are, merged."""
    if isinstance(value, dict):
        return {name: shape_of(inner) for name, inner in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        shapes = [shape_of(item) for item in cast("list[object]", value)]
        return [reduce(merged, shapes)] if shapes else []
    if value is None:
        return NULL
    return NAMES[type(value)]


def merged(one: Shape, other: Shape) -> Shape:
    """The shape of what is either."""
    if one == other or other == NULL:
        return one
    if one == NULL:
        return other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return dict(_merged_fields(one, other))
    if isinstance(one, list) and isinstance(other, list):
        items = [*one, *other]
        return [reduce(merged, items)] if items else []
    return "|".join(sorted({*str(one).split("|"), *str(other).split("|")}))


def _merged_fields(one: Mapping[str, Shape], other: Mapping[str, Shape]) -> Iterator[tuple[str, Shape]]:
    for name in dict.fromkeys(field.rstrip("?") for field in (*one, *other)):
        found = [shape[key] for shape in (one, other) for key in (name, f"{name}?") if key in shape]
        is_always = name in one and name in other
        yield name if is_always else f"{name}?", reduce(merged, found)


def differences(theirs: Shape, ours: Shape, at: str = "") -> Iterator[str]:
    """Where ours lacks what theirs has, or has it as another type; what we have besides does not matter."""
    if theirs in (NULL, [], ours):
        return
    if isinstance(theirs, Mapping):
        if not isinstance(ours, Mapping):
            yield f"{at or '.'}: an object is {_name(ours)}"
            return
        for name, inner in theirs.items():
            field = name.rstrip("?")
            found = ours.get(field, ours.get(f"{field}?"))
            if found is not None:
                yield from differences(inner, found, f"{at}.{field}")
            elif name == field:
                yield f"{at}.{field}: is missing"
    elif not isinstance(theirs, str):
        if not isinstance(ours, list):
            yield f"{at or '.'}: a list is {_name(ours)}"
        elif ours:
            yield from differences(theirs[0], ours[0], f"{at}[]")
    elif not isinstance(ours, str) or not set(ours.split("|")) <= {*theirs.split("|"), *_narrower(theirs)}:
        yield f"{at or '.'}: {theirs} is {_name(ours)}"


def missing(form: Form, ours: Shape, at: str = "") -> Iterator[str]:
    """Where ours lacks what the contract's notation names, or has it as another type."""
    if isinstance(ours, list):
        if ours:
            yield from missing(form, ours[0], at)
    elif not isinstance(ours, Mapping):
        yield f"{at or '.'}: an object is {_name(ours)}"
    elif set(form) == {MAP}:
        for name, inner in ours.items():
            yield from missing(cast("Form", form[MAP]), inner, f"{at}.{name}")
    else:
        for name, kind in form.items():
            field = name.rstrip("?")
            found = ours.get(field, ours.get(f"{field}?"))
            if found is not None:
                yield from _other(kind, found, f"{at}.{field}")
            elif name == field:
                yield f"{at}.{field}: is missing"


def _other(kind: object, ours: Shape, at: str) -> Iterator[str]:
    """Where a field is not of the kind that the contract's notation says."""
    if isinstance(kind, str):
        yield from differences(kind, ours, at)
    elif isinstance(kind, list):
        if not isinstance(ours, list):
            yield f"{at}: a list is {_name(ours)}"
        for inner in cast("list[Form]", kind):
            yield from missing(inner, ours, f"{at}[]")
    elif kind:
        yield from missing(cast("Form", kind), ours, at)


def _narrower(name: str) -> set[str]:
    return {"integer"} if "number" in name else set()


def _name(shape: Shape) -> str:
    return shape if isinstance(shape, str) else "an object" if isinstance(shape, Mapping) else "a list"

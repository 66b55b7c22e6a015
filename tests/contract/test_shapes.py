"""What differs between two shapes is found, and nothing else."""

from __future__ import annotations

import pytest

from .shapes import differences, missing, shape_of

THEIRS = {"id": "a", "n": 1, "cost": 0.5, "none": None, "list": [{"x": 1, "y": "a"}, {"x": 2}], "empty": []}


def test_a_shape_has_types_and_no_texts() -> None:
    assert shape_of(THEIRS) == {
        "id": "string",
        "n": "integer",
        "cost": "number",
        "none": "null",
        "list": [{"x": "integer", "y?": "string"}],
        "empty": [],
    }
    assert shape_of([1, None, "a"]) == ["integer|string"]


@pytest.mark.parametrize(
    ("ours", "found"),
    [
        (THEIRS, []),
        ({**THEIRS, "more": 1, "none": "text", "cost": 1, "empty": ["a"], "list": []}, []),
        ({**THEIRS, "list": [{"x": 1}]}, []),
        ({**THEIRS, "id": 7}, [".id: string is integer"]),
        ({**THEIRS, "id": None}, [".id: string is null"]),
        ({**THEIRS, "list": {}}, [".list: a list is an object"]),
        ({**THEIRS, "list": [{"x": "a", "y": 1}]}, [".list[].x: integer is string", ".list[].y: string is integer"]),
        ({name: value for name, value in THEIRS.items() if name != "n"}, [".n: is missing"]),
        ([], [".: an object is a list"]),
    ],
)
def test_what_theirs_has_and_ours_has_not_is_found(ours: object, found: list[str]) -> None:
    assert list(differences(shape_of(THEIRS), shape_of(ours))) == found


FORM = {"ok": "boolean", "rows": [{"id": None}], "by": {"*": {"count": None}}, "note?": None}


EMPTY: dict[str, object] = {}


@pytest.mark.parametrize(
    ("ours", "found"),
    [
        ({"ok": True, "rows": [{"id": 1}], "by": {"m": {"count": 1}}}, []),
        ([{"ok": True, "rows": list(EMPTY), "by": EMPTY, "note": "x"}], []),
        ([], []),
        ({"ok": "yes", "rows": EMPTY, "by": {"m": EMPTY}}, [
            ".ok: boolean is string", ".rows: a list is an object", ".rows[].id: is missing", ".by.m.count: is missing",
        ]),
        ("text", [".: an object is string"]),
    ],
)  # fmt: skip
def test_what_the_notation_names_and_ours_has_not_is_found(ours: object, found: list[str]) -> None:
    assert list(missing(FORM, shape_of(ours))) == found

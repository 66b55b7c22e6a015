from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pocketpaw.actors.channels.telegram_text import utf16_units
from pocketpaw.actors.channels.text_parts import fence_after, split_text

LINES = st.sampled_from(
    [
        "a",
        "word and other words " * 3,
        "```",
        "```py",
        "~~~",
        "````",
        "",
        "x" * 90,
        "é😀" * 20,
        "Sentence ends. Another one! " * 4,
        "    indented",
        "- item",
        "has `code` in it",
    ]
)
FENCE_LINE = re.compile(r"(?m)^ {0,3}(?:`{3,}|~{3,})[^\n]*$")


def bare(text: str) -> str:
    """What a text says, without white space and fences."""
    return re.sub(r"[ \n]", "", FENCE_LINE.sub("", text))


@given(st.lists(LINES, max_size=40).map("\n".join), st.integers(60, 200))
def test_nothing_is_lost_nothing_is_too_long_and_code_blocks_are_whole(text: str, limit: int) -> None:
    parts = split_text(text, limit, utf16_units)
    for part in parts:
        assert utf16_units(part) <= limit
        assert part.strip()
        assert fence_after(part, None) is None
    assert bare("\n".join(parts)) == bare(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("short", ["short"]),
        ("one paragraph here\n\nand another one", ["one paragraph here", "and another one"]),
        ("one line of it\nanother line of it", ["one line of it", "another line of it"]),
        ("It ends here. It goes on for a while", ["It ends here. ", "It goes on for a while"]),
        ("words without any end at all", ["words without any end", "at all"]),
        ("x" * 30, ["x" * 24, "x" * 6]),
    ],
)
def test_a_text_is_cut_where_a_reader_would(text: str, parts: list[str]) -> None:
    assert [part.strip() for part in split_text(text, 24)] == [part.strip() for part in parts]


def test_a_code_block_is_closed_and_opened_again() -> None:
    text = "```python\n" + "\n".join(f"line {number}" for number in range(8)) + "\n```\nafter it"
    parts = split_text(text, 60)
    assert all(part.startswith("```python\nline") for part in parts)
    assert parts[0].endswith("\n```")
    assert parts[-1].endswith("\n```\nafter it")


def test_a_code_block_of_which_nothing_fits_begins_the_next_part() -> None:
    parts = split_text(f"{'x' * 30}\n```\n{'y' * 25}\n```", 45)
    assert parts == ["x" * 30, f"```\n{'y' * 25}\n```"]

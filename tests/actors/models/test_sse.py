"""Server-sent events come out whole however their bytes were cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pocketpaw.actors.models.sse import EventDecoder, EventTooLarge

STREAM = (
    'data: {"a": "é…🐾"}\r\n\r\n'  # CRLF
    ": a comment\n\n"
    "event: x\ndata:no space\n\n"
    "data: one\ndata: two\r\r"  # CR
    "id: 7\n\n"
    "data:\n\n"
).encode()
EVENTS = ['{"a": "é…🐾"}'.encode(), b"no space", b"one\ntwo", b""]


def decode(pieces: list[bytes]) -> list[bytes]:
    decoder = EventDecoder()
    return decode_into(decoder, pieces) + decoder.finish()


def decode_into(decoder: EventDecoder, pieces: list[bytes]) -> list[bytes]:
    return [event for piece in pieces for event in decoder.feed(piece)]


def test_every_line_ending_comment_and_missing_space_is_read() -> None:
    assert decode([STREAM]) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_where_the_bytes_were_cut_makes_no_difference(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert decode([STREAM[start:end] for start, end in pairwise(edges)]) == EVENTS


def test_bytes_one_by_one_make_no_difference() -> None:
    assert decode([STREAM[i : i + 1] for i in range(len(STREAM))]) == EVENTS


def test_an_event_whose_blank_line_is_missing_is_given_at_the_end() -> None:
    assert decode([b"data: last"]) == [b"last"]
    assert decode([b"data: last\r\n"]) == [b"last"]


def test_an_event_comes_as_soon_as_its_blank_line_does() -> None:
    decoder = EventDecoder()
    assert decoder.feed(b"data: x\n") == []
    assert decoder.feed(b"\n") == [b"x"]
    assert decoder.finish() == []


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 40, b"data: xxxxxxxxxx\n"])
def test_an_endless_event_is_refused(piece: bytes) -> None:
    decoder = EventDecoder(limit_bytes=100)
    with pytest.raises(EventTooLarge):
        decode_into(decoder, [piece] * 10)

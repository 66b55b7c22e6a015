"""What a process actor and its child say to each other: MessagePack arrays on the child's stdin and stdout.

| from | frame | meaning |
|---|---|---|
| parent | `["call", id, "module:Class", payload]` | handle this message |
| parent | `["cancel", id]` | nobody wants the rest of that answer |
| child | `["ready"]` | `on_start` is done |
| child | `["refuse", code, detail, data]` | `on_start` has failed in an expected way: the child ends after it |
| child | `["item", id, payload]` | one item of a stream |
| child | `["end", id, payload or nil]` | the answer, or the end of a stream |
| child | `["error", id, code, detail, data]` | an expected failure |
| child | `["crash", id, text]` | an unexpected one: the child ends after it |

The end of either pipe is the word to end: a child whose parent was killed sees its stdin close.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgpack

from .message import Message

_msgpack: Any = msgpack  # it has no types of its own

FRAME_LIMIT_BYTES = 64 * 2**20
"""A longer frame means that something else than us writes there."""


def pack(*frame: object) -> bytes:
    packed: Any = _msgpack.packb(frame)
    return packed


class NoFrame(Exception):
    """Something else than us has written on the pipe."""


class FrameReader:
    """Cuts what comes out of a pipe into frames; raises `NoFrame` at anything that is none."""

    def __init__(self) -> None:
        self._unpacker: Any = _msgpack.Unpacker(max_buffer_size=FRAME_LIMIT_BYTES)

    def feed(self, data: bytes | bytearray) -> Iterator[list[Any]]:
        """Take in `data`, and give the frames that are now whole."""
        try:
            self._unpacker.feed(data)
            for frame in self._unpacker:
                if not isinstance(frame, list) or not frame:
                    raise NoFrame(f"no frame: {frame!r:.80}")
                yield cast("list[Any]", frame)
        except (ValueError, _msgpack.UnpackException) as error:  # msgpack's own have two unrelated bases
            raise NoFrame(f"no frame: {bytes(data[:80])!r}") from error


def name_of(message_type: type[Message[Any]]) -> str:
    return f"{message_type.__module__}:{message_type.__qualname__}"

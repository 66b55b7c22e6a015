"""What a model server says went wrong, in its own words; see failures.py for what it means.

Whatever reads JSON of a server can raise `UNREADABLE`.
"""

from __future__ import annotations

import msgspec


class WireError(msgspec.Struct):
    """An error object; servers disagree on its shape, so nothing of it is relied on."""

    message: object = None
    type: object = None
    code: object = None
    n_prompt_tokens: object = None
    """llama.cpp's own, as the next, when a prompt is too long."""
    n_ctx: object = None


UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""No JSON, or not of the kind that was expected; no text; or brackets in brackets, deeper than Python's stack."""

COUNT_LIMIT = 10**12
"""A count beyond it is none, and could not be carried by a message; below it, sums can."""


def counted(number: object) -> int | None:
    """Give a count of a server's; None if it is none."""
    is_count = isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= COUNT_LIMIT
    return number if is_count else None  # pyright: ignore[reportReturnType] - it is an int


class ErrorInAnswer(Exception):
    """The server said 200 and then sent an error object, or ended the answer with one."""

    def __init__(self, error: WireError) -> None:
        super().__init__(str(error.message))
        self.error = error

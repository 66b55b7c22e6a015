"""What a model server says went wrong, in its own words; see failures.py for what it means."""

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


class ErrorInAnswer(Exception):
    """The server said 200 and then sent an error object, or ended the answer with one."""

    def __init__(self, error: WireError) -> None:
        super().__init__(str(error.message))
        self.error = error

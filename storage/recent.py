"""Answers of the readers that still hold, so that what is asked again and again is read once.

There is one writer, so a number that it raises with each commit tells whether anything has changed. What other programs
write into the file is seen after `FRESH_S`.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from ..runtime.message import Message

FRESH_S = 1.0
ENTRIES = 64
ENTRY_BYTES = 64 * 1024

Key = tuple[type[Message[Any]], bytes]
"""A query, and it encoded."""


class RecentAnswers:
    """Kept on the readers' threads, looked up in the loop, outdated by the writer's thread."""

    def __init__(self) -> None:
        self._generation = 0
        self._answers: dict[Key, tuple[int, float, bytes]] = {}
        self._keeping = threading.Lock()  # one reader at a time: who looks for the oldest must not see another come

    @property
    def generation(self) -> int:
        """What a reader notes before it reads."""
        return self._generation

    def outdate(self) -> None:
        """Something was written. To be called after the commit, and before anybody is told of it."""
        self._generation += 1

    def get(self, key: Key) -> bytes | None:
        """The encoded answer, if nothing was written since."""
        found = self._answers.get(key)
        if found is None:
            return None
        generation, read_at, answer = found
        holds = generation == self._generation and time.monotonic() - read_at < FRESH_S
        return answer if holds else None

    def keep(self, key: Key, generation: int, answer: bytes) -> None:
        """Keep an answer that was read when the generation was `generation`."""
        if len(key[1]) + len(answer) > ENTRY_BYTES:
            return
        with self._keeping:
            self._answers.pop(key, None)  # so that the order is that of their age
            self._answers[key] = (generation, time.monotonic(), answer)
            if len(self._answers) > ENTRIES:
                del self._answers[next(iter(self._answers))]

"""Who the agent is: Markdown texts in the home's `identity/` folder, put before every conversation."""

from __future__ import annotations

from pathlib import Path

import structlog
import trio

log = structlog.get_logger()

FILES = ("IDENTITY.md", "SOUL.md", "STYLE.md", "INSTRUCTIONS.md", "USER.md")
"""In the order in which the model reads them."""

DEFAULT = (
    "You are PocketPaw, a helpful assistant that runs on the user's own home server. Answer briefly and truthfully."
)
LIMIT_BYTES = 32 * 1024
"""Of each file: a longer one would leave no room for the conversation."""


class Identity:
    """The texts as they are on disk when they are asked for; those who ask together share a reading, in a thread.

    A file that cannot be read counts as it was when it last could: nobody is left without an answer for it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._texts: dict[str, str] = {}
        self._problems: dict[str, str] = {}
        self._text = DEFAULT
        self._asked = 0
        self._answered = 0  # who asked up to that number is answered with the text
        self._reading = trio.Lock()

    async def text(self) -> str:
        """What the files say; the default where they say nothing."""
        self._asked += 1
        number = self._asked
        async with self._reading:
            if number > self._answered:
                asked = self._asked
                texts = await trio.to_thread.run_sync(self._read)
                self._text, self._answered = "\n\n".join(texts) or DEFAULT, asked
        return self._text

    def _read(self) -> list[str]:
        for name in FILES:
            try:
                with (self._folder / name).open("rb") as file:
                    self._texts[name] = file.read(LIMIT_BYTES).decode(errors="replace").strip()
            except (FileNotFoundError, NotADirectoryError):
                self._texts.pop(name, None)
            except OSError as error:
                self._report(name, str(error))
                continue
            self._problems.pop(name, None)
        return [text for name in FILES if (text := self._texts.get(name))]

    def _report(self, name: str, problem: str) -> None:
        """Log what is wrong with a file, once and not with every turn."""
        if self._problems.get(name) != problem:
            self._problems[name] = problem
            log.warning("a text of the identity cannot be read", file=str(self._folder / name), reason=problem)

"""Who the agent is: Markdown texts in the home's `identity/` folder, put before every conversation."""

from __future__ import annotations

from pathlib import Path

import trio

FILES = ("IDENTITY.md", "SOUL.md", "STYLE.md", "INSTRUCTIONS.md", "USER.md")
"""In the order in which the model reads them."""

DEFAULT = (
    "You are PocketPaw, a helpful assistant that runs on the user's own home server. Answer briefly and truthfully."
)
LIMIT_BYTES = 32 * 1024
"""Of each file: a longer one would leave no room for the conversation."""

FRESH_S = 1.0


class Identity:
    """The texts as they are on disk, read at most once a second and never in the loop's thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._text = DEFAULT
        self._read_at = float("-inf")

    async def text(self) -> str:
        """What the files say; the default where there are none."""
        now = trio.current_time()
        if now - self._read_at >= FRESH_S:
            self._read_at = now
            self._text = await trio.to_thread.run_sync(self._read) or DEFAULT
        return self._text

    def _read(self) -> str:
        texts: list[str] = []
        for name in FILES:
            try:
                with (self._folder / name).open("rb") as file:
                    texts.append(file.read(LIMIT_BYTES).decode(errors="replace").strip())
            except FileNotFoundError:
                continue
        return "\n\n".join(text for text in texts if text)

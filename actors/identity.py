"""Who the agent is: Markdown texts in the home's `identity/` folder, put before every conversation.

A file that is missing stands for its default; an empty one says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec
import structlog
import trio
from msgspec import UNSET, UnsetType

from ..config import Home
from ..config.private_file import write_private
from ..runtime import Actor, Message
from ..runtime.errors import InvalidInput, Unavailable

log = structlog.get_logger()

LIMIT_BYTES = 32 * 1024
"""Of each file: a longer one would leave no room for the conversation."""

DEFAULTS: Mapping[str, str] = {
    "IDENTITY.md": (
        "You are PocketPaw, a helpful assistant that runs on the user's own home server. Answer briefly and truthfully."
    ),
    "SOUL.md": (
        "You are on the user's side: honest, kind and calm. What you learn about them stays with them. If you do not "
        "know something, say so."
    ),
    "STYLE.md": "Answer in the user's language. Say the answer first, then only what helps.",
    "INSTRUCTIONS.md": (
        "Do what is asked and no more. Ask when it could be meant in different ways, and before anything that cannot "
        "be undone."
    ),
    "USER.md": "",
}
"""What the files say while they are not there, in the order in which the model reads them."""

BRIEF = "You are PocketPaw, a helpful assistant that runs on the user's own home server. Answer briefly and truthfully."

DEFAULT = "\n\n".join(text for text in DEFAULTS.values() if text)


class Identity:
    """The texts as they are on disk when they are asked for; those who ask together share a reading, in a thread.

    A file that cannot be read counts as it was when it last could: nobody is left without an answer for it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._texts: dict[str, str] = {}
        self._problems: dict[str, str] = {}
        self._asked = 0
        self._answered = 0  # who asked up to that number is answered with the texts
        self._reading = trio.Lock()

    async def text(self, *, is_brief: bool = False) -> str:
        """What the files say together; where nobody has written any, a small model is told the least, `is_brief`."""
        told = await self.texts()
        if is_brief and told == DEFAULTS:
            return BRIEF
        return "\n\n".join(text.strip() for text in told.values() if text.strip()) or DEFAULT

    async def texts(self) -> dict[str, str]:
        """What each of the files says, in the order in which the model reads them."""
        self._asked += 1
        number = self._asked
        async with self._reading:
            if number > self._answered:
                asked = self._asked
                self._texts, self._answered = await trio.to_thread.run_sync(self._read), asked
        return dict(self._texts)

    def _read(self) -> dict[str, str]:
        texts: dict[str, str] = {}
        for name, default in DEFAULTS.items():
            try:
                with (self._folder / name).open("rb") as file:
                    texts[name] = file.read(LIMIT_BYTES).decode(errors="replace")
            except (FileNotFoundError, NotADirectoryError):
                texts[name] = default
            except OSError as error:
                texts[name] = self._texts.get(name, default)
                self._report(name, str(error))
                continue
            self._problems.pop(name, None)
        return texts

    def _report(self, name: str, problem: str) -> None:
        """Log what is wrong with a file, once and not with every turn."""
        if self._problems.get(name) != problem:
            self._problems[name] = problem
            log.warning("a text of the identity cannot be read", file=str(self._folder / name), reason=problem)


class IdentityTexts(msgspec.Struct, frozen=True):
    """The five texts, Markdown; one that nobody has written is the default, which the model is told all the same."""

    identity_file: str
    soul_file: str
    style_file: str
    instructions_file: str
    user_file: str


class GetIdentity(Message[IdentityTexts], to="identity"):
    """Who the agent is: the texts that stand before every conversation."""


class IdentityChanged(msgspec.Struct, frozen=True):
    ok: bool
    updated: list[str]


class ChangeIdentity(Message[IdentityChanged], to="identity"):
    """Write some of the texts that say who the agent is; the next turn uses them.

    An empty text says nothing; null takes the file away, which leaves its default. Each may have 32 KiB.
    """

    identity_file: str | UnsetType | None = UNSET
    soul_file: str | UnsetType | None = UNSET
    style_file: str | UnsetType | None = UNSET
    instructions_file: str | UnsetType | None = UNSET
    user_file: str | UnsetType | None = UNSET


_FILES = dict(zip(IdentityTexts.__struct_fields__, DEFAULTS, strict=True))
"""The file of each field."""


class HomeSource(Protocol):
    @property
    def home(self) -> Home: ...


class IdentityKeeper(Actor):
    """Shows and writes the texts, one change after the other; the disk is waited for off the loop."""

    def __init__(self, live: HomeSource) -> None:
        super().__init__()
        self._folder = live.home.identity
        self._identity = Identity(self._folder)

    async def get_identity(self, message: GetIdentity) -> IdentityTexts:
        texts = await self._identity.texts()
        return IdentityTexts(**{field: texts[name] for field, name in _FILES.items()})

    async def change_identity(self, message: ChangeIdentity) -> IdentityChanged:
        changes: dict[str, bytes | None] = {}
        for field in _FILES:
            text: str | UnsetType | None = getattr(message, field)
            if text is not UNSET:
                changes[field] = None if text is None else _checked(field, text)
        await trio.to_thread.run_sync(self._write, changes)
        return IdentityChanged(ok=True, updated=list(changes))

    def _write(self, changes: Mapping[str, bytes | None]) -> None:
        for field, data in changes.items():
            path = self._folder / _FILES[field]
            try:
                self._folder.mkdir(mode=0o700, exist_ok=True)
                if data is None:
                    path.unlink(missing_ok=True)
                else:
                    write_private(path, data)
            except OSError as error:
                raise Unavailable(f"{field} could not be saved to {path}: {error.strerror}", path=str(path)) from error


def _checked(field: str, text: str) -> bytes:
    data = text.encode()
    if len(data) > LIMIT_BYTES:
        raise InvalidInput(
            f"expected at most {LIMIT_BYTES:,} bytes of UTF-8, which is what the model reads of it, got {len(data):,}",
            field=field,
        )
    return data

"""A home of PocketPaw 0.4: where it is, and how its files are read. Nothing is ever written there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from ...runtime.errors import NotFound

T = TypeVar("T")

LIMIT_BYTES = 64 * 1024 * 1024
"""Of a file: a session of ten thousand messages has some 10 MB."""

MARKS = ("config.json", "memory", "reminders.json", "intentions.json", "identity", "secrets.enc")
"""Each of them is of a home; one is enough."""

TAKEN_FROM = {
    *MARKS, ".salt", "mcp_servers.json", "api_keys.json",
}  # fmt: skip
OWN_FILES = {
    "access_token", "daemon.lock", "pocketpaw.db", "pocketpaw.db-wal", "pocketpaw.db-shm", "config.json.last-good",
    "logs", "uploads", "vault", "vault.key",
}  # fmt: skip
"""What only means something in the home that it is in."""

REASONS = {
    "skills": "install each with `POST skills/install`, whose source is its folder",
    "kits": "kits are others here: install them from the catalogue",
    "audit.jsonl": "it is the record of what was done there",
    "traces": "traces are not kept here",
    "soul": "the soul engine's state has no counterpart here; its identity texts are taken",
    "mission_control": "there is no mission control here",
    "deep_work": "there is no deep work here",
    "channels": "pair your chats anew",
    "mcp_oauth": "log in to those servers anew",
}


class Remark(msgspec.Struct, frozen=True):
    """Something about one thing of the old home."""

    name: str
    reason: str


class Unreadable(Exception):
    """Something in the old home is not what PocketPaw writes; the text says what."""


def find_home(path: str) -> Path:
    """The home at a path, or in the folder `.pocketpaw` there. Raises: NotFound."""
    folder = _expanded(path)
    for home in (folder, folder / ".pocketpaw"):
        if home.is_absolute() and any(_is_there(home / mark) for mark in MARKS):
            return home
    raise NotFound("there is no PocketPaw home: expected the full path of a folder such as ~/.pocketpaw", path=path)


def left_aside(home: Path) -> list[Remark]:
    """What in the home is not looked at, and why. Raises: Unreadable."""
    names = [shown(path.name) for path in entries(home) if not path.name.startswith(".")]
    others = [name for name in names if name not in TAKEN_FROM | OWN_FILES]
    return [Remark(name, REASONS.get(name, "there is nothing here that it would belong to")) for name in others]


def entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing if it is not there. Raises: Unreadable."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Unreadable(f"its folder cannot be listed: {error.strerror}") from error


def shown(name: str) -> str:
    """A file's name as text: it may have bytes that are none."""
    return os.fsencode(name).decode(errors="replace")


def read_json(path: Path, kind: type[T]) -> T | None:
    """Read a JSON file; None if it is not there. Raises: Unreadable."""
    data = read_bytes(path)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"it cannot be read: {error}") from None


def read_bytes(path: Path) -> bytes | None:
    """Read a file; None if it is not there. Raises: Unreadable."""
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Unreadable(f"it cannot be read: {error.strerror}") from error
    if len(data) > LIMIT_BYTES:
        raise Unreadable(f"it has more than {LIMIT_BYTES // 1024 // 1024} MiB")
    return data


def read_entries(raw: list[msgspec.Raw], kind: type[T], left: list[Remark]) -> Iterator[T]:
    """Yield the entries of a list that can be read; the others are remarked on in `left`."""
    for number, entry in enumerate(raw, 1):
        try:
            yield msgspec.json.decode(entry, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            left.append(Remark(f"entry {number}", f"it cannot be read: {error}"))


def read_time(text: str) -> datetime:
    """A time as PocketPaw writes it, in UTC; one without a zone is by the machine's clock. Raises: ValueError."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (OverflowError, OSError) as error:  # in the year 1, or so
        raise ValueError(f"{text!r} is no time of this age") from error


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # the home of nobody that is known
        return Path(path)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # not for us to see, or no name that a file can have
        return False

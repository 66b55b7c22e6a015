"""What was said in a home of PocketPaw 0.4, and what was remembered: its file store's JSON and Markdown."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import msgspec

from ...storage.imports import ImportedMessage
from ...storage.memories import MAX_TAGS
from .old_files import Remark, Unreadable, entries, read_bytes, read_entries, read_json, read_time, shown

INDEX = "_index.json"
ROLES = ("user", "assistant", "system")
MEMORY_LIMIT = 5_000
TAG_LIMIT = 50
TITLE_LIMIT = 200

_CHANNEL = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SESSION_ID = re.compile(r"[A-Za-z0-9:._-]{1,128}")
_SECTION = re.compile(r"\n(?=##+ )")
_TAG_LINE = re.compile(r"(#\w+\s*)+")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_PLAIN_HEADERS = re.compile(r"Memory|\d\d:\d\d")


class OldSession(msgspec.Struct, frozen=True):
    """`id` is the name of its file, by which its clients know it."""

    id: str
    title: str | None
    channel: str
    messages: list[ImportedMessage]
    remarks: list[Remark]


class OldMemory(msgspec.Struct, frozen=True):
    content: str
    tags: list[str]
    created_at: datetime


class _IndexEntry(msgspec.Struct, frozen=True):
    title: str = ""
    channel: str = ""


class _Said(msgspec.Struct, frozen=True):
    role: str
    content: str
    timestamp: str
    id: str = ""


Index = dict[str, _IndexEntry]


def session_files(home: Path) -> list[Path]:
    """Raises: Unreadable."""
    files = entries(home / "memory" / "sessions")
    return [path for path in files if path.suffix == ".json" and not path.name.startswith("_")]


def read_index(home: Path) -> Index:
    """What is known of each session besides what was said in it. Raises: Unreadable."""
    return read_json(home / "memory" / "sessions" / INDEX, Index) or {}


def read_session(path: Path, index: Index) -> OldSession:
    """Raises: Unreadable."""
    entry = index.get(path.stem, _IndexEntry())
    remarks: list[Remark] = []
    raw = read_json(path, list[msgspec.Raw]) or []
    messages = [
        message
        for number, said in enumerate(read_entries(raw, _Said, remarks))
        if (message := _message(said, number, remarks)) is not None
    ]
    if not messages:
        raise Unreadable("nothing is said in it")
    channel = entry.channel or path.stem.partition("_")[0]
    if not _CHANNEL.fullmatch(channel):
        channel = "imported"
    return OldSession(_session_id(path.stem), entry.title[:TITLE_LIMIT] or None, channel, messages, remarks)


def read_memories(home: Path, left: list[Remark]) -> Iterator[OldMemory]:
    """Yield what is in MEMORY.md and in the daily notes. The former says no times: those are its file's.

    Raises: Unreadable.
    """
    folder = home / "memory"
    notes = [path for path in entries(folder) if path.suffix == ".md" and _DAY.fullmatch(path.stem)]
    files = [folder / "MEMORY.md", *notes]
    for path in files:
        try:
            data = read_bytes(path)
        except Unreadable as error:
            left.append(Remark(path.name, str(error)))
            continue
        if data is not None:
            changed_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            yield from _sections(path, data.decode(errors="replace"), changed_at, left)
    left += [
        Remark(f"users/{shown(path.parent.name)}", "memories of other people are not kept here")
        for path in sorted(folder.glob("users/*/MEMORY.md"))
    ]


def _message(said: _Said, number: int, remarks: list[Remark]) -> ImportedMessage | None:
    if said.role not in ROLES:
        remarks.append(Remark(f"message {number + 1}", f"its role {said.role[:40]!r} is not known here"))
        return None
    try:
        moment = read_time(said.timestamp)
    except ValueError:
        remarks.append(Remark(f"message {number + 1}", f"its time {said.timestamp[:40]!r} is none"))
        return None
    role = cast("str", said.role)
    return msgspec.convert(
        {"id": said.id or str(number), "role": role, "content": said.content, "created_at": moment}, ImportedMessage
    )


def _session_id(stem: str) -> str:
    """The same for the same file; as it is there if it can be one here."""
    if _SESSION_ID.fullmatch(stem):
        return stem
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', stem)[:80]}-{hashlib.sha256(os.fsencode(stem)).hexdigest()[:12]}"


def _sections(path: Path, text: str, changed_at: datetime, left: list[Remark]) -> Iterator[OldMemory]:
    for section in _SECTION.split(f"\n{text}"):
        header, _, body = section.strip().partition("\n")
        header = header.lstrip("#").strip()
        content, tags = _without_tags(body.strip())
        if not content:
            continue
        if not _PLAIN_HEADERS.fullmatch(header):
            content = f"{header}: {content}"
        if len(content) > MEMORY_LIMIT:
            left.append(Remark(f"{path.name}: {header}", f"it is longer than the {MEMORY_LIMIT:,} characters of one"))
            continue
        yield OldMemory(content, tags, _noted_at(path, header) or changed_at)


def _without_tags(body: str) -> tuple[str, list[str]]:
    """PocketPaw puts the tags into the last line."""
    content, _, last = body.rpartition("\n")
    if not content or not _TAG_LINE.fullmatch(last.strip()):
        return body, []
    tags = dict.fromkeys(tag[:TAG_LIMIT] for tag in re.findall(r"#(\w+)", last))
    return content.strip(), list(tags)[:MAX_TAGS]


def _noted_at(path: Path, header: str) -> datetime | None:
    """When a daily note was made: the day is the file's, the time, in UTC, the header's."""
    try:
        return datetime.strptime(f"{path.stem} {header}", "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
    except ValueError:
        return None

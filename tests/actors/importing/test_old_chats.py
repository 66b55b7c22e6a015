"""Sessions and memories of PocketPaw 0.4 as its files have them, in good order and in bad."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pocketpaw.actors.importing.old_chats import OldMemory, read_index, read_memories, read_session, session_files
from pocketpaw.actors.importing.old_files import Remark, Unreadable


def write_session(home: Path, stem: str, *said: object) -> Path:
    path = home / "memory" / "sessions" / f"{stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(said))
    return path


def said(role: str = "user", content: str = "hi", timestamp: str = "2026-01-01T10:00:00+00:00") -> dict[str, str]:
    return {"role": role, "content": content, "timestamp": timestamp}


def test_a_session_keeps_its_name_roles_and_times(tmp_path: Path) -> None:
    path = write_session(tmp_path, "telegram_7", said(), said("assistant", "hello", "2026-01-01T10:00:05.5+02:00"))
    index = {"telegram_7": {"title": "Greetings", "channel": "telegram", "message_count": 2}}
    write_session(tmp_path, "_index").write_text(json.dumps(index))
    assert session_files(tmp_path) == [path]
    session = read_session(path, read_index(tmp_path))
    assert (session.id, session.title, session.channel) == ("telegram_7", "Greetings", "telegram")
    first, second = session.messages
    assert (first.id, first.role, first.content) == ("0", "user", "hi")
    assert (second.id, second.role) == ("1", "assistant")
    assert second.created_at == datetime(2026, 1, 1, 8, 0, 5, 500_000, UTC)
    assert session.remarks == []


def test_a_time_without_a_zone_is_by_the_machines_clock(tmp_path: Path) -> None:
    path = write_session(tmp_path, "websocket_1", said(timestamp="2026-01-01T10:00:00"))
    (message,) = read_session(path, {}).messages
    assert message.created_at == datetime(2026, 1, 1, 10).astimezone()
    assert message.created_at.tzinfo is not None


@pytest.mark.parametrize("timestamp", ["", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_cannot_be_kept_is_told(tmp_path: Path, timestamp: str) -> None:
    session = read_session(write_session(tmp_path, "s", said(), said(timestamp=timestamp)), {})
    assert len(session.messages) == 1
    assert [remark.reason for remark in session.remarks] == [f"its time {timestamp!r} is none"]


def test_a_channel_that_is_no_name_is_not_kept(tmp_path: Path) -> None:
    path = write_session(tmp_path, "s", said())
    write_session(tmp_path, "_index").write_text(json.dumps({"s": {"channel": "a\0b", "title": "x" * 300}}))
    session = read_session(path, read_index(tmp_path))
    assert (session.channel, session.title) == ("imported", "x" * 200)


def test_a_name_that_no_session_can_have_here_becomes_one_and_always_the_same(tmp_path: Path) -> None:
    names = [f"matrix_!{room}@ü.example" for room in ("one", "two")]
    ids = [read_session(write_session(tmp_path, name, said()), {}).id for name in names]
    assert ids == [read_session(write_session(tmp_path, name, said()), {}).id for name in names]
    assert len(set(ids)) == 2
    assert all(one.startswith("matrix_-") and len(one) <= 128 and one.isascii() for one in ids)


def test_what_cannot_be_a_message_is_remarked_on_and_left(tmp_path: Path) -> None:
    path = write_session(tmp_path, "s", said(), said("tool"), said(timestamp="soon"), 7, {"role": "user"})
    session = read_session(path, {})
    assert len(session.messages) == 1
    assert {remark.name for remark in session.remarks} == {"entry 4", "entry 5", "message 2", "message 3"}
    with pytest.raises(Unreadable, match="nothing is said"):
        read_session(write_session(tmp_path, "empty"), {})
    path.write_text("{}")
    with pytest.raises(Unreadable, match="cannot be read"):
        read_session(path, {})


def memories(home: Path) -> tuple[list[OldMemory], list[Remark]]:
    left: list[Remark] = []
    return list(read_memories(home, left)), left


def test_memories_keep_their_tags_and_notes_their_times(tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    folder.mkdir()
    text = "\n\n## Memory\n\nLikes tea.\n\n#drink #home\n\n## Diet\n\nNo nuts,\n#1 rule\n\n## Memory\n\n#only #tags"
    (folder / "MEMORY.md").write_text(text)
    (folder / "2026-02-03.md").write_text("## 18:45\n\nCalled Bob.\n\n### about\n\nchess")
    found, left = memories(tmp_path)
    changed_at = datetime.fromtimestamp((folder / "MEMORY.md").stat().st_mtime, UTC)
    assert [(one.content, one.tags) for one in found] == [
        ("Likes tea.", ["drink", "home"]),
        ("Diet: No nuts,\n#1 rule", []),
        ("#only #tags", []),
        ("Called Bob.", []),
        ("about: chess", []),
    ]
    assert found[0].created_at == changed_at
    assert found[3].created_at == datetime(2026, 2, 3, 18, 45, tzinfo=UTC)
    assert left == []


def test_what_is_no_memory_here_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    (folder / "users" / "abc").mkdir(parents=True)
    (folder / "users" / "abc" / "MEMORY.md").write_text("## Memory\n\nOf another.")
    (folder / "MEMORY.md").write_text(f"## Memory\n\n{'x' * 5_001}\n\n## Memory\n\nshort")
    (folder / "notes.md").write_text("## Memory\n\nnobody's")
    found, left = memories(tmp_path)
    assert [one.content for one in found] == ["short"]
    assert [remark.name for remark in left] == ["MEMORY.md: Memory", "users/abc"]
    assert memories(tmp_path / "nowhere") == ([], [])

"""What outlives a connection to Discord's gateway, and the file that it is in."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pocketpaw.actors.channels.discord_session import KNOWN_CHANNELS, RESUMABLE_S, KnownChannel, Session, SessionFile
from structlog.testing import capture_logs


def test_a_session_is_resumable_for_as_long_as_discord_keeps_it() -> None:
    session = Session()
    assert not session.is_resumable
    session.begin("s1", "wss://there", "1000")
    session.advance(1)
    assert session.is_resumable
    session.alive_at = time.time() - RESUMABLE_S - 1
    assert not session.is_resumable
    session.alive_at = time.time() + 2 * RESUMABLE_S  # the clock was set back
    assert not session.is_resumable


def test_the_sequence_never_goes_back() -> None:
    session = Session()
    for seq in (1, 3, 2, None):
        session.advance(seq)
    assert session.seq == 3


def test_only_channels_from_which_something_was_heard_are_known() -> None:
    session = Session()
    assert not session.note("7", "100", None, is_heard=False)
    assert session.channels == {}
    assert session.note("7", "101", "5", is_heard=True)
    assert not session.note("7", "105", "5", is_heard=False)
    session.note("7", "103", "5", is_heard=True)  # late
    assert session.channels == {"7": KnownChannel("105", "5")}


def test_the_channels_where_it_is_quiet_are_forgotten_first() -> None:
    session = Session()
    for number in range(KNOWN_CHANNELS):
        session.note(str(number), "1", None, is_heard=True)
    session.note("0", "2", None, is_heard=False)
    session.note("new", "3", None, is_heard=True)
    assert len(session.channels) == KNOWN_CHANNELS
    assert "0" in session.channels
    assert "1" not in session.channels


def test_a_new_session_leaves_gaps_that_further_ones_do_not_move() -> None:
    session = Session()
    session.begin("s1", "wss://there", "1000")
    session.note("7", "100", None, is_heard=True)
    assert session.gaps == []
    session.begin("s2", "wss://there", "1000")
    session.note("7", "200", None, is_heard=True)
    session.begin("s3", "wss://there", "1000")
    assert [(channel_id, known.gap_after) for channel_id, known in session.gaps] == [("7", "100")]


def test_another_bot_knows_nothing_of_it() -> None:
    session = Session()
    session.begin("s1", "wss://there", "1000")
    session.note("7", "100", None, is_heard=True)
    session.role_ids.add("1001")
    session.begin("s2", "wss://there", "1000")
    assert (list(session.channels), session.role_ids) == (["7"], {"1001"})
    session.begin("s3", "wss://there", "2000")
    assert (list(session.channels), session.role_ids) == ([], set())


async def test_a_session_is_kept_in_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    file = SessionFile(tmp_path / "channels" / "session.json")
    assert await file.load() == Session()
    session = Session(id="s1", seq=3, resume_url="wss://there", alive_at=1.0, user_id="1000", role_ids={"1001"})
    session.note("7", "100", "5", is_heard=True)
    await file.save(session)
    assert await file.load() == session
    assert file.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"seq": "x"}',
        b"\xff\xfe",
        b'{"id": "\xff"}',
        b'{"channels": {"7": {"latest": "x"}}}',
        b'{"x": ' + b"[" * 100_000,
    ],
    ids=range(8),
)
async def test_a_damaged_file_costs_the_resumption_only_and_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "session.json"
    path.write_bytes(content)
    with capture_logs() as logs:
        assert await SessionFile(path).load() == Session()
    assert [line["event"] for line in logs] == ["the Discord session cannot be resumed"]


async def test_a_disk_that_takes_nothing_is_said_and_survived(tmp_path: Path) -> None:
    (tmp_path / "channels").write_text("a file where the folder should be")
    with capture_logs() as logs:
        await SessionFile(tmp_path / "channels" / "session.json").save(Session(id="s1"))
    assert [line["event"] for line in logs] == ["the Discord session is not kept"]

"""A database has one daemon at a time, whatever home that has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pocketpaw.runtime.errors import NeedsOperator, Unavailable
from pocketpaw.storage.database import open_database

HOLD = """
import sys
from pocketpaw.storage.database import open_database
opened = open_database(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/pocketpaw.db"


def test_a_second_daemon_is_told_and_comes_in_when_the_first_has_gone(url: str) -> None:
    first = open_database(url)
    for _ in range(2):
        with pytest.raises(NeedsOperator, match="in use by another pocketpaw"):
            open_database(url)
    first.close()
    open_database(url).close()


def test_a_daemon_that_was_killed_holds_nothing(url: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(NeedsOperator):
            open_database(url)
        process.kill()
        process.wait()
        open_database(url).close()


def test_where_there_can_be_no_lock_that_is_said(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(Unavailable, match=r"pocketpaw\.db\.made cannot be locked: No locks available"):
        open_database(url)
    monkeypatch.undo()
    (tmp_path / "pocketpaw.db.made").unlink()
    (tmp_path / "pocketpaw.db.made").mkdir()
    with pytest.raises(Unavailable, match=r"pocketpaw\.db\.made cannot be locked: Is a directory"):
        open_database(url)

"""A corpus of damaged files: each is reported, copied aside, and left byte for byte as it was."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from pocketpaw.runtime.errors import PocketPawError, Unavailable
from pocketpaw.storage.database import open_database
from pocketpaw.storage.failures import DatabaseDamaged
from pocketpaw.storage.group import run_batch
from pocketpaw.storage.registry import answer
from pocketpaw.storage.sessions import ListSessions
from sqlalchemy.engine import make_url

from .test_turns import question


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A closed database with 200 turns."""
    path = tmp_path / "pocketpaw.db"
    database = open_database(f"sqlite:///{path}")
    with database.connect_writer() as writer:
        run_batch(writer, [question(f"t-{number}", content=f"message {number} " * 20) for number in range(200)])
    database.close()
    return path


def cut_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def cut_middle(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_page(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


def flip_header(path: Path) -> None:
    overwrite(path, 0, b"\xff" * 16)


def flip_schema(path: Path) -> None:
    overwrite(path, 100, b"\xff" * 400)


def flip_pages(path: Path) -> None:
    for page in range(2, path.stat().st_size // 4096):
        overwrite(path, page * 4096, b"\x5a" * 64)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    path.write_bytes(b'{"sessions": []}' * 1000)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


DAMAGES = [cut_header, cut_middle, cut_page, flip_header, flip_schema, flip_pages, empty, foreign, zeros]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_copied_aside_and_left_alone(file: Path, damage: Callable[[Path], None]) -> None:
    damage(file)
    before = file.read_bytes()
    with pytest.raises(DatabaseDamaged) as caught:
        open_database(f"sqlite:///{file}")
    assert file.read_bytes() == before
    assert caught.value.path == file
    assert caught.value.copy is not None
    assert caught.value.copy.name.startswith("pocketpaw.db.corrupt-2")
    assert caught.value.copy.read_bytes() == before
    assert caught.value.reason in caught.value.detail


def test_every_start_on_the_same_damage_names_the_same_copy(file: Path) -> None:
    flip_pages(file)
    copies = set[Path | None]()
    for _ in range(3):
        with pytest.raises(DatabaseDamaged) as caught:
            open_database(f"sqlite:///{file}")
        copies.add(caught.value.copy)
    assert len(copies) == 1
    overwrite(file, 5000, b"more")
    with pytest.raises(DatabaseDamaged) as caught:
        open_database(f"sqlite:///{file}")
    assert caught.value.copy not in copies


def test_opening_the_database_once_more_leaves_the_locks_of_those_who_have_it_open(file: Path) -> None:
    """As a writer that is started anew does, while readers are at work."""
    look = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT 1 FROM turns').fetchone(); c.close()"
    )
    database = open_database(f"sqlite:///{file}")
    with database.connect_reader() as reader:
        answer(reader, ListSessions())
        database.close()
        again = open_database(f"sqlite:///{file}")
        with again.connect_writer() as writer:
            subprocess.run([sys.executable, "-c", look, str(file)], check=True)
            run_batch(writer, [question("t-new", content="new")])
            with closing(sqlite3.connect(file)) as other:
                assert other.execute("SELECT count(*) FROM turns WHERE id = 't-new'").fetchone() == (1,)
    again.close()


def test_a_log_without_its_file_is_damage(file: Path) -> None:
    log = file.with_name("pocketpaw.db-wal")
    log.write_bytes(b"frames" * 100)
    file.unlink()
    with pytest.raises(DatabaseDamaged, match="gone") as caught:
        open_database(f"sqlite:///{file}")
    assert not file.exists()
    assert log.read_bytes() == b"frames" * 100
    assert caught.value.copy is not None
    assert caught.value.copy.with_name(f"{caught.value.copy.name}-wal").exists()


def test_a_file_that_was_there_before_is_not_made_anew(file: Path) -> None:
    file.unlink()
    with pytest.raises(DatabaseDamaged, match=r"gone \(to begin anew, delete .*pocketpaw.db.made too\)") as caught:
        open_database(f"sqlite:///{file}")
    assert (caught.value.path, caught.value.copy) == (file, None)
    assert not file.exists()
    file.with_name("pocketpaw.db.made").unlink()
    open_database(f"sqlite:///{file}").close()


def test_an_emptied_file_with_its_log_is_damage_even_without_the_mark(file: Path) -> None:
    file.with_name("pocketpaw.db.made").unlink()
    file.with_name("pocketpaw.db-wal").write_bytes(b"frames")
    empty(file)
    with pytest.raises(DatabaseDamaged, match="empty"):
        open_database(f"sqlite:///{file}")


def test_an_empty_file_that_never_held_data_is_new(tmp_path: Path) -> None:
    path = tmp_path / "pocketpaw.db"
    path.touch()
    open_database(f"sqlite:///{path}").close()
    assert path.stat().st_size > 0


def test_what_a_killed_daemon_left_in_the_log_is_read(file: Path, tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{file}")
    with database.connect_writer() as writer:
        run_batch(writer, [question("t-late", session_id="late")])
        left = tmp_path / "left"
        left.mkdir()
        for part in ("pocketpaw.db", "pocketpaw.db-wal", "pocketpaw.db.made"):
            shutil.copy(tmp_path / part, left / part)
    database.close()
    reopened = open_database(f"sqlite:///{left}/pocketpaw.db")
    with reopened.connect_reader() as reader:
        assert {session.id for session in answer(reader, ListSessions()).sessions} == {"s-1", "late"}
    reopened.close()


def test_a_damaged_file_and_its_log_are_both_left_alone(file: Path, tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{file}")
    left = tmp_path / "left"
    left.mkdir()
    with database.connect_writer() as writer:
        run_batch(writer, [question("t-late", session_id="late")])
        for part in ("pocketpaw.db", "pocketpaw.db-wal"):
            shutil.copy(tmp_path / part, left / part)
    database.close()
    flip_pages(left / "pocketpaw.db")
    before = [(left / part).read_bytes() for part in ("pocketpaw.db", "pocketpaw.db-wal")]
    with pytest.raises(DatabaseDamaged) as caught:
        open_database(f"sqlite:///{left}/pocketpaw.db")
    assert [(left / part).read_bytes() for part in ("pocketpaw.db", "pocketpaw.db-wal")] == before
    assert caught.value.copy is not None
    assert caught.value.copy.with_name(f"{caught.value.copy.name}-wal").read_bytes() == before[1]


def test_a_folder_in_the_place_of_the_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "pocketpaw.db").mkdir()
    with pytest.raises(DatabaseDamaged, match="cannot be read"):
        open_database(f"sqlite:///{tmp_path}/pocketpaw.db")


def test_a_database_locked_by_another_process_is_unavailable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM errors")
        monkeypatch.setattr("pocketpaw.storage.sqlite_file.BUSY_TIMEOUT_S", 0.05)
        with pytest.raises(Unavailable, match="another process holds it locked"):
            open_database(f"sqlite:///{file}")


@pytest.mark.skipif(sys.platform == "win32" or os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "expected"),
    [
        (0o000, 0o777, "DatabaseDamaged: it cannot be read"),
        (0o444, 0o555, "Unavailable: "),
    ],
)
def test_a_file_that_may_not_be_read_or_written_is_left_alone(
    file: Path, file_mode: int, folder_mode: int, expected: str
) -> None:
    before = file.read_bytes()
    for folder in file.parents:
        if folder.stat().st_uid == 0 and "pytest" in str(folder):
            folder.chmod(0o755)
    file.chmod(file_mode)
    file.parent.chmod(folder_mode)
    assert as_nobody(lambda: open_database(f"sqlite:///{file}").close()).startswith(expected)
    assert file.read_bytes() == before


def as_nobody(action: Callable[[], None]) -> str:
    """Run the action in a child of no privileges; return what it raised."""
    make_url("sqlite://").get_dialect()  # imported here, as the child may not read Python's own files
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgid(65534)
        os.setuid(65534)
        try:
            action()
            said = "nothing"
        except PocketPawError as error:
            said = f"{type(error).__name__}: {error.data.get('reason', error.detail)}"
        except BaseException as error:
            said = repr(error)
        os.write(sink, said.encode())
        os._exit(0)
    os.close(sink)
    os.waitpid(child, 0)
    with os.fdopen(source, "rb") as pipe:
        return pipe.read().decode()

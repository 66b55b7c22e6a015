"""Files as the API reaches them: recent ones, sizes for people, where browsing starts, and uploads left behind."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pocketpaw.actors.files import keeper as files_module
from pocketpaw.actors.files.keeper import (
    UPLOAD_PREFIX,
    BrowseFolder,
    FilesKeeper,
    KeepUpload,
    ListRecentFiles,
    WriteContent,
    modified,
    size_text,
)
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.runtime import Actor, ActorSystem, Child, Supervisor
from pocketpaw.runtime.errors import Forbidden, NotFound
from pocketpaw.storage.written_files import ListWrittenFiles, WrittenFile

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
MakeLive = Callable[..., LiveSettings]


class FakeReader(Actor):
    """Stands at `store/reader`."""

    def __init__(self, paths: list[str]) -> None:
        super().__init__()
        self._paths = paths

    async def list_written_files(self, message: ListWrittenFiles) -> list[WrittenFile]:
        return [
            WrittenFile(path, "write_file", datetime(2026, 1, 1, minute=59 - number, tzinfo=UTC))
            for number, path in enumerate(self._paths)
        ]


@pytest.fixture
def jail(tmp_path: Path) -> Path:
    jail = (tmp_path / "jail").resolve()
    jail.mkdir()
    return jail


def tree(live: LiveSettings, written: list[str] | None = None) -> Supervisor:
    reader = Supervisor("store", [Child(FakeReader, written or [], id="reader")])
    return Supervisor("root", [reader, Child(FilesKeeper, live, id="files")])


async def test_recent_files_are_those_still_there_each_once(running: Running, make_live: MakeLive, jail: Path) -> None:
    for name in ("a.md", "b.tar.gz", "sub/c"):
        (jail / name).parent.mkdir(exist_ok=True)
        (jail / name).write_text("x")
    (jail / "link").symlink_to("a.md")
    told = ["a.md", str(jail / "b.tar.gz"), "gone.md", "./a.md", "link", "/etc/passwd", "~bob/x", "\0", "sub/c"]
    async with running(tree(make_live(file_jail_path=str(jail)), told)) as system:
        recent = (await system.ask(ListRecentFiles())).files
        assert [(one.path, one.name, one.extension, one.timestamp.minute) for one in recent] == [
            (str(jail / "a.md"), "a.md", ".md", 59),
            (str(jail / "b.tar.gz"), "b.tar.gz", ".gz", 58),
            (str(jail / "sub/c"), "c", "", 51),
        ]
        assert (recent[0].tool, recent[0].is_dir) == ("write_file", False)
        assert len((await system.ask(ListRecentFiles(limit=1))).files) == 1


async def test_browsing_starts_at_home_where_that_is_in_the_jail(
    running: Running, make_live: MakeLive, jail: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (jail / "ann").mkdir()
    (jail / "ann/notes.md").touch()
    live = make_live(file_jail_path=str(jail))
    async with running(tree(live)) as system:
        for home, name in {jail / "ann": "notes.md", jail.parent: "ann"}.items():
            monkeypatch.setenv("HOME", str(home))
            for path in ("~", ""):
                listing = await system.ask(BrowseFolder(path=path))
                assert ([entry.name for entry in listing.files], listing.path) == ([name], path)


async def test_a_huge_folder_is_shown_in_part_and_says_so(
    running: Running, make_live: MakeLive, jail: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "ENTRIES_LIMIT", 3)
    for number in range(5):
        (jail / f"{number}").touch()
    async with running(tree(make_live(file_jail_path=str(jail)))) as system:
        listing = await system.ask(BrowseFolder())
        assert (len(listing.files), listing.total) == (3, 5)
        assert listing.error == "only the first 3 of 5 entries are shown"


async def test_what_is_in_a_folder_can_be_anything(running: Running, make_live: MakeLive, jail: Path) -> None:
    os.mkfifo(jail / "pipe")
    (jail / "loop").symlink_to("loop")
    (jail / "dangling").symlink_to("nowhere")
    (jail / os.fsdecode(b"no\xfftext")).touch()
    (jail / "line\nbreak").touch()
    async with running(tree(make_live(file_jail_path=str(jail)))) as system:
        listing = await system.ask(BrowseFolder())
        shown = {entry.name: (entry.is_dir, entry.size_bytes) for entry in listing.files}
        assert shown == {
            "pipe": (False, None),
            "loop": (False, None),
            "dangling": (False, None),
            "no\\udcfftext": (False, 0),
            "line\\x0abreak": (False, 0),
        }


async def test_a_file_that_is_replaced_keeps_its_mode(running: Running, make_live: MakeLive, jail: Path) -> None:
    (jail / "run.sh").write_text("old")
    (jail / "run.sh").chmod(0o750)
    (jail / "link").symlink_to("run.sh")
    async with running(tree(make_live(file_jail_path=str(jail)))) as system:
        written = await system.ask(WriteContent(path="link", content="new"))
        assert (written.path, written.size) == (str(jail / "run.sh"), 3)
        assert (jail / "run.sh").read_text() == "new"
        assert (jail / "run.sh").stat().st_mode & 0o777 == 0o750
        assert (jail / "link").is_symlink()


async def test_only_uploads_are_kept_and_the_copy_stays_its_receivers(
    running: Running, make_live: MakeLive, jail: Path
) -> None:
    live = make_live(file_jail_path=str(jail))
    staged = live.home.uploads / f"{UPLOAD_PREFIX}1"
    staged.parent.mkdir()
    staged.write_bytes(b"data")
    async with running(tree(live)) as system:
        for name in ("../access_token", "access_token", f"{UPLOAD_PREFIX}/../../access_token"):
            with pytest.raises(Forbidden):
                await system.ask(KeepUpload(staged=name, folder="", filename="x"))
        with pytest.raises(NotFound):
            await system.ask(KeepUpload(staged=f"{UPLOAD_PREFIX}2", folder="", filename="x"))
        kept = await system.ask(KeepUpload(staged=staged.name, folder=".", filename="x"))
        assert (kept.path, kept.size) == (str(jail / "x"), 4)
        assert staged.exists()


async def test_uploads_that_were_left_behind_are_swept_at_the_start_and_fresh_ones_are_not(
    running: Running, make_live: MakeLive
) -> None:
    live = make_live()
    uploads = live.home.uploads
    uploads.mkdir()
    for name in ("old", "fresh"):
        (uploads / f"{UPLOAD_PREFIX}{name}").touch()
    past = time.time() - 2 * files_module.UPLOAD_ABANDONED_S
    os.utime(uploads / f"{UPLOAD_PREFIX}old", (past, past))
    async with running(tree(live)):
        assert [path.name for path in uploads.iterdir()] == [f"{UPLOAD_PREFIX}fresh"]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KB"),
        (1536, "1.5 KB"),
        (2**20 - 1, "1.0 MB"),
        (5 * 2**30, "5.0 GB"),
        (2**63, "8192.0 PB"),
    ],
)
def test_sizes_are_told_as_people_read_them(size: int, text: str) -> None:
    assert size_text(size) == text


def test_a_date_that_no_calendar_has_is_none() -> None:
    for seconds in (2**60, 2**40, -(2**40)):
        assert modified(os.stat_result([0] * 8 + [seconds, 0])) is None

"""The tools for files, called as the gate calls them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest
import trio
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.actors.tools import search_worker
from pocketpaw.actors.tools.excerpts import LINE_LIMIT, OUTPUT_LIMIT
from pocketpaw.actors.tools.files import Files
from pocketpaw.actors.tools.protocol import Execute, ToolOutput
from pocketpaw.actors.tools.search import FindInFiles, Search
from pocketpaw.actors.tools.search_worker import RESULTS_LIMIT, SearchWorker
from pocketpaw.runtime import ActorSystem, Child, Supervisor
from pocketpaw.runtime.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    PocketPawError,
    TooLarge,
    UnsupportedMedia,
)


class MakeLive(Protocol):
    def __call__(self, **overrides: object) -> LiveSettings: ...


class Running(Protocol):
    def __call__(self, tree: Supervisor) -> AbstractAsyncContextManager[ActorSystem]: ...


class Tools(Protocol):
    def __call__(self) -> AbstractAsyncContextManager[Calls]: ...


class Calls:
    """Calls tools of the actor at `tools/files`."""

    def __init__(self, system: ActorSystem) -> None:
        self._system = system

    async def __call__(self, name: str, **arguments: object) -> ToolOutput:
        message = Execute(name=name, arguments=arguments, session_id="s", turn_id="t")
        async with self._system.stream(message, to="tools/files") as events:
            (output,) = [event async for event in events]
        assert isinstance(output, ToolOutput)
        return output


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "ann"
    home.mkdir()
    return home


@pytest.fixture
def tools(running: Running, make_live: MakeLive, home: Path) -> Tools:
    """`async with tools() as call:` runs the tools for files, with `home` as their jail."""

    @asynccontextmanager
    async def run() -> AsyncGenerator[Calls]:
        live = make_live(file_jail_path=str(home))
        tree = Supervisor("tools", [Child(Files, live), Child(Search, lazy=True, start_timeout_s=30.0)])
        async with running(Supervisor("root", [tree])) as system:
            yield Calls(system)

    return run


def test_each_tool_says_what_it_does_and_needs() -> None:
    infos = {info.name: info for info in Files.infos("tools/files")}
    assert {name: (info.effect, info.scope, info.subject) for name, info in infos.items()} == {
        "list_files": ("read", "files:read", "path"),
        "read_file": ("read", "files:read", "path"),
        "write_file": ("write", "files:write", "path"),
        "edit_file": ("write", "files:write", "path"),
        "search_files": ("read", "files:read", "path"),
    }
    assert infos["edit_file"].parameters["required"] == ["path", "old_text", "new_text"]


async def test_a_folder_is_listed_without_its_secrets(tools: Tools, home: Path) -> None:
    async with tools() as call:
        for folder in (".ssh", "work"):
            (home / folder).mkdir()
        (home / "b.txt").write_text("12345")
        (home / "A.txt").write_text("")
        (home / "link").symlink_to("b.txt")
        (home / ".netrc").write_text("secret")
        os.mkfifo(home / "pipe")
        output = await call("list_files")
        lines = output.text.splitlines()
        assert lines[:3] == [f"[{home}: 5 entries]", "[2 entries that hold secrets are kept from tools]", "work/"]
        assert [line.split("  ")[:2] for line in lines[3:5]] == [["A.txt", "0 bytes"], ["b.txt", "5 bytes"]]
        assert lines[5:] == ["link (link)", "pipe (no plain file)"]
        assert output.source == f"file {home}"
        with pytest.raises(UnsupportedMedia, match="not a folder"):
            await call("list_files", path="b.txt")
        with pytest.raises(Forbidden):
            await call("list_files", path="..")


async def test_a_huge_folder_is_listed_in_part_and_says_so(tools: Tools, home: Path) -> None:
    async with tools() as call:
        for number in range(1000):
            (home / f"{number:0100}").touch()
        text = (await call("list_files")).text
        listed = text.count(" bytes ")
        assert 0 < listed < 1000
        assert f"[{1000 - listed} more are not shown: use search_files" in text
        assert len(text) < OUTPUT_LIMIT + 500


async def test_a_file_is_read_as_it_is_and_named_as_the_source(tools: Tools, home: Path) -> None:
    async with tools() as call:
        (home / "notes.md").write_text("héllo\n\n  world")
        output = await call("read_file", path="notes.md")
        assert output == ToolOutput("héllo\n\n  world", source=f"file {home}/notes.md")
        (home / "empty").touch()
        assert (await call("read_file", path="empty")).text == "[the file is empty]"
        (home / "windows.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
        assert (await call("read_file", path="windows.txt")).text == "one\ntwo"


async def test_a_range_of_lines_says_how_to_go_on(tools: Tools, home: Path) -> None:
    async with tools() as call:
        (home / "n").write_text("".join(f"line {number}\n" for number in range(1, 100_001)))
        text = (await call("read_file", path="n", first_line=99_990, line_count=3)).text
        *lines, note = text.split("\n")
        assert lines == ["line 99990", "line 99991", "line 99992"]
        assert note == "[lines 99990 to 99992; the file goes on: read it with first_line=99993]"
        assert (await call("read_file", path="n", first_line=100_000)).text == "line 100000"
        for beyond in (100_001, 200_000):
            with pytest.raises(InvalidInput, match=f"has 100000 lines, there is no line {beyond}"):
                await call("read_file", path="n", first_line=beyond)


async def test_reading_on_from_where_it_was_cut_gives_the_whole_file(tools: Tools, home: Path) -> None:
    async with tools() as call:
        lines = [f"{number} " + "é" * (number % 300) for number in range(3000)]
        (home / "n").write_text("\n".join(lines))
        read: list[str] = []
        while True:
            text = (await call("read_file", path="n", first_line=len(read) + 1, line_count=10_000)).text
            assert len(text) <= OUTPUT_LIMIT + 200
            *some, last = text.split("\n")
            read += some
            if not last.startswith("[lines "):
                read.append(last)
                break
        assert read == lines


async def test_a_line_without_end_is_cut_and_says_so(tools: Tools, home: Path) -> None:
    async with tools() as call:
        (home / "long").write_text("x" * 3_000_000 + "\nsecond\n")
        text = (await call("read_file", path="long")).text
        assert re.match(rf"x{{{LINE_LIMIT}}} \[… \d+ characters more\]\n\[lines 1 to 1; .* first_line=2\]$", text)
        assert (await call("read_file", path="long", first_line=2)).text == "second"


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n\x00\x00", "a PNG image"),
        ("a.db", b"SQLite format 3\x00", "an SQLite database"),
        ("a.mp4", b"\x00\x00\x00\x20ftyp", "video/mp4"),
        ("a", b"ab\x00cd", "binary data"),
        ("a.txt", "text".encode("utf-16"), "UTF-16"),
        ("a.pdf", b"%PDF-1.7\n", "a PDF document"),
    ],
)
async def test_what_is_no_text_is_refused_with_what_it_is(
    tools: Tools, home: Path, name: str, data: bytes, kind: str
) -> None:
    async with tools() as call:
        (home / name).write_bytes(data)
        for tool, more in (("read_file", {}), ("edit_file", {"old_text": "a", "new_text": "b"})):
            with pytest.raises(UnsupportedMedia, match=kind):
                await call(tool, path=name, **more)


async def test_text_in_another_encoding_is_read_with_a_remark(tools: Tools, home: Path) -> None:
    async with tools() as call:
        (home / "latin").write_bytes("café\n".encode("latin-1"))
        assert (
            await call("read_file", path="latin")
        ).text == "[not UTF-8 throughout: � stands for what is no text]\ncaf�"
        with pytest.raises(UnsupportedMedia, match="not UTF-8"):
            await call("edit_file", path="latin", old_text="caf", new_text="tea")
        assert (home / "latin").read_bytes() == b"caf\xe9\n"


async def test_a_file_is_made_and_replaced(tools: Tools, home: Path) -> None:
    async with tools() as call:
        assert (await call("write_file", path="a.txt", content="é")).text == f"made {home}/a.txt: 2 bytes"
        assert (await call("write_file", path="a.txt", content="b")).text == f"replaced {home}/a.txt: 1 bytes"
        assert (home / "a.txt").read_text() == "b"
        with pytest.raises(NotFound, match="set make_folders"):
            await call("write_file", path="x/y/a.txt", content="b")
        await call("write_file", path="x/y/a.txt", content="b", make_folders=True)
        assert (home / "x/y/a.txt").read_text() == "b"
        for path in ("../a.txt", ".ssh/authorized_keys", "/etc/cron.d/evil"):
            with pytest.raises(Forbidden):
                await call("write_file", path=path, content="b", make_folders=True)
        assert not (home / ".ssh").exists()


async def test_an_edit_replaces_exactly_one_place_unless_it_says_every(tools: Tools, home: Path) -> None:
    async with tools() as call:
        file = home / "a.txt"
        file.write_text("one two two\n")
        with pytest.raises(Conflict, match="old_text is 2 times in"):
            await call("edit_file", path="a.txt", old_text="two", new_text="2")
        with pytest.raises(Conflict, match="old_text is not in"):
            await call("edit_file", path="a.txt", old_text="three", new_text="3")
        with pytest.raises(InvalidInput, match="nothing would change"):
            await call("edit_file", path="a.txt", old_text="one", new_text="one")
        assert file.read_text() == "one two two\n"
        assert (
            await call("edit_file", path="a.txt", old_text="one", new_text="1")
        ).text == f"replaced 1 occurrence in {file}"
        text = (await call("edit_file", path="a.txt", old_text="two", new_text="2", every=True)).text
        assert text == f"replaced 2 occurrences in {file}"
        assert file.read_text() == "1 2 2\n"


async def test_an_edit_cannot_blow_a_file_up(tools: Tools, home: Path) -> None:
    (home / "a.txt").write_text("a" * 100_000)
    async with tools() as call:
        with pytest.raises(TooLarge, match="would have 100000000 bytes"):
            await call("edit_file", path="a.txt", old_text="a", new_text="b" * 1000, every=True)
    assert (home / "a.txt").read_text() == "a" * 100_000


async def test_an_edit_keeps_the_line_breaks_of_the_file(tools: Tools, home: Path) -> None:
    async with tools() as call:
        (home / "a.txt").write_bytes(b"one\r\ntwo\r\nthree\r\n")
        await call("edit_file", path="a.txt", old_text="one\ntwo", new_text="1\n2")
        assert (home / "a.txt").read_bytes() == b"1\r\n2\r\nthree\r\n"


async def test_edits_that_are_made_at_once_are_all_in_the_file(tools: Tools, home: Path) -> None:
    async with tools() as call:
        (home / "a.txt").write_text("".join(f"<{number}>" for number in range(20)))
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(
                    lambda n=number: call("edit_file", path="a.txt", old_text=f"<{n}>", new_text=f"[{n}]")
                )
        assert (home / "a.txt").read_text() == "".join(f"[{number}]" for number in range(20))


async def test_a_file_that_is_too_large_is_not_edited(tools: Tools, home: Path) -> None:
    async with tools() as call:
        with (home / "large").open("wb") as file:
            file.truncate(10 * 2**20 + 1)
        with pytest.raises(TooLarge, match="can be edited"):
            await call("edit_file", path="large", old_text="a", new_text="b")


async def test_wrong_arguments_are_named(tools: Tools) -> None:
    async with tools() as call:
        for name, arguments, named in (
            ("read_file", {}, "path"),
            ("read_file", {"path": 7}, "path"),
            ("read_file", {"path": "a", "first_line": 0}, "first_line"),
            ("read_file", {"file": "a", "path": "b"}, "file"),
            ("search_files", {}, "text"),
        ):
            with pytest.raises(InvalidInput, match=named):
                await call(name, **arguments)


async def test_lines_and_names_are_found_by_a_process_of_their_own(tools: Tools, home: Path) -> None:
    async with tools() as call:
        (home / "work/deep").mkdir(parents=True)
        (home / "work/plan.md").write_text("buy milk\nBuy bread\n")
        (home / "work/deep/other.txt").write_text("nothing\r\nto buy\r\n")
        output = await call("search_files", text="buy")
        assert output.text.splitlines() == [
            f"[2 found in {home}]",
            "work/deep/other.txt:2: to buy",
            "work/plan.md:1: buy milk",
        ]
        assert output.source == f"file {home}"
        with pytest.raises(InvalidInput, match="no regular expression"):
            await call("search_files", text="(")
        with pytest.raises(Forbidden):
            await call("search_files", path="..", text="x")


# The search, in this process ------------------------------------------------------------------------------------------


def find(home: Path, **question: object) -> list[str]:
    arguments = {"root": str(home), "own": str(home / ".pocketpaw"), "path": ".", **question}
    return SearchWorker().find(FindInFiles(**arguments)).text.splitlines()  # pyright: ignore[reportArgumentType]


def test_a_name_matches_the_name_or_with_a_slash_the_place(home: Path) -> None:
    for file in ("a.md", "work/b.md", "work/deep/c.md", "work/d.txt", "node_modules/e.md", ".git/f.md", ".ssh/g.md"):
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).write_text("text")
    (home / "loop").symlink_to(".")
    assert find(home, name="*.md")[1:] == ["a.md", "work/b.md", "work/deep/c.md"]
    assert find(home, name="work/*.md")[1:] == ["work/b.md", "work/deep/c.md"]
    assert find(home, name="d*")[1:] == ["work/d.txt", "work/deep/"]
    assert find(home, path="work/d.txt", text="TEXT", ignore_case=True)[1:] == ["d.txt:1: text"]
    assert find(home, path="node_modules", name="*")[1:] == ["e.md"]
    with pytest.raises(NotFound):
        find(home, path="nowhere", name="*")


def test_secrets_and_what_is_no_text_or_huge_are_left_out(home: Path) -> None:
    for file in (".ssh/key", ".netrc", ".bash_history", ".pocketpaw/access_token", "real.txt"):
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).write_text("needle")
    (home / "binary").write_bytes(b"needle\x00")
    with (home / "huge").open("wb") as file:
        file.truncate(6 * 2**20)
    os.mkfifo(home / "pipe")
    (home / "link").symlink_to(".netrc")
    assert find(home, text="needle") == [
        f"[1 found in {home}]",
        "[1 files or folders were left out: huge, or not to be read]",
        "real.txt:1: needle",
    ]


def test_what_is_found_is_bounded(home: Path) -> None:
    (home / "many").write_text("needle\n" * 5000)
    found = find(home, text="needle")
    assert found[1] == "[there is more: search a smaller folder, or for something rarer]"
    assert len(found) == RESULTS_LIMIT + 2
    (home / "many").write_text("needle" * 200_000)
    assert len("\n".join(find(home, text="needle"))) < 1000


def test_an_expression_that_takes_for_ever_is_stopped_and_the_next_one_works(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_worker, "SEARCH_S", 0.3)
    (home / "a").write_text("needle\n")
    (home / "b").write_text("a" * 60 + "!\n")
    started = time.monotonic()
    found = find(home, text=r"needle|^(a+)+$")
    assert time.monotonic() - started < 30
    assert found[1:] == ["[stopped after 0.3 s: search a smaller folder, or with a simpler text]", "a:1: needle"]
    assert find(home, text="needle")[1:] == ["a:1: needle"]


def test_no_search_leaves_a_descriptor_open(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "x/y/z").mkdir(parents=True)
    (home / "x/y/z/b").write_text("a" * 60 + "!\n")
    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(search_worker, "SEARCH_S", 0.1)
    find(home, text=r"^(a+)+$")
    for path in ("nowhere", "x/y/z/b/c"):
        with pytest.raises(PocketPawError):
            find(home, path=path, text="a")
    assert len(list(Path("/proc/self/fd").iterdir())) == before

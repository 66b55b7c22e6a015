"""The tools for files: list, read, write, edit and search, each inside the jail."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, TypeVar

import trio
from msgspec import Meta

from ...runtime.errors import Conflict, InvalidInput, NotFound, TooLarge, UnsupportedMedia
from ..settings import LiveSettings
from .excerpts import OUTPUT_LIMIT, binary_kind, excerpt
from .jail import Folder, Jail, shown, telling
from .protocol import Execute, ToolOutput
from .search import FindInFiles
from .toolbox import Arguments, Toolbox, tool

A = TypeVar("A", bound=Arguments)
R = TypeVar("R")

THREADS = 8
"""For the files of all sessions; a disk that hangs takes these and no others."""
WAIT_FOR_SEARCH_S = 90.0
"""One search after the other is made, each in less than an eighth of this."""
EDIT_LIMIT_BYTES = 10 * 2**20

PathArgument = Annotated[str, Meta(description="Path of the file; a relative one starts at the home folder.")]
FolderArgument = Annotated[str, Meta(description="Path of the folder; a relative one starts at the home folder.")]


class ListFiles(Arguments, frozen=True):
    path: FolderArgument = "."


class ReadFile(Arguments, frozen=True):
    path: PathArgument
    first_line: Annotated[int, Meta(ge=1, description="Where to begin; 1 is the first line.")] = 1
    line_count: Annotated[int, Meta(ge=1, le=10_000, description="How many lines at most.")] = 2000


class WriteFile(Arguments, frozen=True):
    path: PathArgument
    content: Annotated[str, Meta(description="The whole new content.")]
    make_folders: Annotated[bool, Meta(description="Make the folders that are missing.")] = False


class EditFile(Arguments, frozen=True):
    path: PathArgument
    old_text: Annotated[str, Meta(min_length=1, description="Text that is in the file, exactly, line breaks included.")]
    new_text: Annotated[str, Meta(description="What to put in its place.")]
    every: Annotated[bool, Meta(description="Replace every occurrence; otherwise there must be exactly one.")] = False


class SearchFiles(Arguments, frozen=True):
    path: Annotated[FolderArgument, Meta(description="The folder to search, with all below it.")] = "."
    name: Annotated[
        str, Meta(description="Only files of this name, with * and ?, as *.md; with a slash, of this relative path.")
    ] = ""
    text: Annotated[str, Meta(description="Only lines in which this regular expression (Python's) is found.")] = ""
    ignore_case: Annotated[bool, Meta(description="Whether large and small letters are the same in `text`.")] = False


class Files(Toolbox):
    """Reads and writes files in threads of its own; searching, which computes, is done by `tools/search`."""

    def __init__(self, live: LiveSettings) -> None:
        super().__init__()
        self._live = live
        self._threads = trio.CapacityLimiter(THREADS)
        self._writing = trio.Lock()  # so that two edits of one file, made at once, are both in it

    @tool("read", "files:read", subject="path")
    async def list_files(self, arguments: ListFiles, call: Execute) -> ToolOutput:
        """List a folder: its folders first (with a slash at the end), then its files with their sizes."""
        return await self._in_thread(_list, arguments)

    @tool("read", "files:read", subject="path")
    async def read_file(self, arguments: ReadFile, call: Execute) -> ToolOutput:
        """Read a text file, or some lines of it."""
        return await self._in_thread(_read, arguments)

    @tool("write", "files:write", subject="path")
    async def write_file(self, arguments: WriteFile, call: Execute) -> str:
        """Write a text file, whole: what was there before is replaced."""
        async with self._writing:
            return await self._in_thread(_write, arguments, may_leave=False)

    @tool("write", "files:write", subject="path")
    async def edit_file(self, arguments: EditFile, call: Execute) -> str:
        """Replace a piece of text in a file by another."""
        if arguments.old_text == arguments.new_text:
            raise InvalidInput("new_text is the same as old_text: nothing would change", field=["new_text"])
        async with self._writing:
            return await self._in_thread(_edit, arguments, may_leave=False)

    @tool("read", "files:read", subject="path")
    async def search_files(self, arguments: SearchFiles, call: Execute) -> ToolOutput:
        """Find files by their names, or lines by their text, in a folder and all below it.

        What versions and packages are kept in (.git, node_modules, …) is left out, as are binary and huge files.
        """
        if not arguments.name and not arguments.text:
            raise InvalidInput("give a name, a text, or both to search for", field=["text"])
        live = self._live
        question = FindInFiles(
            root=live.current.file_jail_path,
            own=str(live.home.root),
            path=arguments.path,
            name=arguments.name,
            text=arguments.text,
            ignore_case=arguments.ignore_case,
        )
        found = await self.ask(question, timeout_s=WAIT_FOR_SEARCH_S)
        return ToolOutput(found.text, source=f"file {found.folder}")

    async def _in_thread(self, work: Callable[[Jail, A], R], arguments: A, *, may_leave: bool = True) -> R:
        """Do `work`, which blocks. With `may_leave`, whoever is cancelled does not wait for its end."""

        def do() -> R:
            return work(Jail.of(self._live), arguments)

        return await trio.to_thread.run_sync(do, abandon_on_cancel=may_leave, limiter=self._threads)


def _list(jail: Jail, arguments: ListFiles) -> ToolOutput:
    with jail.folder(arguments.path) as folder, telling(folder.path):
        entries = list(folder.entries())
        seen = [entry for entry in entries if not folder.hides(entry.name)]
        seen.sort(key=lambda entry: (not entry.is_dir(follow_symlinks=False), entry.name.casefold(), entry.name))
        lines = _lines(seen)
        notes = [f"[{shown(folder.path)}: {len(seen)} entries]"]
        if len(seen) > len(lines):
            notes.append(f"[{len(seen) - len(lines)} more are not shown: use search_files with a name]")
        if len(seen) < len(entries):
            notes.append(f"[{len(entries) - len(seen)} entries that hold secrets are kept from tools]")
        return ToolOutput("\n".join([*notes, *lines]), source=_source(folder.path))


def _lines(entries: Iterable[os.DirEntry[str]]) -> list[str]:
    """A line for each, as far as there is room."""
    lines: list[str] = []
    room = OUTPUT_LIMIT
    for entry in entries:
        line = _line(entry)
        room -= len(line) + 1
        if room < 0:
            break
        lines.append(line)
    return lines


def _line(entry: os.DirEntry[str]) -> str:
    name = shown(entry.name)
    if entry.is_symlink():
        return f"{name} (link)"
    if entry.is_dir(follow_symlinks=False):
        return f"{name}/"
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return f"{name} (gone just now)"
    if not stat.S_ISREG(found.st_mode):
        return f"{name} (no plain file)"
    changed = time.strftime("%Y-%m-%d %H:%M", time.gmtime(found.st_mtime))
    return f"{name}  {found.st_size} bytes  {changed} UTC"


def _read(jail: Jail, arguments: ReadFile) -> ToolOutput:
    with jail.parent(arguments.path) as (folder, name), telling(folder.path / name), folder.open(name) as file:
        text = excerpt(file, arguments.path, arguments.first_line, arguments.line_count)
        return ToolOutput(text, source=_source(folder.path / name))


def _source(path: Path) -> str:
    return f"file {shown(path)}"


def _write(jail: Jail, arguments: WriteFile) -> str:
    data = arguments.content.encode()
    try:
        with jail.parent(arguments.path, "write", make=arguments.make_folders) as (folder, name):
            is_new = folder.look(name) is None
            with folder.replacing(name) as file:
                file.write(data)
            return f"{'made' if is_new else 'replaced'} {shown(folder.path / name)}: {len(data)} bytes"
    except NotFound as error:
        raise NotFound(f"{error.detail}; set make_folders to have it made") from error


def _edit(jail: Jail, arguments: EditFile) -> str:
    with jail.parent(arguments.path, "write") as (folder, name):
        before, text = _editable(folder, name)
        old, new = arguments.old_text, arguments.new_text
        if old not in text and "\r\n" in text:  # the model was shown the lines, not how they end
            old, new = (part.replace("\r\n", "\n").replace("\n", "\r\n") for part in (old, new))
        count = text.count(old)
        if not count:
            raise Conflict(f"old_text is not in {shown(folder.path / name)}: read the file, and copy the text exactly")
        if count > 1 and not arguments.every:
            raise Conflict(
                f"old_text is {count} times in {shown(folder.path / name)}: give more of the text around it,"
                " or set `every` to replace all"
            )
        size = before.st_size + count * (len(new.encode()) - len(old.encode()))
        if size > EDIT_LIMIT_BYTES:
            raise TooLarge(f"new_text: {name} would have {size} bytes; files of up to {EDIT_LIMIT_BYTES} can be edited")
        with folder.replacing(name, before) as file:
            file.write(text.replace(old, new).encode())
        return f"replaced {count} {'occurrence' if count == 1 else 'occurrences'} in {shown(folder.path / name)}"


def _editable(folder: Folder, name: str) -> tuple[os.stat_result, str]:
    with telling(folder.path / name), folder.open(name) as file:
        before = os.fstat(file.fileno())
        if before.st_size > EDIT_LIMIT_BYTES:
            raise TooLarge(f"path: {name} has {before.st_size} bytes; files of up to {EDIT_LIMIT_BYTES} can be edited")
        data = file.read()
    kind = binary_kind(data, name)
    if kind:
        raise UnsupportedMedia(f"path: {name} is not text but {kind}: it cannot be edited")
    try:
        return before, data.decode()
    except UnicodeDecodeError as error:
        raise UnsupportedMedia(f"path: {name} is not UTF-8 text (byte {error.start}): it cannot be edited") from error

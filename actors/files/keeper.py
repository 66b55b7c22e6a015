"""Files as people reach them through the API: inside the same jail as the tools', and with its answers.

What is sent piece by piece, at the pace of whoever takes it, is in `downloads`.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import structlog
import trio

from ...runtime import Actor, Message
from ...runtime.errors import Conflict, Forbidden, InvalidInput, PocketPawError
from ...storage.written_files import ListWrittenFiles, WrittenFile
from ..settings import LiveSettings
from ..tools.jail import Folder, Jail, shown, telling

log = structlog.get_logger()

R = TypeVar("R")

THREADS = 4
ENTRIES_LIMIT = 5_000
UPLOAD_PREFIX = "upload-"
UPLOAD_ABANDONED_S = 3600.0
"""Nothing was written to it for so long: whoever received it has died over it."""

LARGER_UNITS = ("KB", "MB", "GB", "TB", "PB")
ROUNDED_UP = 1023.95  # would be shown as 1024.0


class FolderEntry(msgspec.Struct, frozen=True, rename={"is_dir": "isDir"}):
    """`size` is for people, and empty for a folder; what is no plain file has no `size_bytes`."""

    name: str
    is_dir: bool
    size: str
    size_bytes: int | None
    modified: datetime | None


class FolderListing(msgspec.Struct, frozen=True):
    """`total` counts the entries there are; `error` says so where not all of them are shown."""

    path: str
    files: list[FolderEntry]
    total: int
    error: str | None = None


class FileWritten(msgspec.Struct, frozen=True):
    """`path` is where the file really is, its links followed."""

    ok: bool
    path: str
    size: int


class RecentFile(msgspec.Struct, frozen=True):
    """`timestamp` is when `tool` last wrote it."""

    path: str
    name: str
    is_dir: bool
    extension: str
    timestamp: datetime
    tool: str


class RecentFiles(msgspec.Struct, frozen=True):
    files: list[RecentFile]


class BrowseFolder(Message[FolderListing], to="files"):
    """List a folder, its folders first; what holds secrets is left out.

    `~` is the user's home, or, where that is not among the files that may be reached, the top folder of those.
    """

    path: str = "~"


class WriteContent(Message[FileWritten], to="files"):
    """Write a text file, whole: it is replaced at once or not at all. The folder has to be there."""

    path: str
    content: str


class KeepUpload(Message[FileWritten], to="files"):
    """Put an upload into `folder` as `filename`; `staged` is its name in the folder of uploads, where a copy stays."""

    staged: str
    folder: str
    filename: str
    replace: bool = False


class ListRecentFiles(Message[RecentFiles], to="files"):
    """List the files that tools wrote last, newest first, as far as they are still there."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 20


class FilesKeeper(Actor):
    """Works in threads of its own: a disk that hangs takes these and no others."""

    concurrency = 16
    handler_timeout_s = None  # a copy takes as long as the disk does

    def __init__(self, live: LiveSettings) -> None:
        super().__init__()
        self._live = live
        self._threads = trio.CapacityLimiter(THREADS)

    async def on_start(self) -> None:
        await trio.to_thread.run_sync(_sweep, self._live.home.uploads, limiter=self._threads)

    async def browse_folder(self, message: BrowseFolder) -> FolderListing:
        return await self._in_thread(lambda jail: _browse(jail, message.path))

    async def write_content(self, message: WriteContent) -> FileWritten:
        return await self._in_thread(lambda jail: _write(jail, message), may_leave=False)

    async def keep_upload(self, message: KeepUpload) -> FileWritten:
        root = self._live.home.uploads
        staged = root / message.staged
        if staged.parent != root or not message.staged.startswith(UPLOAD_PREFIX):
            raise Forbidden(f"an upload is a file in {root} whose name begins with {UPLOAD_PREFIX}")
        return await self._in_thread(lambda jail: _keep(jail, message, staged), may_leave=False)

    async def list_recent_files(self, message: ListRecentFiles) -> RecentFiles:
        written = await self.ask(ListWrittenFiles())
        return RecentFiles(await self._in_thread(lambda jail: _recent(jail, written, message.limit)))

    async def _in_thread(self, work: Callable[[Jail], R], *, may_leave: bool = True) -> R:
        """Do `work`, which blocks. With `may_leave`, whoever is cancelled does not wait for its end."""

        def do() -> R:
            return work(Jail.of(self._live))

        return await trio.to_thread.run_sync(do, abandon_on_cancel=may_leave, limiter=self._threads)


def start_folder(jail: Jail, path: str) -> str:
    """`path`, or where browsing starts if it says nothing, or names a home that is outside of the jail."""
    if path not in ("", "~"):
        return path
    try:
        jail.resolve("~")
    except Forbidden:
        return "."
    return "~"


def _browse(jail: Jail, path: str) -> FolderListing:
    with jail.folder(start_folder(jail, path)) as folder, telling(folder.path):
        found = [_entry(jail, folder, entry) for entry in folder.entries() if not folder.hides(entry.name)]
    found.sort(key=lambda entry: (not entry.is_dir, entry.name.casefold(), entry.name))
    error = None
    if len(found) > ENTRIES_LIMIT:
        error = f"only the first {ENTRIES_LIMIT} of {len(found)} entries are shown"
    return FolderListing(path, found[:ENTRIES_LIMIT], len(found), error)


def _entry(jail: Jail, folder: Folder, entry: os.DirEntry[str]) -> FolderEntry:
    name = shown(entry.name)
    if entry.is_symlink():
        return FolderEntry(name, _leads_to_folder(jail, folder.path / entry.name), "", None, None)
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return FolderEntry(name, is_dir=False, size="", size_bytes=None, modified=None)  # gone just now
    is_dir = stat.S_ISDIR(found.st_mode)
    size = found.st_size if stat.S_ISREG(found.st_mode) else None
    return FolderEntry(name, is_dir, "" if size is None else size_text(size), size, modified(found))


def _leads_to_folder(jail: Jail, link: Path) -> bool:
    """Whether a link leads to a folder inside the jail: of what is outside, not even that is told."""
    try:
        return jail.resolve(str(link)).is_dir()
    except (PocketPawError, OSError):
        return False


def size_text(size_bytes: int) -> str:
    """A size as people read it: "5 B", "1.2 MB" (of 1024 KB)."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    power = 1
    while power < len(LARGER_UNITS) and size_bytes / 1024**power >= ROUNDED_UP:
        power += 1
    return f"{size_bytes / 1024**power:.1f} {LARGER_UNITS[power - 1]}"


def modified(found: os.stat_result) -> datetime | None:
    """When it was changed; None if no calendar has that day."""
    try:
        return datetime.fromtimestamp(int(found.st_mtime), UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _write(jail: Jail, message: WriteContent) -> FileWritten:
    data = message.content.encode()
    with jail.parent(message.path, "write") as (folder, name):
        with folder.replacing(name) as file:
            file.write(data)
        return FileWritten(ok=True, path=shown(folder.path / name), size=len(data))


def _keep(jail: Jail, message: KeepUpload, staged: Path) -> FileWritten:
    name = _plain_name(message.filename)
    place = f"{start_folder(jail, message.folder)}/{name}"
    with telling(staged), staged.open("rb") as upload, jail.parent(place, "write") as (folder, name):
        if folder.look(name) is not None and not message.replace:
            raise Conflict(f"there is a {shown(folder.path / name)} already; say replace=true to replace it")
        with folder.replacing(name) as file:
            shutil.copyfileobj(upload, file, 2**20)
        return FileWritten(ok=True, path=shown(folder.path / name), size=upload.tell())


def _plain_name(filename: str) -> str:
    """The last part of what a browser calls the file: some send the whole path, of their own system."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    if name in ("", ".", ".."):
        raise InvalidInput("the file has no name", field=["body", "file"])
    return name


def _recent(jail: Jail, written: Iterable[WrittenFile], limit: int) -> list[RecentFile]:
    found: dict[str, RecentFile] = {}
    for one in written:
        path = _still_there(jail, one.path)
        if path is not None and shown(path) not in found:
            found[shown(path)] = RecentFile(
                path=shown(path),
                name=shown(path.name),
                is_dir=False,
                extension=shown(path.suffix),
                timestamp=one.timestamp,
                tool=one.tool,
            )
            if len(found) == limit:
                break
    return list(found.values())


def _still_there(jail: Jail, path: str) -> Path | None:
    """Where the file is; None if it is gone, or, as the jail is another one by now, out of reach."""
    try:
        with jail.parent(path) as (folder, name):
            return folder.path / name if folder.look(name) is not None else None
    except PocketPawError:
        return None


def _sweep(uploads: Path) -> None:
    """Delete what was received by somebody who has died over it."""
    if not uploads.is_dir():
        return
    for entry in list(uploads.iterdir()):
        try:
            if entry.stat().st_mtime < time.time() - UPLOAD_ABANDONED_S:
                entry.unlink(missing_ok=True)
        except OSError as error:
            log.warning("an abandoned upload cannot be deleted", path=str(entry), reason=error.strerror)

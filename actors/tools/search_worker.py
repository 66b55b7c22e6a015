"""The search for files and lines: what runs inside the child process of `tools/search`."""

from __future__ import annotations

import fnmatch
import re
import signal
import stat
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

from ...runtime.errors import InvalidInput, PocketPawError
from ...runtime.worker import Worker
from .excerpts import OUTPUT_LIMIT, binary_kind
from .jail import Folder, Jail, shown
from .search import SEARCH_S, FindInFiles, FoundInFiles

SKIPPED = frozenset({".git", ".hg", ".svn", ".cache", ".mypy_cache", ".tox", ".venv", "__pycache__", "node_modules"})
"""Folders that are full of copies and of what was made from other files."""
RESULTS_LIMIT = 500
DEEPEST = 50
FILE_LIMIT_BYTES = 5 * 2**20
LINE_LIMIT = 10_000
"""Characters of a line in which is searched."""
SHOWN_LIMIT = 300


class _Late(Exception):
    """The time for the search has run out."""


class SearchWorker(Worker):
    """Answers `FindInFiles`."""

    def find(self, message: FindInFiles) -> FoundInFiles:
        jail = Jail(message.root, Path(message.own))
        search = _Search(message)
        start = jail.resolve(message.path)
        try:
            with _alarm(SEARCH_S):
                search.run(jail, start)
        except _Late:
            search.notes.append(f"stopped after {SEARCH_S:g} s: search a smaller folder, or with a simpler text")
        return FoundInFiles(search.report(start), shown(start))


class _Search:
    def __init__(self, question: FindInFiles) -> None:
        self.notes: list[str] = []
        self._results: list[str] = []
        self._room = OUTPUT_LIMIT
        self._skipped = 0
        self._is_name = _by_name(question.name)
        self._text = _compiled(question.text, question.ignore_case) if question.text else None

    def run(self, jail: Jail, start: Path) -> None:
        if start != jail.root:
            with jail.folder(start.parent) as folder:
                found = folder.look(start.name)
                if found is not None and stat.S_ISREG(found.st_mode):
                    self._file(folder, start.name, Path(start.name))
                    return
        with jail.folder(start) as folder:
            self._folder(folder, Path())

    def report(self, start: Path) -> str:
        if self._skipped:
            self.notes.append(f"{self._skipped} files or folders were left out: huge, or not to be read")
        head = f"[{len(self._results)} found in {shown(start)}]"
        return "\n".join([head, *(f"[{note}]" for note in self.notes), *self._results])

    def _folder(self, folder: Folder, at: Path) -> bool:
        """Search `folder`, which is `at` that place below the start; whether there is room for more."""
        if len(at.parts) > DEEPEST:
            self._skipped += 1
            return True
        entries = sorted(folder.entries(), key=lambda entry: entry.name)
        for entry in entries:
            if folder.hides(entry.name):
                continue
            place = at / entry.name
            if entry.is_dir(follow_symlinks=False):
                goes_on = entry.name in SKIPPED or self._below(folder, entry.name, place)
            else:
                goes_on = not entry.is_file(follow_symlinks=False) or self._file(folder, entry.name, place)
            if not goes_on:
                return False
        return True

    def _below(self, folder: Folder, name: str, place: Path) -> bool:
        if self._text is None and self._is_name(place) and not self._take(f"{shown(place)}/"):
            return False
        try:
            below = folder.folder(name)
        except PocketPawError:
            self._skipped += 1
            return True
        with closing(below):
            try:
                return self._folder(below, place)
            except (PocketPawError, OSError):
                self._skipped += 1
                return True

    def _file(self, folder: Folder, name: str, place: Path) -> bool:
        if not self._is_name(place):
            return True
        if self._text is None:
            return self._take(shown(place))
        try:
            with folder.open(name) as file:
                data = file.read(FILE_LIMIT_BYTES + 1)
        except (PocketPawError, OSError):
            self._skipped += 1
            return True
        if len(data) > FILE_LIMIT_BYTES:
            self._skipped += 1
            return True
        return binary_kind(data, name) is not None or self._lines(data.decode(errors="replace"), place)

    def _lines(self, text: str, place: Path) -> bool:
        assert self._text is not None
        find = self._text.search
        for number, line in enumerate(text.split("\n"), 1):
            if find(line[:LINE_LIMIT].removesuffix("\r")) and not self._take(
                f"{shown(place)}:{number}: {shown(line.strip()[:SHOWN_LIMIT])}"
            ):
                return False
        return True

    def _take(self, result: str) -> bool:
        self._room -= len(result) + 1
        if self._room < 0 or len(self._results) == RESULTS_LIMIT:
            self.notes.append("there is more: search a smaller folder, or for something rarer")
            return False
        self._results.append(result)
        return True


def _by_name(pattern: str) -> Callable[[Path], bool]:
    """What tells whether a place has the name that is wanted; with a slash in it, the place as a whole must match."""
    if not pattern:
        return lambda _: True
    matches = re.compile(fnmatch.translate(pattern.removeprefix("./"))).match
    return lambda place: matches(str(place) if "/" in pattern else place.name) is not None


def _compiled(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    except (re.error, RecursionError, OverflowError) as error:
        raise InvalidInput(f"text: {pattern!r:.200} is no regular expression: {error}", field=["text"]) from error


@contextmanager
def _alarm(after_s: float) -> Generator[None]:
    """Raise `_Late` in the block when the time is up: even in the middle of a match, which looks for signals."""

    def ring(_: int, __: FrameType | None) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, after_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

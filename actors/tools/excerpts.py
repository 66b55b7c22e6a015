"""Pieces of files as a model can read them: some lines, none too long, and never bytes that are no text."""

from __future__ import annotations

import codecs
import mimetypes
import os
from typing import BinaryIO

from ...runtime.errors import InvalidInput, UnsupportedMedia

OUTPUT_LIMIT = 50_000
"""Characters of one tool's output that a model is given."""
LINE_LIMIT = 2000
"""Characters of one line; what is beyond them is cut off."""
SNIFFED_BYTES = 8192
CHUNK_BYTES = 2**18
WINDOW_BYTES = 4 * (OUTPUT_LIMIT + LINE_LIMIT)
"""Enough for the longest output if every character takes four bytes."""

_MAGIC = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive (or an office document, which is one)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\x7fELF", "a program (ELF)"),
    (b"MZ", "a Windows program"),
    (b"SQLite format 3", "an SQLite database"),
    (b"OggS", "Ogg audio or video"),
    (b"ID3", "an MP3 recording"),
    (b"RIFF", "a RIFF file (WAV, AVI or WebP)"),
    (codecs.BOM_UTF16_LE, "text in UTF-16"),
    (codecs.BOM_UTF16_BE, "text in UTF-16"),
)


def binary_kind(start: bytes, name: str) -> str | None:
    """What a file that starts so is, if it is not text that can be read here."""
    start = start[:SNIFFED_BYTES]
    if b"\x00" not in start and not start.startswith(b"%PDF"):
        return None
    for magic, kind in _MAGIC:
        if start.startswith(magic):
            return kind
    guess, _ = mimetypes.guess_type(name)
    return f"binary data ({guess})" if guess else "binary data"


def excerpt(file: BinaryIO, name: str, first_line: int, line_count: int) -> str:
    """Lines of `file`, with a word on what is left out and how to get it.

    Raises: UnsupportedMedia if it is no text, InvalidInput if it has no such line.
    """
    start = file.read(SNIFFED_BYTES)
    kind = binary_kind(start, name)
    if kind:
        size = os.fstat(file.fileno()).st_size
        raise UnsupportedMedia(f"path: {name} is not text but {kind}, {size} bytes; it cannot be read as text")
    file.seek(len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0)
    there = _skip_lines(file, first_line - 1)
    window = file.read(WINDOW_BYTES)
    if not window:
        if first_line > 1:
            raise InvalidInput(
                f"first_line: {name} has {there} lines, there is no line {first_line}", field=["first_line"]
            )
        return "[the file is empty]"
    return _cut(window, first_line, line_count, has_more=bool(file.read(1)))


def _skip_lines(file: BinaryIO, count: int) -> int:
    """Move past `count` lines, or to the end; return how many lines that were."""
    skipped, last = 0, b"\n"
    while skipped < count:
        position = file.tell()
        chunk = file.read(CHUNK_BYTES)
        if not chunk:
            return skipped + (not last.endswith(b"\n"))
        found = chunk.count(b"\n")
        if skipped + found >= count:
            file.seek(position + _end_of_line(chunk, count - skipped))
            return count
        skipped, last = skipped + found, chunk
    return skipped


def _end_of_line(chunk: bytes, number: int) -> int:
    end = 0
    for _ in range(number):
        end = chunk.index(b"\n", end) + 1
    return end


def _cut(window: bytes, first_line: int, line_count: int, *, has_more: bool) -> str:
    lines = window.decode(errors="replace").split("\n")
    if len(lines) > 1 and (has_more or not lines[-1]):
        lines.pop()  # the beginning of a line, or what follows the last line break: nothing
    taken: list[str] = []
    room = OUTPUT_LIMIT
    for line in lines[:line_count]:
        text = _short(line.removesuffix("\r"))
        if taken and len(text) >= room:
            break
        taken.append(text)
        room -= len(text) + 1
    next_line = first_line + len(taken)
    if has_more or len(taken) < len(lines):
        taken.append(f"[lines {first_line} to {next_line - 1}; the file goes on: read it with first_line={next_line}]")
    text = "\n".join(taken)
    return f"[not UTF-8 throughout: � stands for what is no text]\n{text}" if "\ufffd" in text else text


def _short(line: str) -> str:
    return line if len(line) <= LINE_LIMIT else f"{line[:LINE_LIMIT]} [… {len(line) - LINE_LIMIT} characters more]"

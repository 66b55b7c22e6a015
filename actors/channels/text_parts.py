"""Long Markdown texts as several messages: cut where a reader would, and with every code block whole in itself."""

from __future__ import annotations

import re
from collections.abc import Callable

Length = Callable[[str], int]

INFO_CHARS = 16
"""Of what stands behind a fence, that is repeated where its block is opened again."""

CLOSE = 50
"""What fits is known to this part of the room."""

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})([^\n]*)")
_SENTENCE = re.compile(r"[.!?…]['\")\]]*\s")


class Fence:
    """The code block that a text is in at some place."""

    def __init__(self, marker: str, info: str) -> None:
        self._marker = marker
        self.opening = f"{marker}{info.strip()[:INFO_CHARS]}\n"
        self.closing = f"\n{marker}"

    def is_closed_by(self, line: str) -> bool:
        found = _FENCE.fullmatch(line)
        return found is not None and found[1].startswith(self._marker) and not found[2].strip()


def split_text(text: str, limit: int, length: Length = len) -> list[str]:
    """Split Markdown text into parts of at most `limit`, as `length` counts; none of them is blank."""
    rest = text.strip()
    fence = fence_after(rest, None)
    if fence is not None:
        rest += fence.closing
        fence = None
    reserve = max((length(f"\n{found[1]}") for found in map(_FENCE.fullmatch, rest.split("\n")) if found), default=0)
    parts: list[str] = []
    while rest.strip():
        head = fence.opening if fence is not None else ""
        if length(head) + reserve > limit // 2:  # with such a fence there is no room for what is in it
            head, fence, reserve = "", None, 0
        if length(head + rest) <= limit:
            parts.append(head + rest)
            break
        cut = _cut(rest, _fitting(rest, head, limit - reserve, length), fence)
        piece, rest = rest[:cut], rest[cut:]
        fence = fence_after(piece, fence) if reserve else None
        if fence is None:
            whole, rest = (head + piece).rstrip(), rest.lstrip("\n")
        else:
            whole = head + piece.rstrip("\n") + fence.closing
            line, _, after = rest.partition("\n")
            if fence.is_closed_by(line):
                rest, fence = after, None
        if piece.strip():
            parts.append(whole)
    return parts


def fence_after(text: str, fence: Fence | None) -> Fence | None:
    """The code block that is open at the end of a text that begins in `fence`."""
    for line in text.split("\n"):
        fence = _next(line, fence)
    return fence


def _next(line: str, fence: Fence | None) -> Fence | None:
    if fence is not None:
        return None if fence.is_closed_by(line) else fence
    found = _FENCE.fullmatch(line)
    if found is None or ("`" in found[1] and "`" in found[2]):
        return None
    return Fence(found[1], found[2])


def _fitting(rest: str, head: str, room: int, length: Length) -> int:
    """About how many characters fit, one at least: to count costs much, and parts are cut short of it anyway."""
    low, high = 1, min(len(rest), room)
    guess = high
    while high - low > room // CLOSE:
        size = length(head + rest[:guess])
        if size <= room:
            low = guess
        else:
            high = guess - 1
        guess = min(max(guess * room // max(size, 1), low + 1), high)
    return low


def _cut(rest: str, fitting: int, fence: Fence | None) -> int:
    """Where to cut: between paragraphs, lines, sentences or words, in that order; not too early for any of them."""
    earliest = fitting // 3
    paragraph = line_end = code_line = 0
    offset, opened_at = 0, -1
    for line in rest[:fitting].split("\n")[:-1]:
        before, fence = fence, _next(line, fence)
        if before is None and fence is not None:
            opened_at = offset
        offset += len(line) + 1
        if fence is None:
            line_end = offset
            if not line.strip():
                paragraph = offset
        elif before is not None:
            code_line = offset
    for place in (paragraph, line_end, code_line):
        if place > earliest:
            return place
    if fence is not None and opened_at > 0 and code_line <= opened_at:
        return opened_at  # before the block, of which nothing fits
    return _cut_in_line(rest, fitting, max(offset, earliest))


def _cut_in_line(rest: str, fitting: int, earliest: int) -> int:
    """Cut within the line that does not fit, or at its start if it must stay whole."""
    start = rest.rfind("\n", 0, fitting) + 1
    line = rest[start:].partition("\n")[0]
    if start > 0 and _FENCE.fullmatch(line):
        return start
    sentence = max((found.end() for found in _SENTENCE.finditer(rest, earliest, fitting)), default=0)
    word = rest.rfind(" ", earliest, fitting) + 1
    return sentence or word or fitting

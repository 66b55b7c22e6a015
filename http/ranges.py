"""Which part of a file a request asks for, and whether it has the file already (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
from datetime import datetime

from quart import Request
from werkzeug.http import parse_date

_ONE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.IGNORECASE)


class Unsatisfiable(Exception):
    """The range lies beyond the file's end."""


def requested_part(request: Request, size: int, tag: str, modified: datetime | None) -> tuple[int, int] | None:
    """The first byte's number and the length of the part that is asked for; None for the whole.

    Several ranges are answered with the whole, too, as is one that is no range: a server may ignore them.
    """
    found = _ONE.fullmatch(request.headers.get("Range", ""))
    if found is None or found[1] == found[2] == "" or not _is_still_it(request, tag, modified):
        return None
    if not found[1]:
        first, last = max(0, size - int(found[2])), size - 1
    else:
        first, last = int(found[1]), min(int(found[2] or size), size - 1)
        if found[2] and int(found[2]) < first:
            return None
    if first >= size:
        raise Unsatisfiable
    return first, last - first + 1


def has_it(request: Request, tag: str, modified: datetime | None) -> bool:
    """Whether what the client has is what it would be sent."""
    if "If-None-Match" in request.headers:
        return request.if_none_match.contains_weak(tag)
    since = request.if_modified_since
    return since is not None and modified is not None and modified <= since


def _is_still_it(request: Request, tag: str, modified: datetime | None) -> bool:
    """Whether the client's part is of the same file, as far as it says so."""
    condition = request.headers.get("If-Range", "").strip()
    if not condition:
        return True
    if condition.endswith('"'):
        return condition == f'"{tag}"'  # a weak tag is never it
    return modified is not None and parse_date(condition) == modified

"""How commands show what they list: as tables that fit the terminal, or one wide line a row where there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from shutil import get_terminal_size
from textwrap import wrap

import click
import msgspec

from .client import ApprovalRow, ErrorRow, TreeNode
from .conversation import printable

_COLORS = {
    "running": "green",
    "idle": "bright_black",
    "starting": "cyan",
    "backoff": "yellow",
    "crashed": "red",
    "parked": "red",
    "critical": "red",
    "error": "red",
    "warning": "yellow",
}


def print_tree(root: TreeNode) -> None:
    headings = ("actor", "kind", "state", "life", "restarts", "mail", "up", "last error")
    _print(headings, [_row(depth, node) for depth, node in _walk(root, 0)])


def print_errors(errors: Sequence[ErrorRow]) -> None:
    if not errors:
        click.echo("There are no errors.")
        return
    rows = [(error.timestamp, error.severity, error.source, error.message) for error in errors]
    _print(("when", "severity", "source", "message"), rows)


def print_approvals(approvals: Sequence[ApprovalRow]) -> None:
    if not approvals:
        click.echo("Nothing waits for approval.")
        return
    rows = [(row.request_id, row.session_id, row.tool, row.expires_at, _one_line(row)) for row in approvals]
    _print(("request", "session", "tool", "until", "what, and why it asks"), rows)


def _one_line(row: ApprovalRow) -> str:
    return f"{msgspec.json.encode(row.input).decode()}: {row.reason}"


def _row(depth: int, node: TreeNode) -> Sequence[object]:
    mail = f"{node.mailbox.depth}/{node.mailbox.capacity}" if node.mailbox is not None else ""
    place = "  " * depth + node.name
    up, error = _duration(node.uptime_seconds), node.last_error or ""
    return (place, node.kind, node.state, node.incarnation, node.restarts, mail, up, error)


def _walk(node: TreeNode, depth: int) -> Iterator[tuple[int, TreeNode]]:
    yield depth, node
    for child in node.children or ():
        yield from _walk(child, depth + 1)


def _print(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as what is in them; on a terminal the last one is folded into what is left of the line."""
    texts = [[printable(str(cell)).rstrip() for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in (headings, *texts)) for column in range(len(headings) - 1)]
    before = sum(widths) + 2 * len(widths)
    room = max(20, get_terminal_size().columns - before) if sys.stdout.isatty() else sys.maxsize
    click.secho(_line(headings, widths), bold=True)
    for *cells, last in texts:
        first, *folded = wrap(last, room) if len(last) > room else [last]
        click.echo(_line([*cells, first], widths, colors=_COLORS))
        for line in folded:
            click.echo(" " * before + line)


def _line(cells: Sequence[str], widths: Sequence[int], colors: Mapping[str, str] | None = None) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, [*widths, 0], strict=True)]
    styled = [click.style(text, fg=(colors or {}).get(cell)) for text, cell in zip(padded, cells, strict=True)]
    return "  ".join(styled).rstrip()


def _duration(seconds: float) -> str:
    """The two largest units: `3d 4h`, `2m 5s`."""
    days, rest = divmod(int(seconds), 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [f"{count}{unit}" for count, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")) if count]
    return " ".join(parts[:2])

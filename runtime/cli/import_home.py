"""`pocketpaw import`: have the daemon take over an existing PocketPaw's home, and say what came of it."""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec

from .client import Client
from .failure import Failure

IMPORT_S = 3_600.0
"""As the daemon itself has it: a home may hold ten thousand sessions."""

NAMED = 5
"""Things of one kind that are named; more are counted."""


class Remark(msgspec.Struct, frozen=True):
    name: str
    reason: str


class Taken(msgspec.Struct, frozen=True):
    """What was taken of one kind, how many were here already, what is left and why."""

    taken: list[str]
    known: int
    left: list[Remark]


class Report(msgspec.Struct, frozen=True):
    path: str
    dry_run: bool
    kinds: dict[str, Taken]


def import_home(client: Client, folder: Path, *, dry_run: bool, as_json: bool) -> None:
    """Raises: NoDaemon, Refused, Failure."""
    path = str(folder.absolute())
    if path != os.fsencode(path).decode(errors="replace"):
        raise Failure(f"{click.format_filename(path)}: its name is not UTF-8 text: rename it, or give a link to it")
    body = {"path": path, "dry_run": dry_run}
    report = client.post("/import", Report, body=body, answer_s=IMPORT_S)
    click.echo(msgspec.json.encode(report) if as_json else told(report))


def told(report: Report) -> str:
    """The report as people read it."""
    taken = "would be taken" if report.dry_run else "taken"
    lines = [f"{_line(report.path)}:"]
    for kind, found in report.kinds.items():
        if kind == "other":
            continue
        some = ", ".join(map(_line, found.taken[:NAMED])) + (", …" if len(found.taken) > NAMED else "")
        names = f": {some}" if some else ""
        here = f", {found.known} here already" if found.known else ""
        lines.append(f"  {kind.replace('_', ' '):12}{len(found.taken):>6} {taken}{here}{names}")
    left = [(kind, remark) for kind, found in report.kinds.items() for remark in found.left]
    if left:
        lines += ["", "Left, or to be known:"]
        lines += [f"  {kind.replace('_', ' ')}: {_line(remark.name)}: {_line(remark.reason)}" for kind, remark in left]
    return "\n".join(lines)


def _line(text: str) -> str:
    """A text from elsewhere in a line of its own, without what would move the cursor or color it."""
    return "".join(one if one.isprintable() else " " for one in text)

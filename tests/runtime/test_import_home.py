"""What `pocketpaw import` tells people."""

from __future__ import annotations

import os

from click.testing import CliRunner
from pocketpaw.runtime.cli.commands import commands
from pocketpaw.runtime.cli.failure import ExitCode
from pocketpaw.runtime.cli.import_home import Remark, Report, Taken, told

KINDS = {
    "sessions": Taken([f"s-{number}" for number in range(7)], 2, [Remark("s-9", "nothing is said in it")]),
    "mcp_servers": Taken(["clock"], 0, []),
    "other": Taken([], 0, [Remark("traces", "traces are not kept here")]),
}


def test_it_names_some_counts_all_and_says_why_what_is_left_is_left() -> None:
    lines = told(Report("/home/ann/.pocketpaw", dry_run=False, kinds=KINDS)).splitlines()
    assert lines == [
        "/home/ann/.pocketpaw:",
        "  sessions         7 taken, 2 here already: s-0, s-1, s-2, s-3, s-4, …",
        "  mcp servers      1 taken: clock",
        "",
        "Left, or to be known:",
        "  sessions: s-9: nothing is said in it",
        "  other: traces: traces are not kept here",
    ]


def test_each_thing_has_its_line_whatever_it_is_called() -> None:
    kinds = {"memories": Taken(["two\nlines", "a\x1b[31mred"], 0, [Remark("bad\nname", "it\u2028breaks")])}
    assert told(Report("/x\r", dry_run=False, kinds=kinds)).splitlines() == [
        "/x :",
        "  memories         2 taken: two lines, a [31mred",
        "",
        "Left, or to be known:",
        "  memories: bad name: it breaks",
    ]


def test_a_folder_whose_name_is_no_text_is_refused_in_a_line() -> None:
    folder = os.fsdecode(b"/caf\xe9")
    refused = CliRunner().invoke(commands, ["import", folder, "--url", "http://127.0.0.1:9", "--token", "t"])
    assert refused.exit_code == ExitCode.FAILED
    assert refused.stderr == "pocketpaw: /caf�: its name is not UTF-8 text: rename it, or give a link to it\n"


def test_a_dry_run_says_what_would_be() -> None:
    report = Report("/x", dry_run=True, kinds={"mcp_servers": KINDS["mcp_servers"]})
    assert told(report) == "/x:\n  mcp servers      1 would be taken: clock"

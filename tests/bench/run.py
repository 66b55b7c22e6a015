"""Measure what the daemon must reach: `python tests/bench/run.py [--quick] [--harness DIR] [--out FILE]`.

Four tables: the actor runtime against pykka, what a tool's call costs, the daemon against the PocketPaw package, and
list and search of sessions at 100,000 messages against 1,000. Only ratios mean anything, and only those of one run: the
speed of a machine drifts.

The package is loaded through a harness that is no part of this project. Where it is not found, the daemon is measured
alone. `wrk` is needed for the GETs. Environments, homes and logs are kept in a folder of their own.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import daemon_bench
import growth_bench
import msgspec
from daemon_bench import Plan, Round
from harness import Harness, Sizes
from installation import ROOT, install
from row import Row, print_rows

QUICK = Plan(rounds=1, starts=3, overhead_chats=30, load=Sizes(wrk_s=1, our_chats=80, peer_chats=20, quiet_wait_s=5))
FULL = Plan(rounds=2, starts=5, overhead_chats=50, load=Sizes(wrk_s=4, our_chats=100, peer_chats=100, quiet_wait_s=60))
PARTS = ("runtime", "tools", "daemon", "growth")


class Report(msgspec.Struct):
    """What is written as JSON: the tables, and each round's figures behind the daemon's."""

    started: str
    commit: str
    python: str
    cores: int
    load_at_start: float
    tables: dict[str, list[Row]] = msgspec.field(default_factory=dict[str, list[Row]])
    rounds: list[Round] = msgspec.field(default_factory=list[Round])


def main() -> None:
    options = _options()
    state: Path = options.state
    (state / "logs").mkdir(parents=True, exist_ok=True)
    report = Report(
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        commit=_commit(),
        python=platform.python_version(),
        cores=os.cpu_count() or 1,
        load_at_start=os.getloadavg()[0],
    )
    if "runtime" in options.parts:
        report.tables["runtime"] = _measure_apart("runtime_bench.py", "--rounds", 5 if options.quick else 15)
        print_rows("Actor runtime", "pykka", report.tables["runtime"])
    if "tools" in options.parts:
        report.tables["tools"] = _measure_apart("tools_bench.py", "--times", 100 if options.quick else 400)
        print_rows("A tool's call", "bare", report.tables["tools"])
    if "daemon" in options.parts:
        _measure_daemon(report, QUICK if options.quick else FULL, state, options.harness)
        print_rows("Daemon", "PocketPaw", report.tables["daemon"])
    if "growth" in options.parts:
        times = 100 if options.quick else 400
        report.tables["growth"] = growth_bench.measure(install(state / "ours"), state, times)
        print_rows("Sessions at 100,000 messages", "at 1,000", report.tables["growth"])
    out: Path = options.out or state / "report.json"
    out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    missed = [row.name for table in report.tables.values() for row in table if row.is_met is False]
    print(f"\n{len(missed)} missed{': ' if missed else ''}{', '.join(missed)}. Written to {out}")


def _measure_apart(program: str, option: str, number: int) -> list[Row]:
    """In a process of its own, whose memory may be measured too."""
    command = [sys.executable, str(Path(__file__).with_name(program)), "--json", option, str(number)]
    return msgspec.json.decode(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout, type=list[Row])


def _measure_daemon(report: Report, plan: Plan, state: Path, folder: Path) -> None:
    harness = Harness(folder, state) if (folder / "bench.py").exists() else None
    if harness is None:
        print(f"there is no load harness in {folder}: the daemon is measured without a peer")
    if shutil.which("wrk") is None:
        print("wrk is not installed: the GETs are not measured")
    report.rounds = daemon_bench.measure(plan, install(state / "ours"), state, harness)
    report.tables["daemon"] = daemon_bench.rows(report.rounds)


def _commit() -> str:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return described.stdout.strip()


def _options() -> argparse.Namespace:
    harness = Path(os.environ.get("POCKETPAW_BENCH_HARNESS", ROOT.parent / "shared/bench"))
    state = Path(os.environ.get("BENCH_STATE", Path(tempfile.gettempdir(), "pocketpaw-bench")))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about 4 minutes instead of 20")
    parser.add_argument("--harness", type=Path, default=harness, metavar="DIR", help="the load harness")
    parser.add_argument(
        "--state", type=Path, default=state, metavar="DIR", help="where environments and homes are kept"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the report as JSON; by default in the state folder")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="measure only these")
    return parser.parse_args()


if __name__ == "__main__":
    main()

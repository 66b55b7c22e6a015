"""`serve --dev`: the daemon in a child process, started anew whenever a source file changes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import click

from .child_daemon import ChildDaemon
from .failure import ExitCode

POLL_S = 0.3
SOURCES = Path(__file__).resolve().parent.parent
LAYERS = ("config", "runtime", "storage", "actors", "http")

_HOPELESS = {ExitCode.USAGE, ExitCode.HOME, ExitCode.PORT, ExitCode.ALREADY_RUNNING}
"""Exit codes that no change of the sources mends."""


def serve_and_reload(arguments: Sequence[str], sources: Path = SOURCES) -> int:
    """Run `pocketpaw serve` until SIGINT or SIGTERM, again after each change; returns the exit code.

    A daemon that ends by itself, as for a mistake in the code, is started again by the next change.
    """
    is_stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_stopping
        is_stopping = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    while True:
        before, daemon = snapshot(sources), ChildDaemon(arguments)
        try:
            changed = _wait(lambda: is_stopping, before, sources, daemon)
        finally:
            exit_code = daemon.stop()
        if is_stopping or changed is None:
            return exit_code
        click.echo(f"{changed} has changed: starting anew", err=True)


def snapshot(sources: Path) -> dict[Path, int]:
    """When each source file was last written."""
    times: dict[Path, int] = {}
    for layer in LAYERS:
        for path in (sources / layer).rglob("*.py"):
            try:
                times[path] = path.stat().st_mtime_ns
            except FileNotFoundError:
                continue  # deleted since it was listed
    return times


def _wait(is_stopping: Callable[[], bool], before: dict[Path, int], sources: Path, daemon: ChildDaemon) -> Path | None:
    """Return the file that has changed; None if the daemon is to stop, or need not be started again."""
    is_down = False
    while not is_stopping():
        if daemon.exit_code in _HOPELESS:
            return None
        if daemon.exit_code is not None and not is_down:
            is_down = True
            click.echo("the daemon has ended; it is started again when a source file changes", err=True)
        if changed := snapshot(sources).items() ^ before.items():
            return min(path for path, _ in changed).relative_to(sources)
        time.sleep(POLL_S)
    return None

"""A daemon in a process of its own that belongs to this one: for a visit of `chat`, and for `serve --dev`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from .failure import ExitCode, NoDaemon

START_S = 60.0
STOP_S = 15.0  # the daemon gives its own parts 10
POLL_S = 0.05


class ChildDaemon:
    """`pocketpaw serve`, started here. Its stdin is a pipe from us: it stops when we close it, or when we are killed.

    It has its own session, so that Ctrl-C reaches only us.
    """

    def __init__(self, arguments: Sequence[str], log: Path | None = None) -> None:
        """`log` is written anew with what it prints and logs; without one, that goes where ours goes."""
        self._log = log
        # -P: the folder in which the user happens to be is no place to import from
        command = [sys.executable, "-P", "-m", "pocketpaw.runtime.cli", "serve", "--until-eof", *arguments]
        with log.open("wb") if log is not None else nullcontext() as output:
            self._process = subprocess.Popen(  # noqa: S603 - every argument is ours
                command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def wait_until_serving(self, find_url: Callable[[], str | None]) -> str:
        """Return the address as soon as `find_url` knows it.

        Should another daemon have been faster to take the home folder, its address is as good.
        Raises: NoDaemon
        """
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if url := find_url():
                return url
            if self.exit_code not in (None, ExitCode.ALREADY_RUNNING):
                raise NoDaemon(f"the daemon could not start: {self._last_words()}")
            time.sleep(POLL_S)
        raise NoDaemon(f"the daemon did not start within {START_S:g} s: {self._last_words()}")

    def stop(self) -> int:
        """Ask it to stop, wait, kill it if it does not; returns its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()
        except BaseException:  # a second Ctrl-C while we wait: leave at once, and leave nothing behind
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            raise

    def _last_words(self) -> str:
        words = self._log.read_text(errors="replace").strip().rpartition("\n")[2] if self._log is not None else ""
        return words.removeprefix("pocketpaw: ") or f"exit code {self.exit_code}"


def stop_at_eof() -> None:
    """Have this process stop, as by SIGTERM, when its stdin ends; see `ChildDaemon`."""

    def wait_for_eof() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait_for_eof, name="until-eof", daemon=True).start()

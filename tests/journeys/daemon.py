"""The real daemon in its own process, for journeys: start it, speak with it, kill it, and see that nothing is left.

    daemon = Daemon(tmp_path)              # a home folder of its own in there; nothing of the caller's environment
    daemon.start()                         # returns when it serves
    daemon.http.get("/api/v1/health"), daemon.url, daemon.token, daemon.pid, daemon.log
    daemon.kill()                          # SIGKILL, as a power cut; start() again continues with the same home
    daemon.stop()                          # SIGTERM; returns the exit code

`start` and `stop` block: in a trio test whose own tasks the daemon needs meanwhile, run them in a thread. The fixtures
in `conftest.py` stop every daemon at the end of its test and then call `check_nothing_is_left`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import httpx2
import psutil
from pocketpaw.config import Home
from pocketpaw.runtime.ownership import running_daemon

START_S = 30.0
STOP_S = 20.0
GONE_S = 5.0
POLL_S = 0.02

COMMAND = [sys.executable, "-P", "-m", "pocketpaw.runtime.cli"]
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "VIRTUAL_ENV", "PYTHONPATH", "COVERAGE_PROCESS_START")


class Daemon:
    """One home folder and the daemon that runs on it, now or later."""

    def __init__(
        self, folder: Path, *, settings: Mapping[str, str] | None = None, command: Sequence[str] = COMMAND
    ) -> None:
        """`settings` by name, as texts: they become environment variables. `command` runs `pocketpaw`, or its like."""
        self.folder = folder
        self.command = command
        self.home = Home(folder / "home" / ".pocketpaw")
        self._temporary = folder / "tmp"
        self._temporary.mkdir(parents=True, exist_ok=True)
        self._log_file = folder / "daemon.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.settings = dict(settings or {})

    # Its life ---------------------------------------------------------------------------------------------------------

    def start(self, *options: str, timeout_s: float = START_S) -> None:
        """Run `pocketpaw serve` on a free port, and wait until it serves. What it prints is added to the log."""
        self.launch("--port", "0", *options)
        self.wait_until_serving(timeout_s)

    def launch(self, *options: str) -> None:
        """As `start`, but do not wait, and take the port from the settings unless `options` name one."""
        assert self._process is None or self._process.poll() is not None, "it is running"
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.command, "serve", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
            )

    def wait_until_serving(self, timeout_s: float = START_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not running_daemon(self.home):
            assert self.is_running, f"the daemon ended with {self.exit_code}:\n{self.log}"
            assert time.monotonic() < deadline, f"the daemon does not serve after {timeout_s:g} s:\n{self.log}"
            time.sleep(POLL_S)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop, and wait; returns its exit code."""
        self.signal(number)
        return self.wait()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.signal(signal.SIGKILL)
        self.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Wait for its end; returns the exit code."""
        assert self._process is not None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the daemon does not end:\n{self.log}") from None

    # What can be seen of it -------------------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.poll() if self._process is not None else None

    @property
    def url(self) -> str:
        """Where it serves now: on a free port, another one after a restart of its listener."""
        return running_daemon(self.home) or ""

    @property
    def token(self) -> str:
        return self.home.access_token.read_text().strip()

    @property
    def log(self) -> str:
        """All that it has printed and logged, over all its lives."""
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    @property
    def http(self) -> httpx2.Client:
        """A new client; as it comes from this machine, it needs no credential."""
        return httpx2.Client(base_url=self.url, trust_env=False, timeout=30.0)

    def processes(self) -> list[psutil.Process]:
        """The daemon and all that it started, whoever their parent is now: they have its folder for temporary files."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def open_files(self) -> int:
        return psutil.Process(self.pid).num_fds()

    # Commands on the same home ----------------------------------------------------------------------------------------

    def run(
        self, *arguments: str, stdin: str = "", timeout_s: float = 60.0, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `pocketpaw` with these arguments, on this home."""
        return subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**self.environment(), **variables},
            check=False,
        )

    def environment(self) -> dict[str, str]:
        """Nothing of the caller's that could reach a real home, model or proxy."""
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        ours = {
            "HOME": str(self.home.root.parent),
            "POCKETPAW_HOME": str(self.home.root),
            "TMPDIR": str(self._temporary),
        }
        return {**kept, **ours, **{f"POCKETPAW_{name.upper()}": text for name, text in self.settings.items()}}

    # The end ----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop it if it runs, and see that nothing is left of it."""
        try:
            if self.is_running:
                assert self.stop() == 0, self.log
        finally:
            if self.is_running:
                self.kill()
            self.check_nothing_is_left()

    def check_nothing_is_left(self) -> None:
        """No process, no temporary file, nobody on the port, and the home folder is not held."""
        deadline = time.monotonic() + GONE_S
        while left := self.processes():
            if time.monotonic() > deadline:
                names = [f"{process.pid} {' '.join(process.cmdline())}" for process in left]
                for process in left:
                    process.kill()
                raise AssertionError(f"the daemon left processes behind: {names}")
            time.sleep(POLL_S)
        assert not self.home.access_token.exists() or self.token not in self.log, "the log shows the token"
        leftovers = [*self._temporary.iterdir(), *self.home.root.glob(".*.tmp")]
        assert not leftovers, f"the daemon left files behind: {leftovers}"
        assert running_daemon(self.home) is None

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            is_alive = process.status() != psutil.STATUS_ZOMBIE
            return is_alive and process.environ().get("TMPDIR") == str(self._temporary)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False


def free_port() -> int:
    """A TCP port that nobody has now; for a daemon whose listener has to come back at the same one."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def with_model_server(base_url: str) -> dict[str, str]:
    """The settings for a daemon whose answers come from `tests/fakes/model_server.py`."""
    return {
        "agent_backend": "openai_compatible",
        "openai_compatible_base_url": base_url,
        "openai_compatible_model": "fake",
    }

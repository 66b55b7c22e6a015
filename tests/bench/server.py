"""The processes under measurement: servers on homes of their own, and the instant model behind them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import psutil
from client import API, TOKEN

START_S = 90.0
STOP_S = 20.0
POLL_S = 0.002
ADDRESSES = Path(__file__).with_name("addresses.lua")
GET_HEALTH = (
    f"GET {API}/health HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
)


class Server:
    """A command that serves the API, started on a free port each time.

    Args:
        command: what runs it; `--host` and `--port` are added.
        make_home: makes its home folder anew.
        many_addresses: its rate limit can only be passed by claiming to be many clients.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        make_home: Callable[[], None],
        log: Path,
        many_addresses: bool = False,
    ) -> None:
        self.name = name
        self.many_addresses = many_addresses
        self.make_home = make_home
        self.port = 0
        self._command = [*command, "--host", "127.0.0.1"]
        self._environment = {**_environment(), **environment}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> float:
        """Start it; returns the seconds until GET /health answers 200 the first time."""
        self.port = free_port()
        with self._log.open("ab") as log:
            started = time.perf_counter()
            self._process = subprocess.Popen(
                [*self._command, "--port", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self._log.parent,
            )
        while time.perf_counter() < started + START_S:
            if _is_healthy(self.port):
                return time.perf_counter() - started
            if self._process.poll() is not None:
                break
            time.sleep(POLL_S)
        self.stop()
        raise RuntimeError(f"{self.name} did not come up: see {self._log}")

    def stop(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        children = psutil.Process(self.pid).children(recursive=True)
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for child in children:
            if child.is_running():
                child.kill()

    def memory_mb(self) -> float:
        """What it and its children have in memory."""
        root = psutil.Process(self.pid)
        return sum(process.memory_info().rss for process in [root, *root.children(recursive=True)]) / 2**20


class InstantModel:
    """A model server that answers at once, in a process of its own."""

    def __init__(self, command: Sequence[str], port: int) -> None:
        if _is_listening(port):
            raise RuntimeError(f"port {port} is taken, so the instant model cannot be started there")
        self.port = port
        self._process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL)
        until = time.monotonic() + START_S
        while not _is_listening(port):
            if self._process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise RuntimeError(f"the instant model did not come up: {' '.join(command)}")
            time.sleep(POLL_S)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def our_server(binary: Path, home: Path, *, model_port: int = 0) -> Server:
    """Our daemon with its defaults, but for the model behind it (none without a port) and no rate limit."""
    root = home / ".pocketpaw"

    def make_home() -> None:
        shutil.rmtree(home, ignore_errors=True)
        root.mkdir(parents=True, mode=0o700)
        settings = {
            "agent_backend": "openai_compatible",
            "openai_compatible_base_url": f"http://127.0.0.1:{model_port}/v1",
            "openai_compatible_api_key": "sk-fake",
            "openai_compatible_model": "fake",
        }
        (root / "config.json").write_bytes(msgspec.json.encode(settings))
        token = root / "access_token"
        token.write_text(TOKEN)
        token.chmod(0o600)

    environment = {"HOME": str(home), "POCKETPAW_API_RATE_LIMIT_PER_KEY": "0"}
    log = home.with_suffix(".log")
    return Server("ours", [str(binary), "serve"], environment=environment, make_home=make_home, log=log)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wrk_per_s(port: int, path: str, connections: int, seconds: int, *, many_addresses: bool = False) -> float:
    """Answers a second to GETs over so many connections; none of them may fail."""
    token = f"Authorization: Bearer {TOKEN}"
    url = f"http://127.0.0.1:{port}{API}{path}"
    script = ["-s", str(ADDRESSES), url, "--", "X-Forwarded-For" if many_addresses else "X-Nobody"]
    load = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-H", token, *script]
    printed = subprocess.run(load, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", printed)
    if found is None or "Non-2xx" in printed or "Socket errors" in printed:
        raise RuntimeError(f"GET {path} failed under load:\n{printed}")
    return float(found[1])


def _environment() -> dict[str, str]:
    """Nothing of ours that changes what is measured. Byte code must be kept, or each start compiles everything."""
    kept = ("PATH", "LANG", "LC_ALL", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ}


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_healthy(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(GET_HEALTH.encode())
            return connection.recv(64).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False

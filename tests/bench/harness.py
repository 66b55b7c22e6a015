"""The load harness: a folder outside of this project that knows how to run the PocketPaw package, and loads either.

Of its parts are used: `bench.sh` to install the package and make its home, `peer_launch.py` to start it, `fake_llm.py`
as the model, and `bench.py` for the loads. Both servers are started here, so that each start has a port of its own:
`bench.py` would wait a minute for the last one's.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
from client import TOKEN
from figures import Figures
from server import InstantModel, Server

MODEL_PORT = 9099  # stands in the homes that bench.sh makes
ENDPOINTS = (
    "/health",
    "/version",
    "/sessions",
    "/settings",
    "/mcp/status",
    "/reminders",
    "/skills",
    "/audit",
    "/metrics/system",
)


class Sizes(msgspec.Struct, frozen=True):
    """How much load. The chats are those with one client; with 8 there are twice as many, with 32 four times."""

    wrk_s: int
    our_chats: int
    peer_chats: int
    quiet_wait_s: float


class _Requests(msgspec.Struct):
    rps: float = 0.0
    non200: int = 0
    socket_errors: int = 0
    error: str = ""


class _Endpoint(msgspec.Struct):
    status: int
    c1: _Requests | None = None
    c16: _Requests | None = None


class _Chats(msgspec.Struct):
    n: int
    chats_per_s: float
    errors: dict[str, int]
    wrong_text: int


class _ChatLoads(msgspec.Struct):
    c8: _Chats | None = None
    crash: str = ""


class _Memory(msgspec.Struct):
    rss_mb: float


class _Section(msgspec.Struct):
    calib_ms: float


class _Noise(msgspec.Struct):
    foreign_pct_of_one_core: float


class _Results(msgspec.Struct):
    b_idle: _Memory
    d_chat: _ChatLoads
    h_memory_end: dict[str, _Memory]
    c_get: dict[str, msgspec.Raw] = msgspec.field(default_factory=dict[str, msgspec.Raw])


class _Output(msgspec.Struct):
    results: _Results
    before_section: dict[str, _Section]
    noise: dict[str, _Noise]


class Harness:
    def __init__(self, folder: Path, state: Path) -> None:
        self._folder = folder
        self._state = state
        self._python = str(state / "venv/bin/python")
        self._environment = {**os.environ, "BENCH_STATE": str(state)}

    def set_up(self) -> None:
        """Install the package and what the harness needs, unless it was done before."""
        self._run_script("setup")

    def start_model(self) -> InstantModel:
        return InstantModel([self._python, str(self._folder / "fake_llm.py")], MODEL_PORT)

    def peer(self) -> Server:
        """The PocketPaw package with its defaults."""
        return Server(
            "PocketPaw",
            [str(self._state / "peer/bin/python"), str(self._folder / "peer_launch.py"), "serve"],
            environment={"HOME": str(self._state / "home-peer")},
            make_home=lambda: self._run_script("home-peer"),
            log=self._state / "logs/peer.log",
            many_addresses=True,
        )

    def load(self, server: Server, sizes: Sizes, chats: int, *, has_wrk: bool) -> Figures:
        """Measure a running server that has been idle for a while: memory, GETs, chats, and memory again."""
        out = self._state / f"{server.name}.json"
        command = [
            *(self._python, str(self._folder / "bench.py"), "--base", f"http://127.0.0.1:{server.port}"),
            *("--token", TOKEN, "--pid", str(server.pid), "--label", server.name, "--out", str(out)),
            *("--sections", "bcdh" if has_wrk else "bdh", "--tmp", str(self._state)),
            *("--wrk-s", str(sizes.wrk_s), "--chats", str(chats), "--quiet-wait", f"{sizes.quiet_wait_s:g}"),
            "--xff" if server.many_addresses else "--no-xff",
        ]
        with (self._state / f"logs/{server.name}-load.log").open("wb") as log:
            subprocess.run(command, check=True, env=self._environment, stdout=log, stderr=log)
        return _figures(msgspec.json.decode(out.read_bytes(), type=_Output))

    def _run_script(self, *arguments: str) -> None:
        script = str(self._folder / "bench.sh")
        subprocess.run([script, *arguments], check=True, env=self._environment, stdout=subprocess.DEVNULL)


def _figures(output: _Output) -> Figures:
    results = output.results
    chats = results.d_chat.c8
    if chats is None or chats.errors or chats.wrong_text:
        raise RuntimeError(f"chats failed under load: {results.d_chat}")
    figures = Figures(
        idle_mb=results.b_idle.rss_mb,
        chats_per_s=chats.chats_per_s,
        loaded_mb=results.h_memory_end["10s_later"].rss_mb,
    )
    for path in ENDPOINTS:
        if path not in results.c_get:
            continue
        endpoint = msgspec.json.decode(results.c_get[path], type=_Endpoint)
        if endpoint.status != 200:
            figures.unanswered[path] = endpoint.status
        for connections, found in ((1, endpoint.c1), (16, endpoint.c16)):
            if found is not None:
                if found.error or found.non200 or found.socket_errors:
                    raise RuntimeError(f"GET {path} failed under load: {found}")
                figures.gets_per_s[f"GET {path}, c{connections}"] = found.rps
    figures.calibration_ms = [section.calib_ms for section in output.before_section.values()]
    figures.foreign_percent = max((noise.foreign_pct_of_one_core for noise in output.noise.values()), default=0.0)
    return figures

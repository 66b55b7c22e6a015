"""A cloudflared that makes no tunnel: flags, log and metrics server of the real one, and an edge on loopback.

fake = place(tmp_path / "bin")             # then `fake.program` is what `cloudflared_path` may be
fake.told(stderr_bytes=2**20)              # from its next start on; see `Told`
fake.be_ready(False)                       # at once: `/ready` answers 503
fake.runs()[-1].url, .edge_port, .pid      # how it was started, each time; who connects to the edge reaches the daemon

What comes to the edge is passed on byte for byte: no header says that it was forwarded. As a program this needs nothing
but Python's own library.
"""

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import NamedTuple

# The program ----------------------------------------------------------------------------------------------------------

BOX = "-" * 92
NEW_RUN = "runs"
UNREADY = "unready"


def log(text: str, level: str = "INF") -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sys.stderr.write(f"{now} {level} {text}\n")
    sys.stderr.flush()


def arguments() -> argparse.Namespace:
    """The flags of the real one that are used here; it ends with status 1 at any other."""
    parser = argparse.ArgumentParser("cloudflared", allow_abbrev=False)
    parser.add_argument("--folder")
    parser.add_argument("command", choices=["tunnel"])
    parser.add_argument("--config")
    parser.add_argument("--no-autoupdate", action="store_true")
    parser.add_argument("--loglevel", default="info")
    parser.add_argument("--metrics", default="localhost:0")
    parser.add_argument("--grace-period", default="30s")
    parser.add_argument("--url")
    given, rest = parser.parse_known_args()
    if rest not in ([], ["run"]) or bool(rest) == bool(given.url):
        sys.stderr.write(f"Incorrect Usage: {' '.join(sys.argv)}\n")
        sys.exit(1)
    return given


class Metrics(BaseHTTPRequestHandler):
    folder: str

    def do_GET(self) -> None:
        if self.path != "/ready":
            self.send_error(404)
            return
        is_ready = not Path(self.folder, UNREADY).exists()
        body = json.dumps({"status": 200 if is_ready else 503, "readyConnections": int(is_ready)}).encode()
        self.send_response(200 if is_ready else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the base class calls it so
        """The real one logs no request."""


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()


def serve_edge(edge: socket.socket, origin: tuple[str, int]) -> None:
    while True:
        visitor, _ = edge.accept()
        daemon = socket.create_connection(origin)
        for pair in ((visitor, daemon), (daemon, visitor)):
            threading.Thread(target=pump, args=pair, daemon=True).start()


def leave(*_: object) -> None:
    log("Initiating graceful shutdown due to signal terminated ...")
    os._exit(0)


def chatter(count: int) -> None:
    line = f'Serve tunnel error error="{"x" * 900}"'
    for _ in range(count // 1000 + 1):
        log(line, "ERR")


def main() -> None:
    given = arguments()
    folder = Path(given.folder)
    told = Told(**json.loads((folder / "told.json").read_text()))
    signal.signal(signal.SIGTERM, signal.SIG_IGN if told.ignores_sigterm else leave)
    if told.has_child and os.fork() == 0:
        time.sleep(600)
    number = len((folder / NEW_RUN).read_text().splitlines())
    edge = socket.create_server(("127.0.0.1", 0))
    if given.url:
        host, _, port = given.url.removeprefix("http://").rpartition(":")
        threading.Thread(target=serve_edge, args=(edge, (host.strip("[]"), int(port))), daemon=True).start()
    url = f"https://quick-paw-{number + 1}.trycloudflare.com" if given.url else ""
    run = Run(os.getpid(), sys.argv[3:], url, edge.getsockname()[1], dict(os.environ))
    with (folder / NEW_RUN).open("a") as runs:
        runs.write(json.dumps(run) + "\n")
    if not url and not os.environ.get("TUNNEL_TOKEN"):
        sys.stderr.write('"cloudflared tunnel run" requires the ID or name of the tunnel to run\n')
        sys.exit(1)
    if url:
        log("Thank you for trying Cloudflare Tunnel. Doing so, without a Cloudflare account, is a quick way to try it.")
        log("Requesting new quick Tunnel on trycloudflare.com...")
    chatter(told.stderr_bytes)
    if told.fails:
        sys.stderr.write('failed to request quick Tunnel: Post "https://api.trycloudflare.com/tunnel": no such host\n')
        sys.exit(1)
    if told.hangs:
        time.sleep(600)
    box = (f"+{BOX}+", "|  Your quick Tunnel has been created! Visit it at:  |", f"|  {url}  |", f"+{BOX}+")
    for line in box if url else (f"Starting tunnel tunnelID={number}",):
        log(line)
    log(f"Configuration file {given.config} was empty", "ERR")
    Metrics.folder = str(folder)
    metrics_host, _, metrics_port = given.metrics.rpartition(":")
    server = HTTPServer((metrics_host, int(metrics_port)), Metrics)
    log(f"Starting metrics server on 127.0.0.1:{server.server_port}/metrics")
    chatter(told.stderr_bytes)
    (folder / "chattered").touch()
    server.serve_forever()


# What a test has of it ------------------------------------------------------------------------------------------------


class Told(NamedTuple):
    """How it shall be: `fails` to be given an address, `hangs` before it is, writes so many bytes before and after."""

    stderr_bytes: int = 0
    fails: bool = False
    hangs: bool = False
    ignores_sigterm: bool = False
    has_child: bool = False


class Run(NamedTuple):
    """One start of it."""

    pid: int
    arguments: list[str]
    url: str
    edge_port: int
    environment: dict[str, str]


class FakeCloudflared:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.program = folder / "cloudflared"

    def told(self, **how: object) -> None:
        (self._folder / "told.json").write_text(json.dumps(how))

    def be_ready(self, is_ready: bool) -> None:
        if is_ready:
            (self._folder / UNREADY).unlink(missing_ok=True)
        else:
            (self._folder / UNREADY).touch()

    @property
    def has_chattered(self) -> bool:
        """Whether all of its `stderr_bytes` were taken, twice."""
        return (self._folder / "chattered").exists()

    def runs(self) -> list[Run]:
        return [Run(*json.loads(line)) for line in (self._folder / NEW_RUN).read_text().splitlines()]


def place(folder: Path) -> FakeCloudflared:
    """Put the program into `folder`."""
    folder.mkdir(parents=True)
    (folder / NEW_RUN).touch()
    fake = FakeCloudflared(folder)
    fake.told()
    words = f"exec '{sys.executable}' -I -S '{Path(__file__).resolve()}' --folder '{folder}'"
    fake.program.write_text(f'#!/bin/sh\n{words} "$@"\n')
    fake.program.chmod(0o755)
    return fake


if __name__ == "__main__":
    main()

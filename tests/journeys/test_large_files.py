"""Two gigabytes up and down, ten thousand files as a zip: memory stays flat, and of who leaves nothing is left.

The client is a plain socket: a library's would cost more than the daemon. What it sends is zeros, what it downloads a
sparse file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import threading
import time
import zipfile
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil
import pytest

from .conftest import MakeDaemon
from .daemon import Daemon

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

MB = 1_000_000
LARGE_BYTES = 2_000 * MB
PIECE = bytes(MB)
FILES = 10_000
FILE_BYTES = 20_000

FLAT_BYTES = 16 * MB
"""What a transfer may add to the daemon's memory, at its peak."""
PER_FILE_BYTES = 2_500
"""A zip ends with a list of what is in it, which has to be kept until then."""
LATE_S = 5.0
"""How long anybody else may wait for an answer meanwhile, at worst."""

BOUNDARY = "boundary-0123456789"
END = f"\r\n--{BOUNDARY}--\r\n".encode()


class Watch:
    """The daemon's memory at its peak, and the longest wait of another client, over the block."""

    def __init__(self, daemon: Daemon) -> None:
        self._process = psutil.Process(daemon.pid)
        self._daemon = daemon
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._watch_memory, self._watch_answers)]
        self._before = self._process.memory_info().rss
        self._began = 0.0
        self.growth_bytes = 0
        self.longest_s = 0.0
        self.took_s = 0.0

    def __enter__(self) -> Watch:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.took_s = time.monotonic() - self._began
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _watch_memory(self) -> None:
        while not self._is_over.wait(0.01):
            self.growth_bytes = max(self.growth_bytes, self._process.memory_info().rss - self._before)

    def _watch_answers(self) -> None:
        with self._daemon.http as http:
            while not self._is_over.wait(0.05):
                asked = time.monotonic()
                http.get("/health/live").raise_for_status()
                self.longest_s = max(self.longest_s, time.monotonic() - asked)

    def __str__(self) -> str:
        return (
            f"{self.took_s:.1f} s, memory +{self.growth_bytes / MB:.1f} MB at its peak,"
            f" longest wait of another client {self.longest_s * 1000:.0f} ms"
        )


@dataclass(frozen=True)
class Answer:
    """The head of a response, and the socket that its body is read from."""

    status: int
    head: str
    body: bytes
    sock: socket.socket

    @property
    def length(self) -> int:
        found = re.search(r"content-length: (\d+)", self.head)
        assert found is not None
        return int(found[1])

    def read_on(self) -> Iterator[bytes]:
        """The rest of the body as it comes, its framing included."""
        yield self.body
        while data := self.sock.recv(MB):
            yield data


def connect(daemon: Daemon) -> socket.socket:
    host, port = daemon.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def send_head(sock: socket.socket, line: str, *headers: str) -> None:
    sock.sendall("\r\n".join([f"{line} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]).encode())


def receive_head(sock: socket.socket) -> Answer:
    received = b""
    while b"\r\n\r\n" not in received:
        data = sock.recv(65_536)
        assert data, received
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    return Answer(int(head.split()[1]), head.decode().lower(), body, sock)


@contextmanager
def getting(daemon: Daemon, path: str) -> Generator[Answer]:
    with closing(connect(daemon)) as sock:
        send_head(sock, f"GET /api/v1/files/{path}")
        yield receive_head(sock)


@contextmanager
def uploading(daemon: Daemon, name: str, size: int) -> Generator[socket.socket]:
    """A form with a file of which the first piece is still to be sent."""
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    length = f"Content-Length: {len(part) + size + len(END)}"
    with closing(connect(daemon)) as sock:
        kind = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
        send_head(sock, "POST /api/v1/files/upload", kind, length)
        sock.sendall(part)
        yield sock


def upload(daemon: Daemon, name: str, size: int) -> dict[str, object]:
    with uploading(daemon, name, size) as sock:
        for _ in range(size // MB):
            sock.sendall(PIECE)
        sock.sendall(END)
        answer = receive_head(sock)
        body = b"".join(answer.read_on())
        assert answer.status == 200, body
        return json.loads(body)


@pytest.fixture
def jail(tmp_path: Path) -> Iterator[Path]:
    """A folder with much in it, little of which is on the disk; gone at the end, as others need the room."""
    folder = tmp_path / "jail"
    (folder / "many").mkdir(parents=True)
    make_sparse(folder / "large.bin", LARGE_BYTES)
    make_sparse(folder / "small.bin", MB)
    for number in range(FILES):
        make_sparse(folder / "many" / f"{number}.bin", FILE_BYTES)
    yield folder
    shutil.rmtree(folder)


def make_sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


@pytest.fixture
def daemon(make_daemon: MakeDaemon, jail: Path) -> Daemon:
    settings = {
        "file_jail_path": str(jail),
        "media_max_file_size_mb": str(LARGE_BYTES // MB + 1),
        "api_rate_limit_per_key": "0",
    }
    made = make_daemon(settings=settings)
    made.start()
    (jail / "few").mkdir()
    make_sparse(jail / "few" / "a", MB)
    upload(made, "warm.bin", 20 * MB)  # what is loaded once is loaded now
    for path in ("download?path=small.bin", "download-zip?path=few"):
        with getting(made, path) as answer:
            assert sum(map(len, answer.read_on())) > 0
    return made


def open_files(daemon: Daemon) -> list[str]:
    """The files that the daemon holds open in its jail and its uploads."""
    places = (str(daemon.folder.parent / "jail"), str(daemon.home.uploads))
    found: list[str] = []
    for entry in Path(f"/proc/{daemon.pid}/fd").iterdir():
        try:
            target = os.readlink(entry)  # noqa: PTH115 it need not be a path
        except FileNotFoundError:
            continue  # closed meanwhile
        found += [target] if target.startswith(places) else []
    return found


def left_over(daemon: Daemon, jail: Path) -> list[str]:
    """What is still there of a transfer: open files, and temporary ones."""
    uploads = daemon.home.uploads
    staged = [str(path) for path in uploads.iterdir()] if uploads.exists() else []
    return [*open_files(daemon), *staged, *map(str, jail.glob(".pocketpaw-*"))]


def wait_until_nothing_is_left(daemon: Daemon, jail: Path) -> None:
    until = time.monotonic() + 10
    while left := left_over(daemon, jail):
        assert time.monotonic() < until, left
        time.sleep(0.02)


def check_flat(watch: Watch, what: str, allowed_bytes: int = FLAT_BYTES) -> None:
    print(f"\n{what}: {watch}")
    assert watch.growth_bytes < allowed_bytes, str(watch)
    assert watch.longest_s < LATE_S, str(watch)


def test_two_gigabytes_go_up_and_down_and_memory_stays_flat(daemon: Daemon, jail: Path) -> None:
    with Watch(daemon) as watch:
        kept = upload(daemon, "up.bin", LARGE_BYTES)
    assert kept == {"ok": True, "path": str(jail / "up.bin"), "size": LARGE_BYTES}
    assert (jail / "up.bin").stat().st_size == LARGE_BYTES
    assert left_over(daemon, jail) == []
    check_flat(watch, "upload of 2 GB")

    with Watch(daemon) as watch, getting(daemon, "download?path=large.bin") as answer:
        assert (answer.status, answer.length) == (200, LARGE_BYTES)
        assert sum(map(len, answer.read_on())) == LARGE_BYTES
    check_flat(watch, "download of 2 GB")
    wait_until_nothing_is_left(daemon, jail)


def test_ten_thousand_files_are_zipped_while_they_are_sent(daemon: Daemon, jail: Path, tmp_path: Path) -> None:
    target = "/api/v1/files/download-zip?path=many"
    with (
        Watch(daemon) as watch,
        daemon.http as http,
        http.stream("GET", target) as answer,
        (tmp_path / "many.zip").open("wb") as file,
    ):
        file.writelines(answer.iter_bytes())
    with zipfile.ZipFile(tmp_path / "many.zip") as archive:
        assert sorted(archive.namelist()) == sorted(f"{number}.bin" for number in range(FILES))
        assert archive.testzip() is None
        assert {info.file_size for info in archive.infolist()} == {FILE_BYTES}
    check_flat(watch, f"zip of {FILES} files", FLAT_BYTES + FILES * PER_FILE_BYTES)
    wait_until_nothing_is_left(daemon, jail)


def test_whoever_breaks_off_leaves_nothing_behind(daemon: Daemon, jail: Path) -> None:
    before = daemon.open_files()
    with Watch(daemon) as watch:
        for _ in range(5):
            with uploading(daemon, "half.bin", LARGE_BYTES) as sock:
                for _ in range(100):
                    sock.sendall(PIECE)
                assert left_over(daemon, jail) != []
            wait_until_nothing_is_left(daemon, jail)
            for path in ("download?path=large.bin", "download-zip?path=many"):
                with getting(daemon, path) as answer:
                    assert answer.status == 200
                wait_until_nothing_is_left(daemon, jail)
    assert not (jail / "half.bin").exists()
    check_flat(watch, "15 transfers broken off", FLAT_BYTES + FILES * PER_FILE_BYTES)
    until = time.monotonic() + 10
    while daemon.open_files() > before:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_slow_client_costs_no_memory(daemon: Daemon, jail: Path) -> None:
    with Watch(daemon) as watch, getting(daemon, "download?path=large.bin") as answer:
        assert answer.status == 200
        time.sleep(3)
    check_flat(watch, "a client that does not read")
    wait_until_nothing_is_left(daemon, jail)


def test_a_file_over_the_limit_is_refused_before_it_is_read(daemon: Daemon, jail: Path) -> None:
    with uploading(daemon, "huge.bin", LARGE_BYTES + 10 * MB) as sock:
        assert receive_head(sock).status == 413
    wait_until_nothing_is_left(daemon, jail)

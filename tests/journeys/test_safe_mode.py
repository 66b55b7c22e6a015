"""A damaged database, a bad configuration, a full or read-only disk: the API is up and says so, and nothing is lost."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pocketpaw.runtime.cli.failure import ExitCode

from ..fakes.model_server import Reply
from .conftest import MakeDaemon
from .daemon import Daemon, free_port, with_model_server
from .faults import wait_until
from .model_server_process import ModelServerProcess

UP_WITHIN_S = 10.0
"""Measured: about 1 s; the bound is for a busy machine."""
UNLIMITED = {"api_rate_limit_per_key": "0"}
PAGE_BYTES = 4096
SESSIONS = 60
DISK_MB = 24

Json = dict[str, Any]


def answering(model_server: ModelServerProcess) -> dict[str, str]:
    return {**with_model_server(model_server.base_url), **UNLIMITED}


def start(daemon: Daemon) -> float:
    """Start it; how long until it served."""
    before = time.monotonic()
    daemon.start()
    took_s = time.monotonic() - before
    print(f"\nAPI up after {took_s:.2f} s")
    assert took_s < UP_WITHIN_S
    return took_s


def issues(http: httpx2.Client) -> dict[str, Json]:
    """What is wrong, by the check's id."""
    view = http.get("/api/v1/health").raise_for_status().json()
    return {issue["check_id"]: issue for issue in view["issues"]}


def repair_item(http: httpx2.Client, check_id: str) -> Json:
    """What the health engine says of that check, as soon as it has looked."""
    wait_until(lambda: check_id in issues(http))
    return issues(http)[check_id]


def chat(http: httpx2.Client, content: str = "hello", session_id: str = "s-1") -> httpx2.Response:
    return http.post("/api/v1/chat", json={"content": content, "session_id": session_id})


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# A damaged database ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The home of a daemon that was killed, with a log beside the database, and that of one that was stopped."""
    daemon = Daemon(tmp_path_factory.mktemp("killed"), settings=UNLIMITED)
    daemon.start()
    with daemon.http as http:
        for number in range(SESSIONS):
            http.post("/api/v1/sessions", json={"title": f"number {number} {'x' * 150}"}).raise_for_status()
    daemon.kill()
    stopped = tmp_path_factory.mktemp("stopped") / "home"
    shutil.copytree(daemon.home.root, stopped)
    with closing(sqlite3.connect(stopped / "pocketpaw.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return {"killed": daemon.home.root, "stopped": stopped}


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "another file in its place": ("stopped", lambda path: overwrite(path, 0, b"not a database at all"), "not a SQLite"),
    "pages overwritten": ("stopped", lambda path: overwrite(path, PAGE_BYTES, b"\xa5" * PAGE_BYTES * 4), ""),
    "cut off within a page": ("stopped", lambda path: truncate(path, path.stat().st_size - 100), "cut off"),
    "emptied": ("stopped", lambda path: truncate(path, 0), "empty"),
    "deleted beside its log": ("killed", lambda path: path.unlink(), "gone"),
}


def contents(database: Path) -> dict[str, str]:
    """What the file and its log hold, as far as there are any."""
    files = {suffix: database.with_name(database.name + suffix) for suffix in ("", "-wal")}
    return {
        suffix: digest(path) for suffix, path in files.items() if path.exists() and (path.stat().st_size or not suffix)
    }


def copy_of(database: Path) -> Path:
    """The one copy that was set aside; its log lies beside it."""
    (name,) = {path.name.removesuffix("-wal").removesuffix("-shm") for path in database.parent.glob("*.corrupt-*")}
    return database.with_name(name)


@pytest.mark.parametrize(("end", "damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_database_is_left_as_it_is_copied_and_told(
    end: str,
    damage: Callable[[Path], None],
    reason: str,
    homes: dict[str, Path],
    make_daemon: MakeDaemon,
    model_server: ModelServerProcess,
) -> None:
    daemon = make_daemon(settings=answering(model_server))
    shutil.copytree(homes[end], daemon.home.root)
    damage(daemon.home.database)
    before = contents(daemon.home.database)
    start(daemon)
    with daemon.http as http:
        item = repair_item(http, "storage")
        assert item["status"] == "critical"
        assert str(daemon.home.database) in item["message"]
        assert reason in item["message"]
        copy = copy_of(daemon.home.database)
        assert item["message"].endswith(str(copy))
        assert ".backup" in item["fix_hint"]
        assert http.get("/api/v1/health").json()["status"] == "unhealthy"
        assert http.get("/health/ready").status_code == 503
        for refused in (chat(http), http.get("/api/v1/sessions"), http.post("/api/v1/sessions")):
            assert (refused.status_code, refused.json()["code"]) == (503, "database_damaged")
            assert str(copy) in refused.json()["detail"]
        assert http.get("/api/v1/settings").status_code == 200
        assert http.get("/api/v1/health/errors").status_code == 200
    assert daemon.stop() == 0
    assert contents(daemon.home.database) == before, "it was left as it was"
    assert contents(copy) == before


def test_a_damaged_database_is_copied_once_however_often_it_is_started_and_a_good_one_heals(
    homes: dict[str, Path], make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    daemon = make_daemon(settings=answering(model_server))
    shutil.copytree(homes["stopped"], daemon.home.root)
    overwrite(daemon.home.database, 0, b"nonsense")
    for _ in range(2):
        daemon.start()
        assert copy_of(daemon.home.database).exists()
        assert daemon.stop() == 0
    shutil.copy2(homes["stopped"] / "pocketpaw.db", daemon.home.database)
    daemon.start()
    with daemon.http as http:
        assert http.get("/api/v1/sessions").json()["total"] == SESSIONS
        assert chat(http).status_code == 200


def test_a_database_that_has_gone_is_told_and_not_made_anew(
    homes: dict[str, Path], make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    daemon = make_daemon(settings=answering(model_server))
    shutil.copytree(homes["stopped"], daemon.home.root)
    daemon.home.database.unlink()
    daemon.start()
    with daemon.http as http:
        item = repair_item(http, "storage")
        assert f"{daemon.home.database} is damaged: the file is gone" in item["message"]
        assert chat(http).json()["code"] == "database_damaged"
    assert daemon.stop() == 0
    assert not daemon.home.database.exists()
    shutil.copy2(homes["stopped"] / "pocketpaw.db", daemon.home.database)
    daemon.start()
    with daemon.http as http:
        assert http.get("/api/v1/sessions").json()["total"] == SESSIONS


def test_a_second_home_with_the_same_database_is_told_and_waits_for_its_turn(
    make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    first = make_daemon("first", settings=answering(model_server))
    first.start()
    second = make_daemon(
        "second", settings={**answering(model_server), "database_url": f"sqlite:///{first.home.database}"}
    )
    second.start()
    with second.http as http:
        assert "in use by another pocketpaw" in repair_item(http, "storage")["message"]
        assert "database_url" in repair_item(http, "storage")["fix_hint"]
        assert chat(http).status_code == 503
        with first.http as elsewhere:
            assert chat(elsewhere).status_code == 200
        assert first.stop() == 0
        wait_until(lambda: chat(http, session_id="s-2").status_code == 200)


# A bad configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "check_id", "line"),
    [
        ('{\n  "turn_timeout_s": 60,\n  "web_port": \n}', "configuration:file", "line 4"),
        ("\0\xff\0", "configuration:file", "line 1"),
        ('{\n  "turn_timeout_s": "soon"\n}', "configuration:turn_timeout_s", "line 2"),
    ],
)
def test_a_bad_configuration_is_a_repair_item_and_everything_works_with_what_can_be_used(
    content: str, check_id: str, line: str, make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    daemon = make_daemon(settings=answering(model_server))
    daemon.home.root.mkdir(parents=True)
    daemon.home.config.write_bytes(content.encode("latin-1"))
    before = digest(daemon.home.config)
    start(daemon)
    with daemon.http as http:
        item = repair_item(http, check_id)
        assert item["status"] == "warning"
        assert str(daemon.home.config) in item["message"] + item["fix_hint"]
        assert line in item["message"] + item["fix_hint"]
        assert http.get("/api/v1/health").json()["status"] == "degraded"
        assert chat(http).status_code == 200
        if check_id == "configuration:file":
            refused = http.put("/api/v1/settings", json={"turn_timeout_s": 60})
            assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
            assert str(daemon.home.config) in refused.json()["detail"]
    assert daemon.stop() == 0
    assert digest(daemon.home.config) == before


# A disk that is full or read-only -------------------------------------------------------------------------------------


class Disk:
    """A small file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Leave no room at all."""
        with self._ballast.open("ab", buffering=0) as file:
            try:
                while file.write(b"\0" * 4096):
                    pass
            except OSError:
                pass  # it is full

    def make_room(self) -> None:
        self._ballast.unlink()

    def remount(self, mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{mode}", self.path], check=True)


@contextmanager
def mounted(path: Path) -> Generator[Disk]:
    path.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", path]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a file system")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture
def home_disk(tmp_path: Path) -> Iterator[Disk]:
    """The disk on which the home of the daemon called `small` will be. To be asked for before `make_daemon`."""
    with mounted(tmp_path / "small" / "home") as disk:
        yield disk


@pytest.fixture
def data_disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk for the database alone."""
    with mounted(tmp_path / "data") as disk:
        yield disk


def is_refused_for(answer: httpx2.Response, cause: str) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.json()["code"] == "unavailable"
    assert cause in answer.json()["detail"]


def test_a_disk_that_fills_up_is_told_and_once_there_is_room_chat_works_again(
    home_disk: Disk, make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    daemon = make_daemon("small", settings=answering(model_server))
    daemon.start()
    with daemon.http as http:
        assert chat(http, "before").status_code == 200
        home_disk.fill()
        for _ in range(3):
            is_refused_for(chat(http, "while it is full"), "the disk is full")
        assert http.post("/api/v1/health/check").json()["status"] == "unhealthy"
        assert "the disk is full" in issues(http)["storage"]["message"]
        assert str(daemon.home.database) in issues(http)["storage"]["message"]
        assert "0 MB are left" in issues(http)["disk_space"]["message"]
        home_disk.make_room()
        assert chat(http, "after").status_code == 200
        assert said_in(http) == ["before", "echo: before", "after", "echo: after"]
        http.post("/api/v1/health/check").raise_for_status()
        assert "storage" not in issues(http)
    assert daemon.stop() == 0
    with closing(sqlite3.connect(daemon.home.database)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_reply_that_finds_the_disk_full_is_told_and_written_again_later(
    home_disk: Disk, make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    daemon = make_daemon("small", settings=answering(model_server))
    daemon.start()
    with daemon.http as http, ThreadPoolExecutor(1) as person:
        model_server.script(Reply(text="lost", delay_s=0.5))
        asked = person.submit(chat, http, "before it is full")
        wait_until(lambda: model_server.stats().chats == 1)
        home_disk.fill()
        is_refused_for(asked.result(), "the disk is full")
        home_disk.make_room()
        assert chat(http, "after").status_code == 200
    assert daemon.stop() == 0
    daemon.start()
    with daemon.http as http:
        wait_until(lambda: len(said_in(http)) == 4)
        assert sorted(said_in(http)) == ["after", "before it is full", "echo: after", "echo: before it is full"]


def said_in(http: httpx2.Client) -> list[str]:
    return [message["content"] for message in http.get("/api/v1/sessions/s-1/history").json()]


def test_on_a_disk_that_is_full_from_the_start_the_api_is_up_and_once_there_is_room_chat_works(
    home_disk: Disk, homes: dict[str, Path], make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    daemon = make_daemon("small", settings=answering(model_server))
    shutil.copytree(homes["stopped"], daemon.home.root)
    home_disk.fill()
    before = contents(daemon.home.database)
    daemon.launch("--port", str(port := free_port()))  # where it serves can be noted nowhere
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as http:
        took_s = time_until_it_answers(http)
        is_refused_for(chat(http), "the disk is full")
        assert "the disk is full" in repair_item(http, "storage")["message"]
        assert contents(daemon.home.database) == before
        home_disk.make_room()
        wait_until(lambda: chat(http).status_code == 200)
        wait_until(lambda: "storage" not in issues(http))
        assert http.get("/api/v1/sessions").json()["total"] == SESSIONS + 1
    print(f"\nAPI up after {took_s:.2f} s")


def time_until_it_answers(http: httpx2.Client) -> float:
    started = time.monotonic()

    def answers() -> bool:
        try:
            return http.get("/health/live").status_code == 200
        except httpx2.TransportError:
            return False

    wait_until(answers)
    return time.monotonic() - started


def test_a_read_only_place_for_the_database_is_told_and_once_it_can_be_written_chat_works(
    data_disk: Disk, make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    database = data_disk.path / "pocketpaw.db"
    settings = {**answering(model_server), "database_url": f"sqlite:///{database}"}
    daemon = make_daemon(settings=settings)
    data_disk.remount("ro")
    start(daemon)
    with daemon.http as http:
        assert chat(http).status_code == 503
        assert str(database) in chat(http).json()["detail"]
        assert str(database) in repair_item(http, "storage")["message"]
        data_disk.remount("rw")
        wait_until(lambda: chat(http).status_code == 200)
        wait_until(lambda: "storage" not in issues(http))


def test_a_new_home_on_a_full_disk_is_one_line(home_disk: Disk, make_daemon: MakeDaemon) -> None:
    daemon = make_daemon("small")
    home_disk.fill()
    done = daemon.run("serve", "--port", "0")
    assert done.returncode == ExitCode.HOME
    assert done.stderr.startswith("pocketpaw: ")
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr

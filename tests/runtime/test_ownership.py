from __future__ import annotations

import fcntl
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pocketpaw.config import Home, HomeError
from pocketpaw.runtime.ownership import AlreadyRunning, owning, running_daemon


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@contextmanager
def locked(home: Home, how: int) -> Generator[None]:
    with (home.root / "daemon.lock").open("a") as file:
        fcntl.flock(file, how)
        yield


def test_the_address_is_known_while_the_home_is_held_and_not_after(home: Home) -> None:
    assert running_daemon(home) is None
    with owning(home) as note:
        assert running_daemon(home) == ""
        for url in ("http://127.0.0.1:80000", "http://[::1]:1"):  # the later one is the shorter
            note(url)
            assert running_daemon(home) == url
    assert running_daemon(home) is None


def test_a_home_is_held_once_and_the_refusal_says_who_has_it(home: Home) -> None:
    with owning(home) as note:
        with pytest.raises(AlreadyRunning, match="is starting"), owning(home):
            raise AssertionError("it has two owners")
        note("http://127.0.0.1:1234")
        with pytest.raises(AlreadyRunning, match=r"serves http://127\.0\.0\.1:1234"), owning(home):
            raise AssertionError("it has two owners")
        assert running_daemon(home) == "http://127.0.0.1:1234"


def test_somebody_who_looks_at_that_moment_keeps_no_daemon_from_starting(home: Home) -> None:
    looked, done = threading.Event(), threading.Event()

    def look() -> None:
        with locked(home, fcntl.LOCK_SH):
            looked.set()
            done.wait(0.05)

    looker = threading.Thread(target=look)
    looker.start()
    looked.wait()
    with owning(home):
        assert running_daemon(home) == ""
    looker.join()


def test_a_home_is_free_again_after_a_failure(home: Home) -> None:
    with pytest.raises(ZeroDivisionError), owning(home):
        _ = 1 / 0
    with owning(home):
        pass


def test_a_home_is_free_again_after_its_owner_was_killed(home: Home) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from pocketpaw.config import Home; from pocketpaw.runtime.ownership import owning\n"
        "with owning(Home(Path(sys.argv[1]))) as note: note('http://gone'); print(flush=True); time.sleep(60)\n"
    )
    owner = subprocess.Popen([sys.executable, "-P", "-c", code, str(home.root)], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    owner.stdout.readline()
    assert running_daemon(home) == "http://gone"
    owner.kill()
    owner.communicate()
    assert running_daemon(home) is None
    with owning(home):
        assert running_daemon(home) == ""


@pytest.mark.parametrize("text", [b"", b"rubbish", b"[]", b'{"url": 7}', b"\xff"])
def test_an_address_that_cannot_be_read_is_one_that_is_not_there_yet(home: Home, text: bytes) -> None:
    with locked(home, fcntl.LOCK_EX):
        (home.root / "daemon.lock").write_bytes(text)
        assert running_daemon(home) == ""


def test_an_address_that_cannot_be_written_is_told_and_the_home_stays_held(home: Home) -> None:
    with owning(home) as note:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))  # as a full disk
        try:
            with pytest.raises(OSError, match="File too large"):
                note("http://127.0.0.1:1")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert running_daemon(home) == ""


def test_a_home_where_no_file_can_be_opened_is_unusable(home: Home) -> None:
    (home.root / "daemon.lock").mkdir()
    with pytest.raises(HomeError, match=str(home.root)), owning(home):
        raise AssertionError("it cannot be held")


def test_holding_a_home_leaves_no_descriptor_open(home: Home) -> None:
    before = open_descriptors()
    for _ in range(20):
        with owning(home) as note:
            note("http://127.0.0.1:1")
            running_daemon(home)
    assert open_descriptors() == before


def test_being_refused_takes_a_moment_only(home: Home) -> None:
    with owning(home):
        before = time.monotonic()
        with pytest.raises(AlreadyRunning), owning(home):
            pass
        assert time.monotonic() - before < 5


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())

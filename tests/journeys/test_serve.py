"""`pocketpaw serve`: what it says, what keeps it from starting, and how it ends."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from pocketpaw.runtime.cli.failure import ExitCode

from ..fakes.model_server import Reply
from .conftest import MakeDaemon
from .daemon import COMMAND, Daemon, with_model_server
from .model_server_process import ModelServerProcess

AT_ONCE_S = 1.0
PATIENCE_S = 30.0


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("pocketpaw: ")
    return done.stderr


# What it says ---------------------------------------------------------------------------------------------------------


def test_it_names_the_model_that_answers(daemon: Daemon) -> None:
    assert "Answers come from fake (openai_compatible)" in daemon.log


def test_listening_everywhere_is_warned_of_and_still_reached_by_the_commands(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.start("--host", "0.0.0.0")
    assert "warning: it listens on every IPv4 network" in daemon.log
    assert "needs its token" in daemon.log
    assert daemon.url.startswith("http://127.0.0.1:")
    assert daemon.run("status").returncode == 0


# What keeps it from starting ------------------------------------------------------------------------------------------


def test_a_second_daemon_on_one_home_is_refused_and_the_first_goes_on(daemon: Daemon) -> None:
    done = daemon.run("serve", "--port", "0")
    assert done.returncode == ExitCode.ALREADY_RUNNING
    assert daemon.url in one_line(done)
    with daemon.http as http:
        assert http.get("/health").status_code == 200


def test_looking_for_a_daemon_all_the_time_keeps_none_from_starting(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.run("token")  # makes the home, so that the lock's file is there at the next start
    for _ in range(3):
        daemon.start()  # looks every 20 ms
        assert daemon.stop() == 0


def test_a_busy_port_is_one_line(make_daemon: MakeDaemon) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        done = make_daemon().run("serve", "--port", str(port))
    assert done.returncode == ExitCode.PORT
    assert f"port {port} on 127.0.0.1 is in use" in one_line(done)


def test_an_address_of_another_machine_is_one_line(make_daemon: MakeDaemon) -> None:
    done = make_daemon().run("serve", "--host", "203.0.113.7")
    assert done.returncode == ExitCode.PORT
    assert "203.0.113.7" in one_line(done)


def test_a_read_only_home_is_one_line(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    unshare = shutil.which("unshare")
    daemon.home.root.mkdir(parents=True)
    mount = f'mount -t tmpfs -o ro none "{daemon.home.root}"'
    if unshare is None or subprocess.run([unshare, "-m", "sh", "-c", mount], check=False).returncode != 0:
        pytest.skip("this user may not mount a file system")
    done = subprocess.run(
        [unshare, "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", *COMMAND, "serve"],
        env=daemon.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.HOME
    assert f"{daemon.home.root} cannot be used: Read-only file system" in one_line(done)


# What does not --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"turn_timeout_s": "soon"', "line 1"),
        ('{\n  "turn_timeout_s": "soon"\n}', "turn_timeout_s"),
        ("[]", "config.json"),
    ],
)
def test_a_bad_configuration_is_printed_left_as_it_is_and_stops_nothing(
    make_daemon: MakeDaemon, content: str, named: str
) -> None:
    daemon = make_daemon()
    daemon.home.root.mkdir(parents=True)
    daemon.home.config.write_text(content)
    daemon.start()
    warnings = [line for line in daemon.log.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert named in warnings[0]
    assert "Correct" in warnings[0]
    assert daemon.home.config.read_text() == content
    with daemon.http as http:
        assert http.get("/api/v1/settings").json()["turn_timeout_s"] == 600


@pytest.mark.parametrize("content", ["", "rubbish", '{"pid": 1, "url": "http://127.0.0.1:1"}', "\0" * 5000])
def test_what_a_dead_daemon_left_in_its_lock_file_means_nothing(make_daemon: MakeDaemon, content: str) -> None:
    daemon = make_daemon()
    daemon.home.root.mkdir(parents=True)
    (daemon.home.root / "daemon.lock").write_text(content)
    assert daemon.run("status").returncode == ExitCode.NO_DAEMON
    daemon.start()
    assert daemon.stop() == 0


def test_the_port_of_a_killed_daemon_can_be_had_at_once(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(settings={"web_port": str(free_port())})
    daemon.launch()
    daemon.wait_until_serving()
    url = daemon.url
    with daemon.http as http:
        assert http.get("/health").status_code == 200
        daemon.kill()  # with a connection open: our end of it stays behind, in TIME_WAIT
    daemon.launch()
    daemon.wait_until_serving()
    assert daemon.url == url


# How it ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(daemon: Daemon, number: signal.Signals) -> None:
    with daemon.http as http:
        assert http.post("/api/v1/chat", json={"content": "hello"}).status_code == 200
        assert daemon.stop(number) == 0
    assert daemon.url == ""
    assert not daemon.home.database.with_name("pocketpaw.db-wal").exists()
    assert "Traceback" not in daemon.log


def test_a_second_signal_ends_it_at_once(daemon: Daemon, model_server: ModelServerProcess) -> None:
    model_server.answer_always(Reply(hang_after=1))
    with daemon.http as http, http.stream("POST", "/api/v1/chat/stream", json={"content": "hello"}) as answer:
        pieces = answer.iter_text()  # kept, as httpx closes the stream with it
        assert next(pieces)
        daemon.signal(signal.SIGTERM)
        time.sleep(0.2)  # two signals that come together count as one
        assert daemon.is_running  # it waits for the answer
        before = time.monotonic()
        assert daemon.stop() == 128 + signal.SIGTERM
        assert time.monotonic() - before < AT_ONCE_S


def test_a_killed_daemon_starts_again_with_all_that_was_said(
    make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    daemon = make_daemon(settings=with_model_server(model_server.base_url))
    for number in range(3):
        daemon.start()
        with daemon.http as http:
            http.post("/api/v1/chat", json={"content": f"number {number}", "session_id": "s-1"}).raise_for_status()
        daemon.kill()
    daemon.start()
    with daemon.http as http:
        said = http.get("/api/v1/sessions/s-1/history").json()
    assert [message["content"] for message in said] == [
        text for number in range(3) for text in (f"number {number}", f"echo: number {number}")
    ]


def test_a_daemon_for_a_visit_ends_with_the_one_who_visits(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    visitor = subprocess.Popen([*COMMAND, "chat", "--", "hello"], env=daemon.environment(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE_S
    while not daemon.url:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    visitor.kill()
    visitor.wait()
    daemon.check_nothing_is_left()


# With --dev -----------------------------------------------------------------------------------------------------------


def start_with_reload(daemon: Daemon, sources: Path) -> subprocess.Popen[bytes]:
    """As `pocketpaw serve --dev`, but looking at other files than those that run here."""
    code = (
        "import sys; from pathlib import Path; from pocketpaw.runtime.cli.reload import serve_and_reload\n"
        f"sys.exit(serve_and_reload(['--port', '0'], Path({str(sources)!r})))"
    )
    with (daemon.folder / "dev.log").open("wb") as log:
        return subprocess.Popen([COMMAND[0], "-P", "-c", code], env=daemon.environment(), stdout=log, stderr=log)


def wait_for_another(daemon: Daemon, url: str) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while daemon.url in ("", url):
        assert time.monotonic() < deadline, (daemon.folder / "dev.log").read_text()
        time.sleep(0.02)
    return daemon.url


def test_with_dev_a_changed_source_file_starts_it_anew(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    daemon = make_daemon()
    (tmp_path / "actors").mkdir()
    developer = start_with_reload(daemon, tmp_path)
    try:
        first = wait_for_another(daemon, "")
        (tmp_path / "actors" / "new.py").touch()
        second = wait_for_another(daemon, first)
        assert second != first
        assert "actors/new.py has changed" in (daemon.folder / "dev.log").read_text()
        developer.send_signal(signal.SIGINT)
        assert developer.wait(20) == 0
    finally:
        developer.kill()
        developer.wait()
    daemon.check_nothing_is_left()


def test_with_dev_a_busy_port_ends_both(make_daemon: MakeDaemon) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        done = make_daemon().run("serve", "--dev", "--port", str(server.getsockname()[1]))
    assert done.returncode == ExitCode.PORT
    one_line(done)


# Commands beside it ---------------------------------------------------------------------------------------------------


class Node(msgspec.Struct, frozen=True):
    name: str
    kind: str
    state: str
    incarnation: int
    restarts: int
    pid: int | None = None
    last_error: str | None = None
    children: list[Node] = []

    def at(self, *path: str) -> Node:
        return self if not path else next(c for c in self.children if c.name == path[0]).at(*path[1:])


def test_status_shows_the_tree_also_as_json(daemon: Daemon) -> None:
    shown = daemon.run("status")
    assert shown.returncode == 0, shown.stderr
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert rows[0] == ["actor", "kind", "state", "life", "restarts", "mail", "up", "last", "error"]
    assert rows[1][:3] == ["root", "supervisor", "running"]
    tree = tree_of(daemon)
    assert tree.at("store", "writer").kind == "thread"
    assert tree.at("http").state == "running"
    assert len(rows) - 1 == count(tree)


def tree_of(daemon: Daemon) -> Node:
    return msgspec.json.decode(daemon.run("status", "--json").stdout, type=Node)


def count(node: Node) -> int:
    return 1 + sum(count(child) for child in node.children)


def test_errors_and_status_tell_of_a_model_that_was_killed(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.start()
    assert daemon.run("errors").stdout == "There are no errors.\n"
    assert daemon.run("chat", "Say hello.").returncode == 0
    embedded = tree_of(daemon).at("models", "embedded")
    assert embedded.pid is not None
    subprocess.run(["kill", "-KILL", str(embedded.pid)], check=True)
    deadline = time.monotonic() + PATIENCE_S
    while "embedded" not in (shown := daemon.run("errors", "--search", "SIGKILL").stdout):
        assert time.monotonic() < deadline, daemon.log
    assert "models/embedded" in shown
    assert json.loads(daemon.run("errors", "--json", "--limit", "1").stdout)[0]["source"] == "models/embedded"
    assert "SIGKILL" in daemon.run("status").stdout
    while (healed := tree_of(daemon).at("models", "embedded")).state != "running":
        assert time.monotonic() < deadline, daemon.log
    assert (healed.incarnation, healed.restarts) == (2, 1)


def test_doctor_is_content_with_a_daemon_that_runs_and_not_with_one_that_hangs(daemon: Daemon) -> None:
    well = daemon.run("doctor")
    assert well.returncode == 0, well.stdout
    assert f"it answers at {daemon.url}" in well.stdout
    daemon.signal(signal.SIGSTOP)
    try:
        ill = daemon.run("doctor")
    finally:
        daemon.signal(signal.SIGCONT)
    assert ill.returncode == ExitCode.FAILED
    assert "broken  daemon: nothing answers" in ill.stdout


def test_a_token_is_not_regenerated_under_a_running_daemon(daemon: Daemon) -> None:
    before = daemon.token
    done = daemon.run("token", "--regenerate")
    assert done.returncode == ExitCode.FAILED
    assert "stop it first" in one_line(done)
    assert daemon.token == before

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner, Result
from pocketpaw.config import Home, access_token, load, open_home
from pocketpaw.config.load import SEALED_DATABASE
from pocketpaw.runtime import RootGaveUp, daemon
from pocketpaw.runtime.cli import commands, reload
from pocketpaw.runtime.cli.client import Client, Refused
from pocketpaw.runtime.cli.conversation import Conversation, printable, sendable
from pocketpaw.runtime.cli.doctor import check_database, check_home, check_settings, port_problem
from pocketpaw.runtime.cli.failure import ExitCode, Failure, NoDaemon
from pocketpaw.runtime.ownership import running_daemon

HEAVY = ("quart", "sqlalchemy", "httpx2", "structlog", "mcp")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """The home folder that commands in this process find; it is not made yet. Nothing else is set."""
    for name in os.environ:
        if name.startswith("POCKETPAW_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("POCKETPAW_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


def pocketpaw(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(commands, arguments, input=stdin, catch_exceptions=False)


# What it costs to start -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["version"], ["--help"], ["serve", "--help"], ["chat", "--help"]])
def test_a_command_that_only_prints_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['pocketpaw', *{arguments!r}]\n"
        "try: runpy.run_module('pocketpaw.runtime.cli', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_help_names_every_exit_code() -> None:
    shown = pocketpaw("--help").output
    assert all(f"{code:>3}  " in shown for code in ExitCode)


# Wrong use ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["serve", "--port", "70000"], "65535"),
        (["serve", "--port", "eighty"], "--port"),
        (["serve", "--host", "not a host"], "a host name or an IP address"),
        (["errors", "--limit", "0"], "--limit"),
        (["chat", "   "], "the message is empty"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_use_is_exit_code_2_and_names_what_is_wrong(home: Home, arguments: list[str], named: str) -> None:
    result = pocketpaw(*arguments)
    assert result.exit_code == ExitCode.USAGE
    assert named in result.output
    assert not home.root.exists()


@pytest.mark.parametrize("arguments", [["serve"], ["token"], ["chat", "hello"]])
def test_a_home_that_is_a_file_is_one_line_and_exit_code_3(home: Home, arguments: list[str]) -> None:
    home.root.write_text("not a folder")
    result = pocketpaw(*arguments)
    assert result.exit_code == ExitCode.HOME
    assert result.stderr.count("\n") == 1
    assert str(home.root) in result.stderr
    assert home.root.read_text() == "not a folder"


def test_a_daemon_that_gives_up_is_one_line_and_exit_code_6(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async def give_up(live: object, announce: object) -> None:
        raise ExceptionGroup("as a nursery wraps it", [RootGaveUp("models: it was restarted\nmore than 3 times")])

    monkeypatch.setattr(daemon, "run", give_up)
    result = pocketpaw("serve", "--port", "0")
    assert result.exit_code == ExitCode.GAVE_UP
    assert result.stderr == "pocketpaw: the daemon gave up: models: it was restarted more than 3 times\n"
    assert running_daemon(home) is None


@pytest.mark.parametrize("command", ["status", "errors"])
def test_without_a_daemon_commands_say_how_to_start_one(home: Home, command: str) -> None:
    result = pocketpaw(command)
    assert result.exit_code == ExitCode.NO_DAEMON
    assert "`pocketpaw serve`" in result.stderr
    assert not home.root.exists()


# The token ------------------------------------------------------------------------------------------------------------


def test_the_token_is_made_once_and_shown_alone_on_stdout(home: Home) -> None:
    first = pocketpaw("token")
    assert first.exit_code == 0
    assert first.stdout == f"{home.access_token.read_text().strip()}\n"
    assert pocketpaw("token").stdout == first.stdout
    assert home.access_token.stat().st_mode & 0o777 == 0o600


def test_a_regenerated_token_replaces_the_old_one(home: Home) -> None:
    old = pocketpaw("token").stdout
    new = pocketpaw("token", "--regenerate").stdout
    assert new != old
    assert pocketpaw("token").stdout == new


# Doctor ---------------------------------------------------------------------------------------------------------------


def findings(result: Result) -> dict[str, str]:
    """The worst status by check."""
    worst: dict[str, str] = {}
    order = ["ok", "warning", "broken"]
    for row in json.loads(result.stdout):
        worst[row["check"]] = max(row["status"], worst.get(row["check"], "ok"), key=order.index)
    return worst


def test_doctor_finds_nothing_wrong_where_nothing_was_started_yet_and_leaves_nothing_behind(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCKETPAW_WEB_PORT", str(free_port()))
    result = pocketpaw("doctor", "--json")
    assert result.exit_code == 0, result.output
    assert set(findings(result).values()) == {"ok"}
    assert set(findings(result)) == {"home", "token", "settings", "database", "models", "port", "daemon"}
    assert not home.root.exists()


def test_doctor_names_each_setting_that_cannot_be_used_and_is_content(home: Home) -> None:
    write_settings(home, turn_timeout_s="soon", agent_idle_s=-1)
    result = pocketpaw("doctor")
    assert result.exit_code == 0, result.output
    assert "turn_timeout_s" in result.output
    assert "agent_idle_s" in result.output
    assert f"{home.config}" in result.output


def test_doctor_names_a_variable_that_is_no_setting_but_not_the_commands_own(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCKETPAW_WEB_PROT", "1")
    monkeypatch.setenv("POCKETPAW_TOKEN", "x" * 20)
    found = list(check_settings(load(open_home(home.root), os.environ)))
    assert [finding.message for finding in found if finding.status == "warning"] == ["POCKETPAW_WEB_PROT is no setting"]


def test_doctor_fails_where_the_port_is_taken(home: Home) -> None:
    with listening() as port:
        write_settings(home, web_port=port)
        result = pocketpaw("doctor", "--json")
    assert result.exit_code == ExitCode.FAILED
    assert findings(result)["port"] == "broken"


def test_doctor_fails_where_nothing_answers_at_the_given_address(home: Home) -> None:
    result = pocketpaw("doctor", "--json", "--url", f"http://127.0.0.1:{free_port()}")
    assert result.exit_code == ExitCode.FAILED
    assert findings(result)["daemon"] == "broken"


def test_doctor_fails_where_the_backend_that_is_named_is_not_configured(home: Home) -> None:
    write_settings(home, agent_backend="openai_compatible")
    result = pocketpaw("doctor", "--json")
    assert result.exit_code == ExitCode.FAILED
    assert findings(result)["models"] == "broken"


def test_doctor_fails_on_a_home_that_is_a_file(home: Home) -> None:
    home.root.write_text("")
    assert check_home(home.root).status == "broken"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (None, "ok"),
        (b"", "ok"),
        ("emptied", "broken"),
        (b"rubbish" * 200, "broken"),
        ("sound", "ok"),
        ("cut", "broken"),
    ],
)
def test_doctor_knows_a_sound_database_from_a_damaged_one(
    tmp_path: Path, content: bytes | str | None, status: str
) -> None:
    path = tmp_path / "pocketpaw.db"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "emptied":
        path.touch()
        path.with_name("pocketpaw.db.made").touch()
    elif content is not None:
        with closing(sqlite3.connect(path)) as database:
            database.executescript("CREATE TABLE t(x); INSERT INTO t VALUES (zeroblob(100000));")
        if content == "cut":
            path.write_bytes(path.read_bytes()[:40_000])
    before = path.read_bytes() if path.exists() else None
    finding = check_database(f"sqlite:///{path}")
    assert finding.status == status, finding
    assert str(path) in finding.message
    assert (path.read_bytes() if path.exists() else None) == before


def test_a_vault_without_secrets_gets_no_key(home: Home) -> None:
    assert pocketpaw("vault", "rotate").output == "there is no secret in the vault\n"
    assert not home.vault_key.exists()


def test_doctor_says_when_only_a_vault_that_cannot_be_opened_knows_where_the_database_is() -> None:
    finding = check_database(SEALED_DATABASE)
    assert (finding.status, finding.message) == ("broken", "its address is in the vault, which cannot be opened")


def test_doctor_hides_the_password_of_a_database_that_does_not_answer() -> None:
    finding = check_database(f"postgresql+psycopg://paw:hunter22@127.0.0.1:{free_port()}/paw")
    assert finding.status == "broken"
    assert "hunter22" not in finding.message


# Ports ----------------------------------------------------------------------------------------------------------------


def test_a_free_port_is_no_problem_and_neither_is_any_free_one() -> None:
    assert port_problem("127.0.0.1", free_port()) is None
    assert port_problem("127.0.0.1", 0) is None


def test_a_port_that_somebody_listens_on_is_named() -> None:
    with listening() as port:
        problem = port_problem("127.0.0.1", port)
    assert problem == f"port {port} on 127.0.0.1 is in use by another program"


def test_a_port_with_a_connection_in_time_wait_is_free() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = int(server.getsockname()[1])
        with closing(socket.create_connection(("127.0.0.1", port))):
            server.accept()[0].close()  # who closes first keeps the port in TIME_WAIT
    assert port_problem("127.0.0.1", port) is None


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_an_address_that_is_not_this_machines_is_named(host: str) -> None:
    assert host in (port_problem(host, 8888) or "")


# The client, against servers that are not as they should be -----------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (404, b'{"detail": "no such session", "code": "not_found"}', "no such session"),
        (422, b'{"detail": [{"loc": ["body", "content"], "msg": "too long", "type": "x"}]}', "content: too long"),
        (502, b"<html>", "502"),
        (401, b'{"detail": "no credential"}', "POCKETPAW_TOKEN"),
    ],
)
def test_the_daemons_own_words_are_shown(status: int, body: bytes, text: str) -> None:
    with answering(status, body) as url, pytest.raises(Refused, match=text):
        Client(url).get("/health", dict[str, str])


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b'{"name": 1}'])
def test_an_answer_that_is_not_pocketpaws_is_exit_code_7(home: Home, body: bytes) -> None:
    with answering(200, body) as url:
        result = pocketpaw("status", "--url", url)
    assert result.exit_code == ExitCode.NO_DAEMON
    assert "is not PocketPaw" in result.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1", "http://", "ftp://127.0.0.1", "http://[::1"])
def test_an_address_where_nothing_answers_is_one_line_and_exit_code_7(home: Home, url: str) -> None:
    result = pocketpaw("errors", "--url", url)
    assert result.exit_code == ExitCode.NO_DAEMON, result.output
    assert result.stderr.count("\n") == 1


def test_our_own_token_is_not_sent_to_another_daemon(home: Home) -> None:
    token = access_token(open_home(home.root))
    with answering(200, b"[]") as url:
        assert pocketpaw("errors", "--url", url).exit_code == 0
        seen = Server.headers_seen[-1]
    assert token not in str(seen)
    assert "authorization" not in seen


def test_errors_are_shown_as_they_are_and_obeyed_by_no_terminal(home: Home) -> None:
    error = {"id": "1", "timestamp": "2026-01-02T03:04:05Z", "source": "models/[red]x", "severity": "error"}
    with answering(200, json.dumps([{**error, "message": "it\x1b[2J failed"}]).encode()) as url:
        shown = pocketpaw("errors", "--url", url, "--search", "a b").stdout
    assert "models/[red]x" in shown
    assert "it[2J failed" in shown
    assert Server.paths_seen[-1] == "/api/v1/health/errors?limit=20&search=a+b"


EVENTS = b'event: stream_start\ndata: {"session_id":"s"}\n\nevent: chunk\ndata: {"content":"par","type":"text"}\n\n'


def test_an_answer_that_is_cut_off_is_shown_as_far_as_it_came_and_fails(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with (
        answering(200, EVENTS, "text/event-stream") as url,
        pytest.raises(NoDaemon, match="before the answer was whole"),
    ):
        Conversation(Client(url)).say("hello")
    assert capsys.readouterr().out == "par\n"


def test_an_answer_that_fails_is_a_failure_in_the_daemons_words(capsys: pytest.CaptureFixture[str]) -> None:
    events = EVENTS + b'event: error\ndata: {"detail":"the model left"}\n\nevent: stream_end\ndata: {"usage":{}}\n\n'
    with answering(200, events, "text/event-stream") as url, pytest.raises(Failure, match="the model left"):
        Conversation(Client(url)).say("hello")
    assert capsys.readouterr().out == "par\n"


def test_an_answer_that_begins_anew_is_set_off_from_what_came_of_it_before(capsys: pytest.CaptureFixture[str]) -> None:
    whole = b'event: chunk\ndata: {"content":"whole","type":"text"}\n\nevent: stream_end\ndata: {"usage":{}}\n\n'
    start = b'event: stream_start\ndata: {"session_id":"s"}\n\n'
    with answering(200, EVENTS + start + whole, "text/event-stream") as url:
        Conversation(Client(url)).say("hello")
    assert capsys.readouterr() == ("par\nwhole\n", "[the answer begins anew]\n")


def test_what_a_model_says_cannot_drive_the_terminal() -> None:
    assert printable("a\x1b]0;evil\x07b\r\n\tc\x9b") == "a]0;evilb\n\tc"


def test_bytes_that_are_no_text_are_sent_as_question_marks() -> None:
    assert sendable("a\udcffb") == "a?b"


# Reloading ------------------------------------------------------------------------------------------------------------


def test_a_changed_a_new_and_a_deleted_source_file_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    one, two = tmp_path / "actors" / "one.py", tmp_path / "actors" / "two.py"
    one.touch()
    seen = [reload.snapshot(tmp_path)]
    os.utime(one, ns=(1, 1))
    seen.append(reload.snapshot(tmp_path))
    two.touch()
    seen.append(reload.snapshot(tmp_path))
    one.unlink()
    seen.append(reload.snapshot(tmp_path))
    (tmp_path / "actors" / "notes.md").touch()
    assert reload.snapshot(tmp_path) == seen[-1]
    assert all(earlier != later for earlier, later in pairwise(seen))


# What these tests need ------------------------------------------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    """Answers everything the same way."""

    answer = (200, b"", "application/json")
    headers_seen: ClassVar[list[dict[str, str]]] = []
    paths_seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        status, body, content_type = self.answer
        self.headers_seen.append({name.lower(): value for name, value in self.headers.items()})
        self.paths_seen.append(self.path)
        self.rfile.read(int(self.headers.get("content-length", "0")))
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        """Keep quiet."""


@contextmanager
def answering(status: int, body: bytes, content_type: str = "application/json") -> Generator[str]:
    handler = type("Handler", (Server,), {"answer": (status, body, content_type)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def listening() -> Generator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield int(server.getsockname()[1])


def free_port() -> int:
    with listening() as port:
        return port


def write_settings(home: Home, **settings: object) -> None:
    """Make the home folder, with a port that is free unless `settings` name another."""
    home.root.mkdir()
    home.config.write_text(json.dumps({"web_port": free_port(), **settings}))

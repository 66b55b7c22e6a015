"""`pocketpaw chat`: one message, one that is piped in, a conversation at a terminal, and Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager

from pocketpaw.runtime.cli.failure import ExitCode

from ..fakes.model_server import Reply, ToolCall
from .conftest import MakeDaemon
from .daemon import COMMAND, Daemon, with_model_server
from .model_server_process import ModelServerProcess

PATIENCE_S = 20.0


HANGS_AFTER_ABC = Reply(text="abcdefghij", chunks=10, hang_after=3)


@contextmanager
def chatting(daemon: Daemon, *arguments: str) -> Generator[subprocess.Popen[str]]:
    """`pocketpaw chat` that has shown `abc` so far."""
    command = [*COMMAND, "chat", *arguments]
    with subprocess.Popen(
        command, env=daemon.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as chat:
        try:
            assert chat.stdout is not None
            assert chat.stdout.read(3) == "abc"
            yield chat
        finally:
            chat.kill()


def test_the_answer_is_all_that_is_printed(daemon: Daemon) -> None:
    done = daemon.run("chat", "hello", "there")
    assert (done.returncode, done.stdout, done.stderr) == (0, "echo: hello there\n", "")


def test_what_is_piped_in_is_one_message(daemon: Daemon) -> None:
    done = daemon.run("chat", stdin="two\nlines\n")
    assert (done.returncode, done.stdout) == (0, "echo: two\nlines\n")


def test_a_session_that_is_named_goes_on(daemon: Daemon) -> None:
    for text in ("one", "two"):
        assert daemon.run("chat", "--session", "s-mine", text).returncode == 0
    with daemon.http as http:
        said = [message["content"] for message in http.get("/api/v1/sessions/s-mine/history").json()]
    assert said == ["one", "echo: one", "two", "echo: two"]


def test_a_session_name_that_cannot_be_is_refused_in_one_line(daemon: Daemon) -> None:
    done = daemon.run("chat", "--session", "no spaces", "hello")
    assert done.returncode == ExitCode.FAILED
    assert "session_id" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_model_that_fails_is_one_line_and_a_failure(daemon: Daemon, model_server: ModelServerProcess) -> None:
    model_server.script(Reply(status=401))
    done = daemon.run("chat", "hello")
    assert done.returncode == ExitCode.FAILED
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_thoughts_are_not_mixed_into_an_answer_that_is_piped_on(
    daemon: Daemon, model_server: ModelServerProcess
) -> None:
    model_server.script(Reply(text="yes", thinking="let me see"))
    done = daemon.run("chat", "hello")
    assert (done.returncode, done.stdout) == (0, "yes\n")


def test_ctrl_c_stops_the_answer_and_what_there_is_of_it_is_kept(
    daemon: Daemon, model_server: ModelServerProcess
) -> None:
    model_server.script(HANGS_AFTER_ABC)
    with chatting(daemon, "--session", "s-1", "hello") as chat:
        chat.send_signal(signal.SIGINT)
        rest, errors = chat.communicate(timeout=PATIENCE_S)
        assert (chat.returncode, rest, errors) == (ExitCode.INTERRUPTED, "\n", "pocketpaw: stopped\n")
        with daemon.http as http:
            assert http.get("/api/v1/sessions/s-1/history").json()[-1]["content"] == "abc"


def test_a_second_ctrl_c_leaves_at_once_whatever_the_daemon_does(
    daemon: Daemon, model_server: ModelServerProcess
) -> None:
    model_server.script(HANGS_AFTER_ABC)
    with chatting(daemon, "hello") as chat:
        daemon.signal(signal.SIGSTOP)
        try:
            chat.send_signal(signal.SIGINT)
            time.sleep(0.3)  # two signals that come together count as one
            assert chat.poll() is None
            chat.send_signal(signal.SIGINT)
            chat.communicate(timeout=2)
        finally:
            daemon.signal(signal.SIGCONT)
        assert chat.returncode == ExitCode.INTERRUPTED


def test_a_daemon_that_is_killed_in_the_middle_is_told_in_one_line(
    daemon: Daemon, model_server: ModelServerProcess
) -> None:
    model_server.script(HANGS_AFTER_ABC)
    with chatting(daemon, "hello") as chat:
        daemon.kill()
        rest, errors = chat.communicate(timeout=PATIENCE_S)
        assert (chat.returncode, rest) == (ExitCode.NO_DAEMON, "\n")
        assert errors.count("\n") == 1, errors


class Terminal:
    """Our end of the terminal that a program runs at."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._unread = ""

    def type(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def read_until(self, text: str) -> str:
        """Return what was shown since the last call, up to and including `text`."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self._unread:
            is_readable = select.select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]
            assert is_readable, f"{text!r} is not shown, but {self._unread!r}"
            self._unread += os.read(self._descriptor, 4096).decode()
        shown, _, self._unread = self._unread.partition(text)
        return shown + text


@contextmanager
def at_a_terminal(daemon: Daemon, *arguments: str) -> Generator[tuple[subprocess.Popen[bytes], Terminal]]:
    """`pocketpaw chat` with a terminal, of which we hold the other end."""
    ours, theirs = pty.openpty()
    try:
        chat = subprocess.Popen(
            [*COMMAND, "chat", *arguments],
            env={**daemon.environment(), "TERM": "dumb"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        try:
            yield chat, Terminal(ours)
        finally:
            chat.kill()
            chat.wait()
    finally:
        os.close(ours)


def test_a_conversation_goes_on_after_a_stopped_answer_and_ends_with_ctrl_d(
    daemon: Daemon, model_server: ModelServerProcess
) -> None:
    with at_a_terminal(daemon, "--session", "s-talk") as (chat, terminal):
        assert "Session s-talk" in terminal.read_until("> ")
        terminal.type("hello\n")
        terminal.read_until("echo: hello")
        terminal.read_until("> ")
        model_server.script(HANGS_AFTER_ABC)
        terminal.type("again\n")
        terminal.read_until("abc")
        chat.send_signal(signal.SIGINT)
        terminal.read_until("> ")
        terminal.type("more\n")
        terminal.read_until("echo: more")
        terminal.read_until("> ")
        terminal.type("\x04")
        assert chat.wait(PATIENCE_S) == 0


def test_ctrl_c_at_the_terminal_reaches_the_visitor_and_not_the_daemon_of_the_visit(
    make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    daemon = make_daemon(settings=with_model_server(model_server.base_url))
    model_server.script(HANGS_AFTER_ABC)
    with at_a_terminal(daemon) as (chat, terminal):
        terminal.read_until("> ")
        terminal.type("hello\n")
        terminal.read_until("abc")
        os.killpg(chat.pid, signal.SIGINT)  # as a terminal does: to all of its foreground group
        terminal.read_until("> ")
        terminal.type("again\n")
        terminal.read_until("echo: again")
        terminal.read_until("> ")
        terminal.type("\x04")
        assert chat.wait(PATIENCE_S) == 0
    daemon.check_nothing_is_left()


def test_a_conversation_outlives_a_model_that_fails(daemon: Daemon, model_server: ModelServerProcess) -> None:
    with at_a_terminal(daemon) as (chat, terminal):
        terminal.read_until("> ")
        model_server.script(Reply(status=401))
        terminal.type("hello\n")
        terminal.read_until("pocketpaw: ")
        terminal.read_until("> ")
        terminal.type("hello\n")
        terminal.read_until("echo: hello")
        chat.send_signal(signal.SIGINT)


def test_a_tool_that_the_model_asks_for_is_no_part_of_the_answer(
    daemon: Daemon, model_server: ModelServerProcess
) -> None:
    model_server.script(Reply(tool_calls=(ToolCall("clock"),)))
    done = daemon.run("chat", "what time is it?")
    assert "clock" not in done.stdout


def test_a_call_that_waits_is_decided_at_the_terminal(daemon: Daemon, model_server: ModelServerProcess) -> None:
    target = daemon.home.root.parent / "note.txt"
    write = ToolCall("write_file", json.dumps({"path": str(target), "content": "hello"}))
    with at_a_terminal(daemon, "--session", "s-ask") as (_, terminal):
        terminal.read_until("> ")
        for answer, is_written in (("n", False), ("what?\ny", True)):
            model_server.script(Reply(tool_calls=(write,)), Reply(text="Done."))
            terminal.type("write it\n")
            shown = terminal.read_until("[n]o: ")
            assert "write_file waits for your approval: it changes something" in shown
            terminal.type(f"{answer}\n")
            terminal.read_until("Done.")
            terminal.read_until("> ")
            assert target.exists() == is_written


def test_a_call_that_waits_is_listed_and_decided_by_commands(daemon: Daemon, model_server: ModelServerProcess) -> None:
    target = daemon.home.root.parent / "note.txt"
    write = ToolCall("write_file", json.dumps({"path": str(target), "content": "hello"}))
    assert "Nothing waits" in daemon.run("approvals").stdout
    model_server.script(Reply(tool_calls=(write,)), Reply(text="Done."))
    talk = subprocess.Popen(
        [*COMMAND, "chat", "write it"],
        env=daemon.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert talk.stderr is not None
    while "pocketpaw approve" not in (line := talk.stderr.readline()):
        assert line
    request_id = line.split()[4]
    assert request_id in daemon.run("approvals").stdout
    assert daemon.run("approve", request_id).returncode == 0
    said, _ = talk.communicate(timeout=PATIENCE_S)
    assert said == "Done.\n"
    assert target.read_text() == "hello"
    again = daemon.run("deny", request_id)
    assert again.returncode == 1
    assert "is done: it cannot be decided any more" in again.stderr

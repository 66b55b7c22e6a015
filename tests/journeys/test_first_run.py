"""A machine on which PocketPaw has never run: nothing is set, and the embedded model answers."""

from __future__ import annotations

import stat

import msgspec

from .conftest import MakeDaemon


class Usage(msgspec.Struct, frozen=True):
    backend: str
    input_tokens: int
    output_tokens: int


class Answer(msgspec.Struct, frozen=True):
    session_id: str
    content: str
    usage: Usage


class Said(msgspec.Struct, frozen=True):
    role: str
    content: str


def test_a_first_start_makes_the_home_says_where_everything_is_and_answers(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.start()

    assert f"PocketPaw is at {daemon.url}" in daemon.log
    assert f"Data is in {daemon.home.root}" in daemon.log
    assert "Answers come from SmolLM2-135M-Instruct (embedded)" in daemon.log
    assert "warning" not in daemon.log
    assert stat.S_IMODE(daemon.home.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(daemon.home.access_token.stat().st_mode) == 0o600

    with daemon.http as http:
        first = http.post("/api/v1/chat", json={"content": "My name is Ada. Say hello to me."}).raise_for_status()
        answer = msgspec.json.decode(first.content, type=Answer)
        assert answer.content.strip()
        assert answer.usage.backend == "embedded"
        question = {"content": "What is my name?", "session_id": answer.session_id}
        second = http.post("/api/v1/chat", json=question).raise_for_status()
        remembered = msgspec.json.decode(second.content, type=Answer).usage.input_tokens
        assert remembered > answer.usage.input_tokens + answer.usage.output_tokens  # the model was told of both
        history = http.get(f"/api/v1/sessions/{answer.session_id}/history").raise_for_status()
    assert [said.role for said in msgspec.json.decode(history.content, type=list[Said])] == ["user", "assistant"] * 2

    assert daemon.stop() == 0


def test_the_token_that_the_command_shows_is_the_one_that_the_daemon_takes(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(settings={"localhost_auth_bypass": "false"})
    shown = daemon.run("token").stdout.strip()
    daemon.start()
    with daemon.http as http:
        assert http.get("/api/v1/sessions").status_code == 401
        assert http.get("/api/v1/sessions", headers={"authorization": f"Bearer {shown}"}).status_code == 200
    assert daemon.run("status").returncode == 0


def test_a_question_without_a_daemon_is_answered_by_one_for_the_visit(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    done = daemon.run("chat", "Say hello.")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stderr == ""
    daemon.check_nothing_is_left()
    daemon.start()  # what was said is kept
    with daemon.http as http:
        assert http.get("/api/v1/sessions").json()["total"] == 1

from __future__ import annotations

import io
import json
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import structlog
from pocketpaw.config import logs
from pocketpaw.config.logs import REDACTED, Redactor, configure

SECRET = 'sk-"quoted"\\and/slashed+0123456789'
OTHER = "0123456789-other-secret"


def no_level() -> str:
    return "debug"


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def stream() -> io.StringIO:
    written = io.StringIO()
    configure(written, Redactor(lambda: frozenset({SECRET, OTHER})), form="json", level=no_level)
    return written


def test_an_event_is_one_line_of_json_with_time_and_level(stream: io.StringIO) -> None:
    structlog.get_logger().warning("it\nbroke", actor="models/router", request_id="r-1")
    (line,) = lines(stream)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line["level"] == "warning"
    assert (line["event"], line["actor"], line["request_id"]) == ("it\nbroke", "models/router", "r-1")
    assert str(line["timestamp"]).endswith("Z")


class Holder:
    def __repr__(self) -> str:
        return f"Holder({SECRET!r})"


def test_no_sink_shows_a_secret_in_any_form(stream: io.StringIO) -> None:
    log = structlog.get_logger()
    event = f"with {SECRET}"
    log.info(event, url="https://host/?key=sk-%22quoted%22%5Cand%2Fslashed%2B0123456789")
    log.info("inside", nested={"list": [SECRET, (OTHER,)], SECRET: Holder()}, as_json=json.dumps({"key": SECRET}))
    try:
        raise ValueError(SECRET, {"key": OTHER})
    except ValueError:
        log.exception("failed")
        logging.getLogger("library").exception("also %s", SECRET)
    text = stream.getvalue()
    assert len(lines(stream)) == 4
    assert text.count(REDACTED) >= 10
    for part in ("quoted", OTHER):
        assert part not in text
    assert "ValueError" in text


def test_a_secret_that_begins_another_one_leaves_nothing_of_it() -> None:
    redact = Redactor(lambda: frozenset({"secret", "secret-longer-one"}))
    assert redact.text("a secret-longer-one and a secret") == f"a {REDACTED} and a {REDACTED}"


def test_long_secrets_are_taken_out_too_and_cost_no_time_to_look_for(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[int] = []
    compile_ = re.compile

    def counted(pattern: str) -> re.Pattern[str]:
        compiled.append(len(pattern))
        return compile_(pattern)

    monkeypatch.setattr(re, "compile", counted)
    long = "kä" * 10_000
    redactor = Redactor(lambda: frozenset({long, f"{long}-and-more", "short-secret"}))
    assert redactor.text(f"{long}-and-more {long} {quote(long)} short-secret") == " ".join([REDACTED] * 4)
    assert compiled == [len(re.escape("short-secret"))]


def test_short_secrets_do_not_tear_holes_into_the_log() -> None:
    assert Redactor(lambda: frozenset({"a", ""})).text("a plain sentence") == "a plain sentence"


def test_new_secrets_count_at_once() -> None:
    known = [frozenset({"first-secret"})]
    redactor = Redactor(lambda: known[0])
    assert redactor.text("first-secret second-secret") == f"{REDACTED} second-secret"
    known[0] |= {"second-secret"}
    assert redactor.text("first-secret second-secret") == f"{REDACTED} {REDACTED}"


def test_data_that_holds_itself_ends_somewhere(stream: io.StringIO) -> None:
    circle: list[object] = []
    circle.append(circle)
    structlog.get_logger().info("round", circle=circle)
    assert len(lines(stream)) == 1


def test_the_level_may_change_at_any_time() -> None:
    stream, level = io.StringIO(), ["error"]
    configure(stream, Redactor(frozenset), form="json", level=lambda: level[0])
    log = structlog.get_logger()
    log.warning("not yet")
    level[0] = "debug"
    log.debug("now")
    assert [line["event"] for line in lines(stream)] == ["now"]


def test_the_context_fills_in_what_an_event_does_not_say() -> None:
    stream = io.StringIO()
    configure(stream, Redactor(frozenset), form="json", context=lambda: {"actor": "health", "request_id": "r-9"})
    structlog.get_logger().info("hello", actor="http")
    (line,) = lines(stream)
    assert (line["actor"], line["request_id"]) == ("http", "r-9")


def test_a_line_that_repeats_is_thinned_out_and_counted(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    log = structlog.get_logger()
    for attempt in range(100):
        log.warning("cannot connect", actor="mcp/a", attempt=attempt)
        log.warning("cannot connect", actor="mcp/b")
    assert len(lines(stream)) == 2 * logs.REPEATS
    now[0] += logs.REPEAT_WINDOW_S + 1
    log.warning("cannot connect", actor="mcp/a")
    assert lines(stream)[-1]["not_logged"] == 100 - logs.REPEATS
    log.warning("cannot connect", actor="mcp/a")
    assert "not_logged" not in lines(stream)[-1]


def test_what_is_remembered_of_repeats_is_bounded(stream: io.StringIO) -> None:
    repeats = logs._Repeats()  # pyright: ignore[reportPrivateUsage] its memory shows nowhere else
    for number in range(3 * logs.REMEMBERED):
        repeats(None, "info", {"event": f"event {number}"})
    assert len(repeats._seen) == logs.REMEMBERED  # pyright: ignore[reportPrivateUsage]


def test_libraries_and_warnings_end_in_the_same_log(stream: io.StringIO) -> None:
    logging.getLogger("httpx2").warning("%s failed", "it")
    logging.getLogger("httpx2").info("chatter of a library")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old", stacklevel=1)
    assert lines(stream)[0]["event"] == "it failed"
    assert "old" in str(lines(stream)[1]["event"])
    assert lines(stream)[0]["logger"] == "httpx2"
    assert len(lines(stream)) == 2


class Broken(io.StringIO):
    is_broken = True

    def write(self, text: str, /) -> int:
        if self.is_broken:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_a_log_that_cannot_be_written_hurts_nobody_and_says_so_later() -> None:
    stream = Broken()
    configure(stream, Redactor(frozenset), form="json")
    log = structlog.get_logger()
    log.info("one")
    log.info("two")
    stream.is_broken = False
    log.info("three")
    first, second = stream.getvalue().splitlines()
    assert first == "(2 lines of the log could not be written)"
    assert json.loads(second)["event"] == "three"


def test_the_console_shows_an_event_on_one_line_and_a_traceback_below_it() -> None:
    stream = io.StringIO()
    configure(stream, Redactor(lambda: frozenset({OTHER})), form="console")
    log = structlog.get_logger()
    log.info("first\nforged", actor="a\nb", key=OTHER)
    (line,) = stream.getvalue().splitlines()
    assert "first\\nforged" in line
    assert OTHER not in line
    try:
        raise ValueError("the reason")
    except ValueError:
        log.exception("failed")
    assert stream.getvalue().splitlines()[-1] == "ValueError: the reason"


def test_lines_of_many_threads_stay_whole(stream: io.StringIO) -> None:
    def talk(name: str) -> None:
        for number in range(50):
            structlog.get_logger().info(f"{name} {number}")

    threads = [threading.Thread(target=talk, args=(f"thread {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(stream)) == 200


@pytest.mark.parametrize(("is_terminal", "is_json"), [(True, False), (False, True)])
def test_auto_is_for_people_on_a_terminal_and_json_elsewhere(is_terminal: bool, is_json: bool) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return is_terminal

    stream = Terminal()
    configure(stream, Redactor(frozenset))
    structlog.get_logger().info("hello")
    assert stream.getvalue().startswith("{") is is_json

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pocketpaw.storage.database import Database, open_database
from pocketpaw.storage.group import run_batch
from pocketpaw.storage.registry import answer
from pocketpaw.storage.search import SearchSessions
from pocketpaw.storage.sessions import DeleteSession
from pocketpaw.storage.tables import messages
from sqlalchemy import Connection

from .conftest import Ask
from .test_turns import done, question


def found(read: Ask, q: str) -> list[str]:
    return [match.id for match in read(SearchSessions(q=q)).sessions]


def test_a_session_is_found_once_by_what_was_said_in_it(write: Ask, read: Ask) -> None:
    write(question("t-1", session_id="a", content="I like pizza, pizza and pizza"))
    write(done("t-1", "Pizza it is"))
    write(question("t-2", session_id="b", content="I like soup"))
    (match,) = read(SearchSessions(q="PIZZA")).sessions
    assert (match.id, match.match, match.match_role) == ("a", "I like pizza, pizza and pizza", "user")
    fields = {"id", "title", "channel", "match", "match_role", "last_activity"}
    assert set(msgspec.to_builtins(match)) == fields


def test_all_words_must_be_there(write: Ask, read: Ask) -> None:
    write(question("t-1", session_id="a", content="red apple"))
    write(question("t-2", session_id="b", content="red pear"))
    assert found(read, "red") == ["b", "a"]
    assert found(read, "apple red") == ["a"]


def test_the_best_comes_first(write: Ask, read: Ask) -> None:
    write(question("t-1", session_id="together", content="the blue whale sings"))
    write(question("t-2", session_id="apart", content="a whale in the sea, which is blue"))
    write(question("t-3", session_id="long", content="blue, then much else. " + "filler " * 200 + "whale"))
    assert found(read, "blue whale") == ["together", "apart", "long"]


@pytest.mark.parametrize(
    ("content", "q"),
    [
        ("ça va, café?", "cafe"),
        ("naive question", "naïve"),
        ("c++ is fun", "c++"),
        ("mail ann@example.org now", "ann@example.org"),
        ("a 🙂 day", "🙂"),
        ("你好世界", "你好"),
        ('say "hello"', '"hello"'),
        ("it's", "it's"),
        ("AND OR NOT NEAR", "NOT"),
        ("photosynthesis", "photosyn"),
    ],
)
def test_words_of_all_kinds_are_found(write: Ask, read: Ask, content: str, q: str) -> None:
    write(question(content=content))
    assert found(read, q) == ["s-1"]


@pytest.mark.parametrize(
    "q", ["", " ", "\0", "\0\0 \n", '"', "*", "^", "zzz*", "content:x", "NEAR(", "-x", "%", "'", "\\"]
)
def test_text_without_a_word_finds_nothing(write: Ask, read: Ask, q: str) -> None:
    write(question(content="hello"))
    assert found(read, q) == []


def test_a_long_message_is_shown_around_the_word(write: Ask, read: Ask) -> None:
    write(question(content="start " + "filler " * 100 + "needle " + "filler " * 100))
    (match,) = read(SearchSessions(q="needle")).sessions
    assert "needle" in match.match
    assert match.match.startswith("…filler")
    assert match.match.endswith("…")
    assert len(match.match) < 200


def test_the_limit_counts_sessions(write: Ask, read: Ask) -> None:
    for number in range(6):
        write(question(f"t-{number}", session_id=f"s-{number % 3}", content="same words"))
    assert len(read(SearchSessions(q="same", limit=2)).sessions) == 2


def test_what_is_deleted_or_changed_is_no_longer_found(write: Ask, read: Ask, writer: Connection) -> None:
    write(question("t-1", session_id="a", content="secret plan"))
    write(question("t-2", session_id="b", content="other plan"))
    write(DeleteSession(session_id="a"))
    with writer.begin():
        writer.execute(messages.update().values(content="open plan"))
        writer.exec_driver_sql("INSERT INTO messages_fts (messages_fts) VALUES ('integrity-check')")
    assert found(read, "secret") == []
    assert found(read, "other") == []
    assert found(read, "open plan") == ["b"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path_factory.mktemp('archive')}/pocketpaw.db")
    yield opened
    opened.close()


@settings(max_examples=300, deadline=None)
@given(content=st.text(max_size=60), q=st.text(max_size=60))
def test_any_text_may_be_searched_for(archive: Database, content: str, q: str) -> None:
    with archive.connect_writer() as writer, archive.connect_reader() as reader:
        run_batch(writer, [question(content=f"{content} {q}")])
        matches = answer(reader, SearchSessions(q=q)).sessions
        run_batch(writer, [DeleteSession(session_id="s-1")])
    assert {match.id for match in matches} <= {"s-1"}
    if q.isascii() and q.isalnum():
        assert matches

from __future__ import annotations

import msgspec
import pytest
from pocketpaw.runtime.errors import Conflict, NotFound
from pocketpaw.runtime.message import Message
from pocketpaw.storage.export import ExportSession
from pocketpaw.storage.history import GetHistory
from pocketpaw.storage.sessions import CreateSession, DeleteSession, GetSession, ListSessions, RenameSession

from .conftest import Ask
from .test_turns import done, question


def test_a_new_session_is_a_new_chat_until_its_first_message(write: Ask, read: Ask) -> None:
    created = write(CreateSession())
    assert created.title == "New Chat"
    assert read(GetSession(session_id=created.id)).title == "New Chat"
    assert not write(question(session_id=created.id, content="plan a trip")).session_created
    assert read(GetSession(session_id=created.id)).title == "plan a trip"


def test_a_title_that_a_person_gave_stays(write: Ask, read: Ask) -> None:
    created = write(CreateSession(title="Mine"))
    write(question(session_id=created.id))
    assert read(GetSession(session_id=created.id)).title == "Mine"
    write(RenameSession(session_id=created.id, title="Ours"))
    assert read(GetSession(session_id=created.id)).title == "Ours"


def test_a_message_of_white_space_gives_no_title(write: Ask, read: Ask) -> None:
    write(question(content=" \n\t"))
    assert read(GetSession(session_id="s-1")).title == "New Chat"


def test_a_session_id_is_taken_once(write: Ask) -> None:
    write(CreateSession(session_id="mine"))
    with pytest.raises(Conflict, match="mine"):
        write(CreateSession(session_id="mine"))


def test_sessions_are_listed_by_newest_activity_and_paged(write: Ask, read: Ask) -> None:
    for name in "abc":
        write(question(f"t-{name}", session_id=name))
    write(done("t-a"))
    page = read(ListSessions(limit=2))
    assert ([session.id for session in page.sessions], page.total) == (["a", "c"], 3)
    assert [session.id for session in read(ListSessions(limit=2, offset=2)).sessions] == ["b"]


def test_a_page_has_the_fields_of_the_contract(write: Ask, read: Ask) -> None:
    write(question())
    page = msgspec.to_builtins(read(ListSessions()))
    assert set(page) == {"sessions", "total"}
    fields = {"id", "title", "channel", "created_at", "updated_at", "last_activity", "message_count"}
    assert set(page["sessions"][0]) == fields
    assert page["sessions"][0]["created_at"].endswith("Z")


@pytest.mark.parametrize("kind", [GetSession, GetHistory, ExportSession])
def test_an_unknown_session_is_named_to_who_reads(read: Ask, kind: type[Message[object]]) -> None:
    with pytest.raises(NotFound, match="nosuch"):
        read(msgspec.convert({"session_id": "nosuch"}, kind))


def test_an_unknown_session_is_named_to_who_writes(write: Ask) -> None:
    for message in (DeleteSession(session_id="nosuch"), RenameSession(session_id="nosuch", title="x")):
        with pytest.raises(NotFound, match="nosuch"):
            write(message)


@pytest.mark.parametrize("bad", ["", "a b", "a/b", "ab\n", "ä", "x" * 129])
def test_a_session_id_holds_only_what_it_may(bad: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="session_id"):
        msgspec.convert({"session_id": bad}, GetSession)


def test_history_pages_backwards_from_a_message(write: Ask, read: Ask) -> None:
    for number in range(3):
        write(question(f"t-{number}", content=f"q{number}", media=["/a.png"]))
        write(done(f"t-{number}", f"a{number}"))
    newest = read(GetHistory(session_id="s-1", limit=4))
    assert [said.content for said in newest] == ["q1", "a1", "q2", "a2"]
    assert newest[0].metadata == {"media": ["/a.png"], "message_id": "3", "turn_id": "t-1"}
    earlier = read(GetHistory(session_id="s-1", limit=4, before=str(newest[0].metadata["message_id"])))
    assert [said.content for said in earlier] == ["q0", "a0"]
    assert read(GetHistory(session_id="s-1", before="1")) == []


@pytest.mark.parametrize("bad", ["x", "", "-1", "1.5", "9" * 30, "²"])
def test_a_cursor_that_is_no_message_id_is_refused(bad: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="before"):
        msgspec.convert({"session_id": "s-1", "before": bad}, GetHistory)


def test_a_session_is_exported_as_json_and_markdown(write: Ask, read: Ask) -> None:
    write(question(session_id="tg:1", content="hello"))
    write(done(content="hi *there*"))
    exported = read(ExportSession(session_id="tg:1"))
    assert (exported.filename, exported.content_type) == ("pocketpaw-session-tg_1.json", "application/json")
    document = msgspec.json.decode(exported.content)
    assert (document["session_id"], document["message_count"]) == ("tg:1", 2)
    assert [(said["role"], said["content"]) for said in document["messages"]] == [
        ("user", "hello"),
        ("assistant", "hi *there*"),
    ]
    markdown = read(ExportSession(session_id="tg:1", format="md"))
    assert markdown.filename.endswith(".md")
    assert "**User**" in markdown.content
    assert "hi *there*" in markdown.content

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from pocketpaw.storage.api_keys import EndApiKey, KeyPair, LoadApiKeys
from pocketpaw.storage.history import GetHistory
from pocketpaw.storage.imports import ImportApiKey, ImportedMessage, ImportMemory, ImportMessages
from pocketpaw.storage.memories import AddMemory, ListMemories
from pocketpaw.storage.search import SearchSessions
from pocketpaw.storage.sessions import CreateSession, DeleteSession, GetSession, ListSessions, RenameSession
from pocketpaw.storage.turns import AddTurn

from .conftest import Ask

THEN = datetime(2026, 1, 1, 10, tzinfo=UTC)
SAID = [
    ImportedMessage(str(number), "user" if number % 2 == 0 else "assistant", f"word{number}", THEN + timedelta(number))
    for number in range(4)
]
SESSION = ImportMessages(session_id="websocket_1", title="Old", channel="websocket", messages=SAID, dry_run=False)
KEY = ImportApiKey(
    key=KeyPair("k-1", "pp_abc", "0" * 64),
    name="panel",
    scopes=["chat"],
    created_at=THEN,
    last_used_at=THEN + timedelta(1),
    expires_at=None,
    created_by="master",
    dry_run=False,
)


def turn(session_id: str) -> AddTurn:
    return AddTurn(
        session_id=session_id, turn_id="t", content="here", channel="api", state="pending", boot_id="b", principal="ann"
    )


def test_a_session_is_taken_with_its_times_found_and_known_the_next_time(write: Ask, read: Ask) -> None:
    assert write(msgspec.structs.replace(SESSION, dry_run=True)) == "taken"
    assert read(ListSessions()).total == 0
    assert write(SESSION) == "taken"
    assert write(SESSION) == write(msgspec.structs.replace(SESSION, dry_run=True)) == "known"
    session = read(GetSession(session_id="websocket_1"))
    assert (session.title, session.message_count, session.created_at) == ("Old", 4, THEN)
    assert session.last_activity == SAID[-1].created_at
    history = read(GetHistory(session_id="websocket_1"))
    assert [(one.role, one.content, one.timestamp) for one in history] == [
        (one.role, one.content, one.created_at) for one in SAID
    ]
    assert [match.id for match in read(SearchSessions(q="word3")).sessions] == ["websocket_1"]


def test_what_is_new_there_comes_behind_unless_something_was_said_here(write: Ask, read: Ask) -> None:
    write(msgspec.structs.replace(SESSION, messages=SAID[:2]))
    write(RenameSession(session_id="websocket_1", title="Mine"))
    assert write(SESSION) == "taken"
    session = read(GetSession(session_id="websocket_1"))
    assert (session.title, session.message_count) == ("Mine", 4)
    write(turn("websocket_1"))
    more = [*SAID, ImportedMessage("9", "user", "late", THEN)]
    assert write(msgspec.structs.replace(SESSION, messages=more)) == "changed"
    assert write(SESSION) == "known"
    assert [one.content for one in read(GetHistory(session_id="websocket_1"))][-2:] == ["word3", "here"]


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_session_of_that_name_that_is_here_is_filled_only_while_it_is_empty(
    write: Ask, read: Ask, *, is_empty: bool
) -> None:
    if is_empty:
        write(CreateSession(session_id="websocket_1", title="Mine"))
    else:
        write(turn("websocket_1"))
    assert write(SESSION) == ("taken" if is_empty else "changed")
    assert read(GetSession(session_id="websocket_1")).message_count == (4 if is_empty else 1)


def test_a_session_that_was_deleted_here_comes_again_when_it_is_asked_for_again(write: Ask) -> None:
    write(SESSION)
    write(DeleteSession(session_id="websocket_1"))
    assert write(SESSION) == "taken"


def test_a_memory_is_taken_with_its_time_and_never_changes_one_that_is_here(write: Ask, read: Ask) -> None:
    memory = ImportMemory(content="Ann likes green tea.", tags=["tea"], created_at=THEN, dry_run=False)
    assert write(msgspec.structs.replace(memory, dry_run=True)) == "taken"
    assert read(ListMemories()).total == 0
    assert write(memory) == "taken"
    (kept,) = read(ListMemories()).memories
    assert (kept.created_at, kept.updated_at, kept.tags) == (THEN, THEN, ["tea"])
    assert write(msgspec.structs.replace(memory, content="ann likes green tea!", tags=["other"])) == "known"
    assert read(ListMemories()).memories == [kept]
    assert [one.id for one in read(ListMemories(q="green")).memories] == [kept.id]
    write(AddMemory(content="Ann likes green tea.", tags=["mine"]))
    assert read(ListMemories()).memories[0].tags == ["tea", "mine"]


def test_a_key_is_taken_once_and_one_that_was_revoked_here_stays_so(write: Ask, read: Ask) -> None:
    assert write(msgspec.structs.replace(KEY, dry_run=True)) is not None
    assert read(LoadApiKeys()) == []
    added = write(KEY)
    assert added is not None
    assert [credential.digest for credential in added.changed] == ["0" * 64]
    write(EndApiKey(key_id="k-1"))
    assert write(KEY) is None
    assert write(msgspec.structs.replace(KEY, key=KeyPair("k-2", "pp_abc", "0" * 64))) is None
    (key,) = read(LoadApiKeys())
    assert (key.created_at, key.last_used_at, key.revoked) == (THEN, THEN + timedelta(1), True)

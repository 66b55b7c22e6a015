from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pocketpaw.runtime.errors import InvalidInput, NotFound
from pocketpaw.storage import fulltext
from pocketpaw.storage.database import Database, open_database
from pocketpaw.storage.group import run_batch
from pocketpaw.storage.memories import (
    AddMemory,
    CountMemories,
    DeleteMemory,
    ListMemories,
    MarkMemoriesUsed,
    Memory,
)
from pocketpaw.storage.recollection import HALF_LIFE, PickMemories, SearchMemories, score
from pocketpaw.storage.registry import answer
from pocketpaw.storage.tables import memories, utc_now
from sqlalchemy import Connection

from .conftest import Ask
from .test_turns import done, question

WEB = ["web https://example.org"]


def add(write: Ask, content: str, *tags: str, provenance: list[str] | None = None) -> Memory:
    return write(AddMemory(content=content, tags=list(tags), provenance=provenance or [])).memory


def listed(read: Ask, q: str = "") -> list[str]:
    return [memory.content for memory in read(ListMemories(q=q)).memories]


def found(read: Ask, q: str) -> list[str]:
    return [memory.content for memory in read(SearchMemories(q=q))]


def age(writer: Connection, content: str, days: float) -> None:
    """Make a memory older."""
    with writer.begin():
        then = utc_now() - timedelta(days=days)
        writer.execute(memories.update().where(memories.c.content == content).values(updated_at=then))


def test_a_memory_is_kept_whole_and_forgotten(write: Ask, read: Ask) -> None:
    said = AddMemory(content=" Ann likes tea\0. ", tags=["food", "food"], source_session="s-1", provenance=WEB)
    remembered = write(said)
    memory = remembered.memory
    assert remembered.is_new
    assert (memory.content, memory.tags, memory.source_session, memory.provenance) == (
        "Ann likes tea\ufffd.",
        ["food"],
        "s-1",
        WEB,
    )
    assert (memory.uses, memory.last_used_at, memory.created_at) == (0, None, memory.updated_at)
    assert read(ListMemories()).memories == [memory]
    write(DeleteMemory(memory_id=memory.id))
    assert read(ListMemories()).total == 0
    for unknown in (memory.id, "", "x", "9" * 30, "-1", "٣"):
        with pytest.raises(NotFound):
            write(DeleteMemory(memory_id=unknown))


def test_blank_text_is_no_memory(write: Ask) -> None:
    with pytest.raises(InvalidInput, match="content"):
        write(AddMemory(content=" \n"))


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ("Ann likes green tea", "ann likes GREEN tea!"),
        ("The user likes black coffee", "User likes black coffee."),
        ("The user lives in Bonn now", "The user lives in old Bonn now"),
        ("I like sweet green tea", "I do like sweet green tea"),
    ],
)
def test_what_says_the_same_or_nearly_brings_the_memory_up_to_date(
    write: Ask, read: Ask, known: str, said: str
) -> None:
    first = add(write, known, "a")
    again = write(AddMemory(content=said, tags=["b"], source_session="s-2"))
    assert not again.is_new
    assert (again.memory.id, again.memory.tags, again.memory.source_session) == (first.id, ["a", "b"], "s-2")
    assert again.memory.created_at == first.created_at <= again.memory.updated_at
    assert listed(read) == [said]


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ("Ann's birthday is on the third of May 1980", "Bob's birthday is on the third of May 1980"),
        ("Ann loves Bob", "Bob loves Ann"),
        ("I use C++", "I use C"),
        ("The code is 1 2 3 4 5", "The code is 1 2 3 5 4"),
        ("Ann likes tea", "Ann likes green tea"),
        ("🙂", "🙃"),
    ],
)  # fmt: skip
def test_what_differs_in_a_word_or_in_its_order_is_kept_beside_it(write: Ask, read: Ask, known: str, said: str) -> None:
    add(write, known)
    add(write, said)
    assert listed(read) == [said, known]


def test_what_came_from_outside_does_not_change_what_a_person_said(write: Ask, read: Ask) -> None:
    own = add(write, "The user pays bills by transfer to the house bank")
    outside = add(write, "The user pays all bills by transfer to the house bank", provenance=WEB)
    assert outside.id != own.id
    repeated = add(write, "the user pays bills by transfer to the house bank!", provenance=WEB)
    assert (repeated.id, repeated.content, repeated.provenance) == (own.id, own.content, [])


def test_what_a_person_says_too_is_no_longer_from_outside(write: Ask) -> None:
    outside = add(write, "Bonn is on the Rhine", provenance=WEB)
    more = add(write, "Bonn is on the Rhine", provenance=["mcp maps"])
    assert (more.id, more.provenance) == (outside.id, [*WEB, "mcp maps"])
    assert add(write, "Bonn is on the Rhine").provenance == []


def test_memories_are_listed_in_pages_with_their_total(write: Ask, read: Ask) -> None:
    for number in range(5):
        add(write, f"fact number{number} about tea")
    add(write, "Bob drinks water")
    page = read(ListMemories(limit=2, offset=1, q="TEA"))
    assert ([memory.content[:12] for memory in page.memories], page.total) == (["fact number3", "fact number2"], 5)
    assert read(ListMemories(limit=1)).total == 6
    assert listed(read, "bob wat") == ["Bob drinks water"]
    assert listed(read, "bob tea") == []
    assert read(ListMemories(q=" \0 ")).total == 0


def test_the_best_match_comes_first_and_of_equals_the_younger(write: Ask, read: Ask, writer: Connection) -> None:
    add(write, "Ann grows roses in her garden")
    add(write, "Ann is allergic to nuts")
    add(write, "Bob is allergic to nuts, as is Carl, who also cannot eat eggs or drink any milk at all")
    add(write, "Dan is allergic to nuts")
    age(writer, "Dan is allergic to nuts", 90)
    assert found(read, "Is anyone allergic to nuts?")[0] == "Ann is allergic to nuts"
    assert found(read, "allergic nuts Dan")[0] == "Dan is allergic to nuts"
    assert found(read, "roses") == ["Ann grows roses in her garden"]
    assert found(read, "submarines") == []
    assert len(read(SearchMemories(q="allergic", limit=2))) == 2


def test_the_score_blends_relevance_with_youth() -> None:
    now, then = timedelta(), HALF_LIFE
    assert score(2.0, 2.0, now) == 1.0
    assert score(1.0, 2.0, now) == 0.625
    assert score(2.0, 2.0, then) == 0.875
    assert score(2.0, 2.0, timedelta(seconds=-5)) == 1.0
    assert score(0.5, 2.0, now) < score(2.0, 2.0, timedelta(days=3650))


def test_a_turn_is_read_with_what_matches_then_with_the_newest_within_the_budget(write: Ask, read: Ask) -> None:
    add(write, "The user's cat is called Momo")
    add(write, "The user lives in Bonn")
    add(write, "x" * 100)
    add(write, "The cat eats web pages", provenance=WEB)
    picked = read(PickMemories(text="What is my cat called?", budget_chars=60))
    assert [memory.content for memory in picked.memories] == ["The user's cat is called Momo", "The user lives in Bonn"]
    assert picked.matching == 1
    assert read(PickMemories(text="cat", budget_chars=3)).memories == []
    assert len(read(PickMemories(text="", budget_chars=2000)).memories) == 3
    assert read(PickMemories(text="cat " * 50_000)).matching == 1


def test_words_that_most_memories_have_are_not_looked_for_unless_there_is_no_other(
    write: Ask, read: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("green", "black", "white", "mint", "saffron"):
        add(write, f"Somebody drinks {kind} tea")
    monkeypatch.setattr(fulltext, "RANKED_HITS", 4)
    assert found(read, "saffron tea") == ["Somebody drinks saffron tea"]
    assert found(read, "mint saffron white tea")[3:] == []
    assert found(read, "tea")[0] == "Somebody drinks saffron tea"
    assert len(found(read, "somebody drinks tea")) == 5


def test_uses_are_counted(write: Ask, read: Ask) -> None:
    one, two = add(write, "one"), add(write, "two")
    write(MarkMemoriesUsed(memory_ids=[one.id, "999"]))
    uses = {memory.content: (memory.uses, memory.last_used_at is not None) for memory in read(ListMemories()).memories}
    assert uses == {"one": (1, True), "two": (0, False)}
    assert {memory.updated_at for memory in read(ListMemories()).memories} == {one.updated_at, two.updated_at}


def test_what_is_kept_is_counted(write: Ask, read: Ask) -> None:
    add(write, "one")
    write(question("t-1"))
    write(done("t-1", "answer"))
    stats = read(CountMemories())
    assert (stats.total_memories, stats.total_sessions, stats.total_messages) == (1, 1, 2)
    assert stats.size_bytes > 4096


def test_what_is_changed_or_forgotten_is_no_longer_found(write: Ask, read: Ask, writer: Connection) -> None:
    memory = add(write, "The user lives in the old town of Bonn now")
    add(write, "The user lives in the town of Bonn now")
    gone = add(write, "secret")
    write(DeleteMemory(memory_id=gone.id))
    with writer.begin():
        writer.exec_driver_sql("INSERT INTO memories_fts (memories_fts) VALUES ('integrity-check')")
    assert (found(read, "old"), found(read, "secret")) == ([], [])
    assert [found.id for found in read(SearchMemories(q="bonn"))] == [memory.id]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path_factory.mktemp('archive')}/pocketpaw.db")
    yield opened
    opened.close()


@settings(max_examples=200, deadline=None)
@given(content=st.text(min_size=1, max_size=60).filter(str.strip), q=st.text(max_size=60))
def test_any_text_may_be_kept_and_searched_for(archive: Database, content: str, q: str) -> None:
    with archive.connect_writer() as writer, archive.connect_reader() as reader:
        (kept,) = run_batch(writer, [AddMemory(content=f"{content} {q}")])
        matches = answer(reader, SearchMemories(q=q))
        answer(reader, ListMemories(q=q))
        again = run_batch(writer, [AddMemory(content=f"{content} {q}"), DeleteMemory(memory_id=kept.memory.id)])
    assert not again[0].is_new
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(kept.memory), type=Memory) == kept.memory
    if q.isascii() and q.isalnum():
        assert matches == [kept.memory]

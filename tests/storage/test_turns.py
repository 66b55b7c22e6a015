from __future__ import annotations

from datetime import timedelta
from typing import Literal

import msgspec
import pytest
from pocketpaw.runtime.errors import Conflict, NotFound
from pocketpaw.storage.history import GetHistory, GetTurnHistory
from pocketpaw.storage.sessions import DeleteSession, GetSession
from pocketpaw.storage.tables import turns, utc_now
from pocketpaw.storage.turns import AddTurn, ClaimTurn, FinishTurn, GetTurn, ListSessionTurns, ListUnfinishedSessions
from pocketpaw.storage.usage import Usage
from sqlalchemy import Connection, update

from .conftest import Ask

USAGE = Usage(input_tokens=10, output_tokens=5, total_tokens=15, model="smollm2", backend="embedded", cost_usd=0.0)


def question(
    turn_id: str = "t-1",
    *,
    session_id: str = "s-1",
    content: str = "hello",
    state: Literal["pending", "running"] = "running",
    boot_id: str = "boot-1",
    key: str | None = None,
    principal: str = "ann",
    media: list[str] | None = None,
    history_limit: int = 0,
) -> AddTurn:
    return AddTurn(
        session_id=session_id,
        turn_id=turn_id,
        content=content,
        channel="api",
        state=state,
        boot_id=boot_id,
        principal=principal,
        idempotency_key=key,
        media=media or [],
        history_limit=history_limit,
    )


def done(turn_id: str = "t-1", content: str = "hi", *, boot_id: str = "boot-1") -> FinishTurn:
    return FinishTurn(turn_id=turn_id, boot_id=boot_id, state="done", content=content, usage=[USAGE])


def test_the_first_turn_makes_its_session_and_names_it(write: Ask, read: Ask) -> None:
    added = write(question(content="\n  What is   the time?  \nsecond line", media=["/tmp/a.png"]))
    assert added.created
    assert added.session_created
    assert (added.turn.state, added.turn.attempts, added.turn.media) == ("running", 1, ["/tmp/a.png"])
    assert read(GetTurn(turn_id="t-1")) == added.turn
    session = read(GetSession(session_id="s-1"))
    assert (session.title, session.channel, session.message_count) == ("What is the time?", "api", 1)


def test_a_pending_turn_has_no_attempt_yet(write: Ask) -> None:
    assert write(question(state="pending")).turn.attempts == 0


def test_a_long_first_line_is_cut_for_the_title(write: Ask, read: Ask) -> None:
    write(question(content="word " * 100))
    title = read(GetSession(session_id="s-1")).title
    assert len(title) <= 60
    assert title.endswith("…")


def test_a_finished_turn_has_reply_usage_and_session_counters(write: Ask, read: Ask) -> None:
    write(question())
    finished = write(msgspec.structs.replace(done(), metadata={"tools": ["clock"]}))
    assert finished == read(GetTurn(turn_id="t-1"))
    assert (finished.state, finished.reply, finished.usage) == ("done", "hi", USAGE)
    session = read(GetSession(session_id="s-1"))
    assert session.message_count == 2
    assert session.last_activity == finished.updated_at


def test_the_same_end_twice_is_one_end(write: Ask, read: Ask) -> None:
    write(question())
    assert write(done()) == write(done())
    assert read(GetSession(session_id="s-1")).message_count == 2


@pytest.mark.parametrize(
    "late",
    [
        done(content="something else"),
        FinishTurn(turn_id="t-1", boot_id="boot-1", state="failed", error="x"),
        done(boot_id="boot-2"),
    ],
)
def test_another_end_is_a_conflict_and_changes_nothing(write: Ask, read: Ask, late: FinishTurn) -> None:
    write(question())
    before = write(done())
    with pytest.raises(Conflict, match="t-1"):
        write(late)
    assert read(GetTurn(turn_id="t-1")) == before


def test_a_boot_that_lost_the_turn_cannot_end_it(write: Ask, read: Ask) -> None:
    write(question(boot_id="boot-1"))
    write(ClaimTurn(turn_id="t-1", boot_id="boot-2"))
    with pytest.raises(Conflict, match="boot-2"):
        write(done(boot_id="boot-1"))
    assert read(GetTurn(turn_id="t-1")).state == "running"
    assert write(done(boot_id="boot-2")).state == "done"


def test_a_stopped_turn_keeps_what_was_said(write: Ask, read: Ask) -> None:
    write(question())
    stop = FinishTurn(turn_id="t-1", boot_id="boot-1", state="stopped", content="half an ans")
    assert write(stop).reply == "half an ans"
    (_, answer) = read(GetHistory(session_id="s-1"))
    assert (answer.content, answer.metadata["stopped"]) == ("half an ans", True)
    (_, before) = read(GetTurnHistory(turn_id=write(question("t-2")).turn.id))
    assert (before.content, before.principal, before.scopes) == ("half an ans", "ann", [])


@pytest.mark.parametrize("state", ["stopped", "failed", "interrupted"])
def test_an_end_without_words_adds_no_message(
    write: Ask, read: Ask, state: Literal["stopped", "failed", "interrupted"]
) -> None:
    write(question())
    ended = write(FinishTurn(turn_id="t-1", boot_id="boot-1", state=state, error="why"))
    assert (ended.state, ended.reply, ended.error) == (state, None, "why")
    assert read(GetSession(session_id="s-1")).message_count == 1


def test_an_idempotency_key_gives_the_earlier_turn(write: Ask, read: Ask) -> None:
    write(question(key="k"))
    write(done())
    again = write(question("t-2", session_id="s-2", key="k"))
    assert (again.created, again.turn.id, again.turn.session_id, again.turn.reply) == (False, "t-1", "s-1", "hi")
    with pytest.raises(NotFound):
        read(GetSession(session_id="s-2"))


def test_text_with_nul_repeats_like_any_other(write: Ask) -> None:
    write(question(content="a\0b", key="k"))
    assert not write(question("t-2", content="a\0b", key="k")).created
    assert write(done(content="c\0d")) == write(done(content="c\0d"))


def test_an_idempotency_key_with_another_content_is_a_conflict(write: Ask) -> None:
    write(question(key="k"))
    with pytest.raises(Conflict, match="Idempotency-Key"):
        write(question("t-2", content="other", key="k"))


def test_an_idempotency_key_belongs_to_its_principal(write: Ask) -> None:
    write(question(key="k", principal="ann"))
    assert write(question("t-2", key="k", principal="bob")).created


def test_an_idempotency_key_lasts_a_day(write: Ask, writer: Connection) -> None:
    write(question(key="k"))
    with writer.begin():
        writer.execute(update(turns).values(created_at=utc_now() - timedelta(hours=24, seconds=1)))
    assert write(question("t-2", content="other", key="k")).created
    assert not write(question("t-3", content="other", key="k")).created


def test_a_turn_id_is_taken_once(write: Ask, read: Ask) -> None:
    write(question())
    with pytest.raises(Conflict, match="t-1"):
        write(question(content="again"))
    assert read(GetSession(session_id="s-1")).message_count == 1


def test_a_claim_counts_its_attempt_and_gives_up_after_the_last(write: Ask) -> None:
    write(question(state="pending"))
    assert [write(ClaimTurn(turn_id="t-1", boot_id=f"boot-{n}")).attempts for n in (2, 3, 4)] == [1, 2, 3]
    given_up = write(ClaimTurn(turn_id="t-1", boot_id="boot-5"))
    assert (given_up.state, given_up.error, given_up.attempts) == ("interrupted", "gave up after 3 attempts", 3)


def test_a_finished_turn_cannot_be_claimed(write: Ask) -> None:
    write(question())
    write(done())
    with pytest.raises(Conflict, match="done"):
        write(ClaimTurn(turn_id="t-1", boot_id="boot-2"))


def test_an_unknown_turn_is_named(write: Ask, read: Ask) -> None:
    for message in (ClaimTurn(turn_id="t-9", boot_id="b"), done("t-9")):
        with pytest.raises(NotFound, match="t-9"):
            write(message)
    with pytest.raises(NotFound, match="t-9"):
        read(GetTurn(turn_id="t-9"))
    with pytest.raises(NotFound, match="t-9"):
        read(GetTurnHistory(turn_id="t-9"))


def test_the_sessions_that_other_boots_left_unfinished_come_oldest_turn_first(write: Ask, read: Ask) -> None:
    for number, session_id in enumerate(("s-c", "s-b", "s-a", "s-b", "s-c")):
        state = "pending" if number % 2 else "running"
        write(question(f"t-{number}", session_id=session_id, state=state))
    write(done("t-0"))
    write(question("t-mine", session_id="s-mine", boot_id="boot-2"))
    assert read(ListUnfinishedSessions(boot_id="boot-2")) == ["s-b", "s-a", "s-c"]
    assert read(ListUnfinishedSessions(boot_id="boot-2", limit=1)) == ["s-b"]


def test_the_turns_of_a_session_that_wait_or_run_are_listed_whoever_claimed_them(write: Ask, read: Ask) -> None:
    write(question("t-0", boot_id="boot-0"))
    write(question("t-1", state="pending"))
    write(question("t-2"))
    write(done("t-2"))
    write(question("t-3", session_id="other"))
    assert [turn.id for turn in read(ListSessionTurns(session_id="s-1"))] == ["t-0", "t-1"]


def test_a_turn_is_told_the_history_before_it(write: Ask) -> None:
    for number in range(3):
        write(question(f"t-{number}", content=f"q{number}"))
        write(done(f"t-{number}", f"a{number}"))
    history = write(question("t-3", content="q3", history_limit=4)).history
    assert [(said.role, said.content) for said in history] == [
        ("user", "q1"),
        ("assistant", "a1"),
        ("user", "q2"),
        ("assistant", "a2"),
    ]


def test_a_queued_turn_sees_the_replies_before_it_in_their_place(write: Ask, read: Ask) -> None:
    for number in range(4):
        write(question(f"t-{number}", content=f"q{number}", state="pending"))
    write(done("t-0", "a0"))
    write(done("t-1", "a1"))
    history = read(GetTurnHistory(turn_id="t-2"))
    assert [said.content for said in history] == ["q0", "a0", "q1", "a1"]


def test_a_deleted_session_takes_its_turns_along(write: Ask, read: Ask) -> None:
    write(question())
    write(DeleteSession(session_id="s-1"))
    with pytest.raises(NotFound):
        write(done())
    assert write(question(key="k")).session_created
    assert read(ListUnfinishedSessions(boot_id="boot-2")) == ["s-1"]

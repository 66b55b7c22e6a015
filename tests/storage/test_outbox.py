from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pocketpaw.storage.outbox import (
    UNSURE_LIMIT,
    AddOutgoing,
    BeginDraft,
    ClaimDelivery,
    EndDelivery,
    EndDraft,
    Line,
    Outgoing,
    RecoverOutbox,
    SumUpOutbox,
)

from .conftest import Ask

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def add(write: Ask, key: str, chat: str = "1", text: str = "hello", channel: str = "telegram") -> None:
    write(AddOutgoing(line=Line(key, channel, chat, "", text), now=NOW))


def claim(write: Ask, now: datetime = NOW, claim: str = "a/1") -> Outgoing | None:
    return write(ClaimDelivery(channel="telegram", claim=claim, now=now)).outgoing


def claimed(write: Ask, now: datetime = NOW, by: str = "a/1") -> Outgoing:
    outgoing = claim(write, now, by)
    assert outgoing is not None
    return outgoing


def end(write: Ask, outgoing: Outgoing, outcome: str, by: str = "a/1", **others: object) -> None:
    facts = {"outgoing_id": outgoing.id, "claim": by, "outcome": outcome, "now": NOW, **others}
    write(EndDelivery(**facts))  # pyright: ignore[reportArgumentType] - each is of its field


def recover(write: Ask, by: str, *, is_idempotent: bool = False) -> None:
    write(RecoverOutbox(channel="telegram", claim=by, is_idempotent=is_idempotent, now=NOW))


def test_what_was_sent_is_never_tried_again(write: Ask) -> None:
    add(write, "a")
    end(write, claimed(write), "sent", ref="77")
    recover(write, "a/2")
    add(write, "a", text="the same key again")
    assert claim(write, NOW + timedelta(hours=1), "a/2") is None


def test_an_attempt_is_counted_before_it_is_made(write: Ask) -> None:
    add(write, "a")
    assert claimed(write).attempts == 1
    assert claim(write) is None  # it is in hand


def test_what_was_being_tried_when_all_broke_is_tried_again_as_a_repeat(write: Ask) -> None:
    add(write, "a")
    assert not claimed(write).is_repeat
    recover(write, "b/1")
    again = claimed(write, by="b/1")
    assert (again.is_repeat, again.attempts) == (True, 2)


def test_where_the_platform_knows_repeats_it_is_none_to_anybody(write: Ask) -> None:
    add(write, "a")
    claimed(write)
    recover(write, "b/1", is_idempotent=True)
    assert not claimed(write, by="b/1").is_repeat


def test_its_own_attempts_a_life_does_not_take_over(write: Ask) -> None:
    add(write, "a")
    claimed(write)
    recover(write, "a/1")
    assert claim(write) is None


def test_a_former_life_has_nothing_to_say_any_more(write: Ask) -> None:
    add(write, "a")
    old = claimed(write)
    recover(write, "b/1")
    end(write, old, "sent", by="a/1", ref="1")
    assert claimed(write, by="b/1").id == old.id


def test_in_a_chat_the_order_is_kept_and_other_chats_do_not_wait(write: Ask) -> None:
    add(write, "a1", chat="1")
    add(write, "a2", chat="1")
    add(write, "b1", chat="2")
    first = claimed(write)
    end(write, first, "retry", error="away", retry_at=NOW + 10 * SECOND)
    other = claimed(write)
    assert (first.key, other.key) == ("a1", "b1")
    end(write, other, "sent", ref="1")
    waiting = write(ClaimDelivery(channel="telegram", claim="a/1", now=NOW))
    assert (waiting.outgoing, waiting.due_at) == (None, NOW + 10 * SECOND)
    assert claimed(write, NOW + 10 * SECOND).key == "a1"


def test_the_chats_of_other_channels_are_theirs(write: Ask) -> None:
    add(write, "a", channel="slack")
    assert claim(write) is None


def test_what_breaks_all_again_and_again_is_set_aside_and_the_next_one_goes(write: Ask) -> None:
    add(write, "poison")
    add(write, "next")
    for life in range(UNSURE_LIMIT):
        assert claimed(write, by=f"a/{life}").key == "poison"
        recover(write, f"a/{life + 1}")
    assert claimed(write, by="a/99").key == "next"


def test_a_message_of_which_nobody_knows_is_repeated_so_often_and_no_more(write: Ask) -> None:
    add(write, "a")
    for _ in range(UNSURE_LIMIT):
        end(write, claimed(write), "unsure", error="cut", retry_at=NOW)
    assert claim(write) is None


def test_what_could_not_be_said_for_a_day_is_not_said_any_more(write: Ask, read: Ask) -> None:
    add(write, "old")
    late = NOW + timedelta(hours=24)
    assert claim(write, late) is None
    (told,) = read(SumUpOutbox(now=late - SECOND))
    assert (told.waiting, told.given_up) == (0, 1)


def test_what_was_added_while_the_clock_was_wrong_is_said_and_holds_nothing_up(write: Ask) -> None:
    future = NOW + timedelta(days=1500)
    write(AddOutgoing(line=Line("a", "telegram", "1", "", "hello"), now=future))
    end(write, claimed(write, future), "retry", error="away", retry_at=future + SECOND)
    add(write, "b")
    assert claimed(write).key == "a"


def test_what_will_never_arrive_is_reported(write: Ask, read: Ask) -> None:
    add(write, "a")
    add(write, "b")
    end(write, claimed(write), "dead", error="the bot was blocked")
    (told,) = read(SumUpOutbox(now=NOW + SECOND))
    assert (told.channel, told.waiting, told.oldest, told.given_up) == ("telegram", 1, NOW, 1)
    assert read(SumUpOutbox(now=NOW + timedelta(hours=25)))[0].given_up == 0


def draft(write: Ask, key: str = "in:1:0", claim: str = "a/1") -> Outgoing | None:
    facts = {"channel": "telegram", "chat": "1", "thread": "", "reply_to": None, "claim": claim, "now": NOW}
    return write(BeginDraft(key=key, **facts))  # pyright: ignore[reportArgumentType] - each is of its field


def test_the_first_words_become_the_answer_by_an_edit(write: Ask) -> None:
    begun = draft(write)
    assert begun is not None
    write(EndDraft(outgoing_id=begun.id, claim="a/1", ref="77"))
    assert claim(write) is None  # it is not whole yet
    add(write, "in:1:0", text="the whole answer")
    final = claimed(write)
    assert (final.ref, final.text, final.is_repeat) == ("77", "the whole answer", False)


def test_first_words_that_may_have_arrived_make_the_answer_a_repeat(write: Ask) -> None:
    assert draft(write) is not None
    recover(write, "b/1", is_idempotent=True)
    assert draft(write, claim="b/1") is None  # nobody says them a second time
    assert claim(write) is None
    add(write, "in:1:0", text="the whole answer")
    final = claimed(write, by="b/1")
    assert (final.ref, final.is_repeat) == (None, True)


def test_first_words_keep_nobody_waiting(write: Ask) -> None:
    assert draft(write) is not None
    add(write, "approval:1", text="May I?")
    assert claimed(write).key == "approval:1"


def test_an_edit_that_may_have_worked_is_no_repeat(write: Ask) -> None:
    begun = draft(write)
    assert begun is not None
    write(EndDraft(outgoing_id=begun.id, claim="a/1", ref="77"))
    add(write, "in:1:0", text="whole")
    claimed(write)
    recover(write, "b/1")
    assert not claimed(write, by="b/1").is_repeat


def test_what_was_to_be_edited_and_is_gone_is_said_anew(write: Ask) -> None:
    begun = draft(write)
    assert begun is not None
    write(EndDraft(outgoing_id=begun.id, claim="a/1", ref="77"))
    add(write, "in:1:0", text="whole")
    end(write, claimed(write), "retry", error="gone", ref=None)
    assert claimed(write).ref is None

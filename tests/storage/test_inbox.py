from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pocketpaw.runtime.errors import NotFound
from pocketpaw.storage.inbox import (
    AnswerInbound,
    Inbound,
    ListOpenInbound,
    PruneChannels,
    Recognize,
    Recognized,
    TakeIn,
    Taken,
)
from pocketpaw.storage.outbox import ClaimDelivery, EndDelivery
from pocketpaw.storage.pairings import DropPairing, KeepPairingCode, ListPairings
from pocketpaw.storage.sessions import DeleteSession
from pocketpaw.storage.turns import AddTurn

from .conftest import Ask

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def take(write: Ask, key: str = "1:1", **facts: object) -> Taken:
    said: dict[str, object] = {
        "channel": "telegram",
        "key": key,
        "chat": "42",
        "thread": "",
        "ref": "7",
        "sender": "42",
        "sender_name": "Ann",
        "is_direct": True,
        "text": "hello",
        "standing": "trusted",
        "session_base": "telegram:42",
        "paired_line": "paired",
        "stranger_line": "no strangers",
        "now": NOW,
    }
    return write(TakeIn(**{**said, **facts}))  # pyright: ignore[reportArgumentType] - each is of its field


def kept(write: Ask, key: str = "1:1", **facts: object) -> Inbound:
    inbound = take(write, key, **facts).inbound
    assert inbound is not None
    return inbound


def said(write: Ask) -> list[str]:
    """Say what the outbox holds; the texts, in order."""
    texts: list[str] = []
    now = NOW + DAY / 2
    while (outgoing := write(ClaimDelivery(channel="telegram", claim="c", now=now)).outgoing) is not None:
        texts.append(outgoing.text)
        write(EndDelivery(outgoing_id=outgoing.id, claim="c", outcome="sent", ref="1", now=now))
    return texts


def test_a_message_is_taken_in_once(write: Ask, read: Ask) -> None:
    first, again = take(write), take(write, text="changed on the way")
    assert (first.is_new, again.is_new) == (True, False)
    assert first.inbound == again.inbound
    assert [inbound.text for inbound in read(ListOpenInbound(channel="telegram"))] == ["hello"]
    assert read(ListOpenInbound(channel="slack")) == []


def test_an_answer_goes_out_in_parts_and_the_message_is_done(write: Ask, read: Ask) -> None:
    inbound = kept(write)
    for parts in (["one", "two"], ["another answer"]):  # the second time it is answered already
        write(AnswerInbound(inbound_id=inbound.id, parts=parts, now=NOW))
    assert read(ListOpenInbound(channel="telegram")) == []
    again = take(write)
    assert (again.is_new, again.is_open) == (False, False)
    assert again.inbound is not None
    assert again.inbound.text == ""  # the session has it
    first = write(ClaimDelivery(channel="telegram", claim="c", now=NOW)).outgoing
    assert first is not None
    assert (first.key, first.text, first.reply_to) == (f"in:{inbound.id}:0", "one", None)


def test_in_a_chat_of_many_an_answer_shows_what_it_answers(write: Ask) -> None:
    inbound = kept(write, is_direct=False)
    write(AnswerInbound(inbound_id=inbound.id, parts=["one"], now=NOW))
    outgoing = write(ClaimDelivery(channel="telegram", claim="c", now=NOW)).outgoing
    assert outgoing is not None
    assert outgoing.reply_to == "7"


def test_a_message_knows_the_turn_that_it_has_become(write: Ask, read: Ask) -> None:
    inbound = kept(write)
    assert inbound.turn_id is None
    write(
        AddTurn(
            session_id=inbound.session_id,
            turn_id="t-1",
            content="hello",
            channel="telegram",
            state="running",
            boot_id="b",
            principal="telegram:42",
            idempotency_key=inbound.key,
        )
    )
    assert read(ListOpenInbound(channel="telegram"))[0].turn_id == "t-1"


def test_a_command_is_answered_at_once(write: Ask, read: Ask) -> None:
    taken = take(write, answer="help yourself")
    assert not taken.is_open
    assert read(ListOpenInbound(channel="telegram")) == []
    assert said(write) == ["help yourself"]


def test_a_chat_stays_in_its_session_until_it_wants_a_new_one(write: Ask) -> None:
    first, same = kept(write, "1"), kept(write, "2")
    other_thread = kept(write, "3", thread="9", session_base="telegram:42:9")
    new = kept(write, "4", answer="new", opens_session=True)
    after, repeated = kept(write, "5"), kept(write, "4", opens_session=True)
    assert first.session_id == same.session_id == "telegram:42"
    assert other_thread.session_id == "telegram:42:9"
    assert new.session_id == after.session_id == repeated.session_id == "telegram:42.2"


def test_a_chat_whose_session_was_deleted_goes_on(write: Ask) -> None:
    first = kept(write, "1")
    with pytest.raises(NotFound):
        write(DeleteSession(session_id=first.session_id))
    assert kept(write, "2").session_id == first.session_id


def test_a_stranger_is_told_so_once_a_day_and_not_kept(write: Ask, read: Ask) -> None:
    for key in ("1", "2"):
        assert take(write, key, standing="stranger").inbound is None
    take(write, "3", standing="stranger", now=NOW + DAY / 2)
    assert read(ListOpenInbound(channel="telegram")) == []
    assert said(write) == ["no strangers"]


def test_a_stranger_is_told_again_the_next_day(write: Ask) -> None:
    take(write, "1", standing="stranger", now=NOW - DAY)
    take(write, "2", standing="stranger")
    outgoing = write(ClaimDelivery(channel="telegram", claim="c", now=NOW)).outgoing
    assert outgoing is not None
    assert outgoing.key == "stranger:telegram:2"


def test_in_a_group_a_stranger_is_told_nothing(write: Ask) -> None:
    take(write, "1", standing="stranger", is_direct=False)
    assert said(write) == []


def code(write: Ask, digest: str = "d", expires_at: datetime = NOW + DAY) -> None:
    write(KeepPairingCode(digest=digest, channel="telegram", made_by="ann", expires_at=expires_at, now=NOW))


def test_a_code_pairs_once_and_whoever_is_paired_is_trusted(write: Ask, read: Ask) -> None:
    code(write)
    assert kept(write, "1", standing="stranger", code_digest="d").is_trusted
    assert take(write, "2", standing="stranger", sender="66", code_digest="d").inbound is None
    assert kept(write, "3", standing="stranger").is_trusted
    assert said(write) == ["paired", "no strangers"]
    (pairing,) = read(ListPairings())
    assert (pairing.sender, pairing.name, pairing.paired_by) == ("42", "Ann", "ann")


@pytest.mark.parametrize(
    "facts",
    [{"code_digest": "another"}, {"code_digest": "d", "channel": "slack"}, {"code_digest": "d", "now": NOW + DAY}],
)
def test_a_code_that_is_wrong_or_too_old_or_of_another_channel_pairs_nobody(
    write: Ask, read: Ask, facts: dict[str, object]
) -> None:
    code(write)
    assert take(write, "1", **{"standing": "stranger", **facts}).inbound is None
    assert read(ListPairings()) == []


def test_who_is_not_paired_any_more_is_a_stranger(write: Ask) -> None:
    code(write)
    kept(write, "1", standing="stranger", code_digest="d")
    write(DropPairing(channel="telegram", sender="42"))
    assert take(write, "2", standing="stranger").inbound is None
    with pytest.raises(NotFound, match="42"):
        write(DropPairing(channel="telegram", sender="42"))


def test_a_guest_may_talk_and_is_not_trusted(write: Ask) -> None:
    assert not kept(write, standing="guest").is_trusted


def test_what_is_done_with_is_forgotten_in_time_and_what_is_open_is_not(write: Ask, read: Ask) -> None:
    old = kept(write, "old", answer="said", opens_session=True)
    still_open = kept(write, "open")
    assert said(write) == ["said"]
    write(PruneChannels(before=NOW))
    assert not take(write, "old").is_new
    write(PruneChannels(before=NOW + DAY))
    again = take(write, "old", answer="said anew")
    assert again.is_new
    assert again.inbound is not None
    assert again.inbound.id > still_open.id > old.id  # the outbox's keys are made of it
    assert [inbound.id for inbound in read(ListOpenInbound(channel="telegram"))] == [still_open.id]
    assert said(write) == ["said anew"]


def test_a_message_and_its_sender_are_recognized(write: Ask, read: Ask) -> None:
    def recognized(key: str) -> Recognized:
        return read(Recognize(channel="telegram", key=key, sender="42"))

    assert recognized("1") == Recognized(is_known=False, is_paired=False)
    code(write)
    kept(write, "1", standing="stranger", code_digest="d")
    assert recognized("1") == Recognized(is_known=True, is_paired=True)
    assert recognized("2") == Recognized(is_known=False, is_paired=True)

"""What models took: the latest of it, and forgetting it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pocketpaw.storage.sessions import DeleteSession
from pocketpaw.storage.turn_counts import CountTurns
from pocketpaw.storage.turns import ClaimTurn, FinishTurn, GetTurn
from pocketpaw.storage.usage import GetUsage, ListRecentUsage, ResetUsage, Usage

from .conftest import Ask
from .test_turns import done, question


def test_the_latest_usage_is_listed_newest_first_and_names_its_session_while_there_is_one(
    write: Ask, read: Ask
) -> None:
    for number in range(3):
        write(question(f"t-{number}", session_id=f"s-{number}"))
        spent = Usage(number, 5, number + 5, "big", "b", 0.5 if number else None)
        write(FinishTurn(turn_id=f"t-{number}", boot_id="boot-1", state="done", content="x", usage=[spent]))
    write(DeleteSession(session_id="s-1"))
    latest = read(ListRecentUsage(limit=2))
    assert [(one.input_tokens, one.total_tokens, one.cost_usd, one.session_id) for one in latest] == [
        (2, 7, 0.5, "s-2"),
        (1, 6, 0.5, None),
    ]
    assert (latest[0].model, latest[0].backend) == ("big", "b")
    assert datetime.now(UTC) - latest[0].timestamp < timedelta(minutes=1)
    assert [one.cost_usd for one in read(ListRecentUsage())] == [0.5, 0.5, None]


def test_a_reset_forgets_what_was_spent_and_leaves_the_turns_as_they_are(write: Ask, read: Ask) -> None:
    write(question("t-0"))
    write(done("t-0", "said"))
    write(question("t-1", state="pending"))
    write(ClaimTurn(turn_id="t-1", boot_id="boot-1"))
    write(ResetUsage())
    assert read(GetUsage()).requests == 0
    assert read(ListRecentUsage()) == []
    ended = read(GetTurn(turn_id="t-0"))
    assert (ended.state, ended.reply, ended.usage) == ("done", "said", None)
    finished = write(done("t-1"))
    assert finished.usage is not None
    assert read(GetUsage()).total_tokens == finished.usage.total_tokens == 15
    write(ResetUsage())
    write(ResetUsage())


def test_turns_are_counted_by_state(write: Ask, read: Ask) -> None:
    assert read(CountTurns()) == {}
    for number in range(3):
        write(question(f"t-{number}", session_id=f"s-{number}"))
    write(done("t-0"))
    assert read(CountTurns()) == {"done": 1, "running": 2}

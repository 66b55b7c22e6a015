"""Refusals are told once a minute, whoever tries however often."""

from __future__ import annotations

from pocketpaw.actors.audit.refusals import KINDS, WINDOW_S, Refusals
from pocketpaw.storage.audit import Act


def refused(peer: str, actor: str = "anybody") -> Act:
    return Act(actor=actor, action="login", category="auth", description="no", context={"peer": peer}, status="refused")


def test_after_a_minute_the_first_is_told_again() -> None:
    refusals = Refusals()
    assert refusals.is_first(refused("a"), 0.0)
    assert not refusals.is_first(refused("a"), WINDOW_S - 1)
    assert refusals.ended(WINDOW_S - 1) == []
    (together,) = refusals.ended(WINDOW_S)
    assert together.context == {"peer": "a", "times": 1}
    assert refusals.is_first(refused("a"), WINDOW_S)


def test_who_goes_on_trying_is_counted_to_the_last() -> None:
    refusals, told, counted = Refusals(), 0, 0
    for second in range(600):
        told += refusals.is_first(refused("a"), float(second))
        if second % 7 == 0:  # whoever asks what has ended does not come at the very end of a window
            counted += sum(int(str(act.context["times"])) for act in refusals.ended(float(second)))
    counted += sum(int(str(act.context["times"])) for act in refusals.ended(float("inf")))
    assert told + counted == 600
    assert told <= 10


def test_others_are_told_apart() -> None:
    refusals = Refusals()
    assert refusals.is_first(refused("a"), 0.0)
    assert refusals.is_first(refused("b"), 0.0)
    assert refusals.is_first(refused("a", actor="key:1"), 0.0)
    assert refusals.ended(WINDOW_S) == []


def test_too_many_kinds_are_one() -> None:
    refusals = Refusals()
    told = sum(refusals.is_first(refused(str(number)), 0.0) for number in range(KINDS * 3))
    assert told == KINDS + 1
    (together,) = refusals.ended(WINDOW_S)
    assert together.context == {"peer": None, "times": KINDS * 2 - 1}
    assert (together.actor, together.status) == ("several", "refused"), "it is not put down to the first of them"

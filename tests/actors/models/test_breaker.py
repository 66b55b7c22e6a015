"""When a backend is left alone, and when it is tried again."""

from __future__ import annotations

import pytest
import trio
from pocketpaw.actors.models.breaker import COOL_DOWN_S, FAILURES, Breaker
from pocketpaw.actors.models.errors import (
    ModelCredentialRefused,
    ModelRateLimited,
    ModelRefusedInput,
    ModelSuspended,
    ModelUnreachable,
)
from pocketpaw.runtime.errors import PocketPawError

GONE = ModelUnreachable("it is gone")


def fail(breaker: Breaker, error: PocketPawError = GONE) -> None:
    with pytest.raises(type(error)), breaker.attempt(has_fallback=True):
        raise error


def succeed(breaker: Breaker) -> None:
    with breaker.attempt(has_fallback=True):
        pass


async def test_it_holds_nobody_up_who_has_nowhere_else_to_go() -> None:
    breaker = Breaker("a")
    for _ in range(20):
        fail(breaker)
        if breaker.state == "open":
            break
    with pytest.raises(ModelSuspended), breaker.attempt(has_fallback=True):
        pass
    with breaker.attempt(has_fallback=False):
        pass
    assert breaker.state == "closed"


async def test_it_opens_after_so_many_failures_in_a_row(autojump_clock: trio.testing.MockClock) -> None:
    breaker = Breaker("b")
    for _ in range(FAILURES - 1):
        fail(breaker)
    succeed(breaker)
    for _ in range(FAILURES):
        assert breaker.state == "closed"
        fail(breaker)
    assert (breaker.state, breaker.failures) == ("open", FAILURES)
    with pytest.raises(ModelSuspended, match=r"b failed 5 times in a row .* another 15 s; .* it is gone") as caught:
        succeed(breaker)
    assert caught.value.data["retry_after_s"] == COOL_DOWN_S


async def test_one_probe_decides_after_the_cool_down(autojump_clock: trio.testing.MockClock) -> None:
    breaker = Breaker("b")
    for _ in range(FAILURES):
        fail(breaker)
    await trio.sleep(COOL_DOWN_S)
    assert breaker.state == "half_open"
    with breaker.attempt(has_fallback=True), pytest.raises(ModelSuspended, match="while one request tries it"):
        succeed(breaker)
    assert breaker.state == "closed"
    for _ in range(FAILURES):
        fail(breaker)
    await trio.sleep(COOL_DOWN_S)
    fail(breaker)
    assert (breaker.state, breaker.failures) == ("open", FAILURES + 1)


async def test_a_probe_that_is_cancelled_decides_nothing(autojump_clock: trio.testing.MockClock) -> None:
    breaker = Breaker("b")
    for _ in range(FAILURES):
        fail(breaker)
    await trio.sleep(COOL_DOWN_S)
    with trio.move_on_after(1), breaker.attempt(has_fallback=True):
        await trio.sleep_forever()
    assert breaker.state == "half_open"
    succeed(breaker)
    assert breaker.state == "closed"


async def test_what_the_question_is_to_blame_for_does_not_count(autojump_clock: trio.testing.MockClock) -> None:
    breaker = Breaker("b")
    for _ in range(FAILURES - 1):
        fail(breaker)
    fail(breaker, ModelRefusedInput("what?"))
    assert breaker.failures == 0
    for _ in range(FAILURES):
        fail(breaker, ModelCredentialRefused("bad key"))
    assert breaker.state == "open"


async def test_a_server_that_asks_for_a_longer_pause_gets_it(autojump_clock: trio.testing.MockClock) -> None:
    breaker = Breaker("b")
    for _ in range(FAILURES):
        fail(breaker, ModelRateLimited("slow down", retry_after_s=60.0))
    await trio.sleep(59)
    assert breaker.state == "open"
    await trio.sleep(1)
    assert breaker.state == "half_open"

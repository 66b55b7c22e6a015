"""Rate limits as Discord tells them, by a virtual clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from pocketpaw.actors.channels.discord_limits import LONGEST_PAUSE_S, REMEMBERED, RateLimits, Route, seconds
from pocketpaw.runtime.errors import TooManyRequests
from trio.testing import MockClock

SEND, EDIT = Route("POST /channels/messages", "77"), Route("PATCH /channels/messages", "77")
ELSEWHERE = Route("POST /channels/messages", "78")


def told(remaining: int, reset_after_s: float, bucket: str = "b") -> dict[bytes, bytes]:
    return {
        b"x-ratelimit-bucket": bucket.encode(),
        b"x-ratelimit-remaining": b"%d" % remaining,
        b"x-ratelimit-reset-after": str(reset_after_s).encode(),
    }


def pause_s(take: Callable[[], None]) -> float:
    with pytest.raises(TooManyRequests) as refused:
        take()
    retry_after_s = refused.value.data["retry_after_s"]
    assert isinstance(retry_after_s, float)
    return retry_after_s


async def test_an_empty_bucket_is_left_alone_until_it_is_filled_again(autojump_clock: MockClock) -> None:
    limits = RateLimits()
    limits.take(SEND)
    limits.note(SEND, told(1, 4.0))
    limits.take(SEND)
    assert pause_s(lambda: limits.take(SEND)) == pytest.approx(4.0)
    limits.take(ELSEWHERE)  # another channel has a bucket of its own
    await trio.sleep(4.1)
    limits.take(SEND)


async def test_requests_that_share_a_bucket_share_what_is_in_it(autojump_clock: MockClock) -> None:
    limits = RateLimits()
    limits.note(EDIT, told(5, 9.0, "shared"))
    limits.note(SEND, told(0, 9.0, "shared"))
    assert pause_s(lambda: limits.take(EDIT)) == pytest.approx(9.0)


async def test_an_answer_does_not_give_back_what_is_under_way(autojump_clock: MockClock) -> None:
    limits = RateLimits()
    limits.note(SEND, told(3, 5.0))
    limits.take(SEND)
    limits.take(SEND)
    limits.note(SEND, told(2, 5.0))  # of the first; Discord has not counted the second yet
    limits.take(SEND)
    assert pause_s(lambda: limits.take(SEND)) > 0


async def test_a_refusal_holds_for_its_bucket_and_a_global_one_for_all(autojump_clock: MockClock) -> None:
    limits = RateLimits()
    limits.note_refusal(SEND, 3.0, is_global=False)
    assert pause_s(lambda: limits.take(SEND)) == pytest.approx(3.0)
    limits.take(ELSEWHERE)
    limits.note_refusal(ELSEWHERE, 7.0, is_global=True)
    assert pause_s(lambda: limits.take(SEND)) == pytest.approx(7.0)
    await trio.sleep(7.1)
    limits.take(SEND)


async def test_buckets_of_the_past_are_forgotten(autojump_clock: MockClock) -> None:
    limits = RateLimits()
    for number in range(3 * REMEMBERED):
        limits.note(Route("POST /channels/messages", str(number)), told(0, 1.0))
        await trio.sleep(0.01)
    assert len(limits._buckets) <= REMEMBERED  # pyright: ignore[reportPrivateUsage] the size is what this is about
    assert pause_s(lambda: limits.take(Route("POST /channels/messages", str(3 * REMEMBERED - 1)))) > 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"1.5", 1.5),
        (b"0", 0.0),
        (b"-3", 0.0),
        (b"1e9", LONGEST_PAUSE_S),
        (b"", None),
        (None, None),
        (b"soon", None),
        (b"nan", None),
        (b"inf", None),
    ],
)
def test_a_header_is_a_number_of_seconds_within_reason(text: bytes | None, value: float | None) -> None:
    assert seconds(text) == value

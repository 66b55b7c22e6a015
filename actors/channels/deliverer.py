"""Delivers what a channel's outbox holds, one message after the other.

One at a time, so that however the daemon dies, there is one message at most of which nobody knows whether it arrived.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

import structlog
import trio

from ...runtime.child import CONNECTOR
from ...runtime.errors import NeedsOperator, PocketPawError, TooManyRequests, TransientFailure
from ...storage.outbox import ClaimDelivery, EndDelivery, Outgoing
from .chat_platform import DeliveryUnsure, NotDelivered, Place, pause_asked
from .wording import REPEAT_MARK

if TYPE_CHECKING:
    from .channel import Channel

log = structlog.get_logger()

LOOK_AGAIN_S = 60.0
"""What nobody has said to be there is found this often."""

RETRY_AFTER_S = 5.0
"""Where a platform says that there was too much, and not for how long."""

Outcome = Literal["sent", "retry", "unsure", "dead"]


class Deliverer:
    """Works for the channel, in a task of its own."""

    def __init__(self, channel: Channel) -> None:
        self.ok_at: datetime | None = None
        """When something was delivered last, in this life."""
        self.saying = trio.Lock()
        """Held by whoever says something new on the platform, from before it is claimed until its end is on disk."""
        self._channel = channel
        self._woken = trio.Event()
        self._paused_until = float("-inf")  # on trio's clock: the platform has had too much, or cannot be reached
        self._failures = 0

    def wake(self) -> None:
        """There may be something to deliver."""
        self._woken.set()

    @property
    def is_paused(self) -> bool:
        return self._channel.system.now() < self._paused_until

    def pause(self, for_s: float) -> None:
        """Say nothing for a while."""
        self._paused_until = max(self._paused_until, self._channel.system.now() + for_s)

    async def run(self) -> None:
        """Deliver, for life.

        Raises:
            NeedsOperator: the platform takes nothing from us any more.
            TransientFailure: the store cannot be used.
        """
        while True:
            await trio.sleep_until(self._paused_until)
            self._woken = trio.Event()
            async with self.saying:
                due_at = await self._deliver_next()
            if due_at is not None:
                wait_s = (due_at - self._channel.clock.now()).total_seconds()
                with trio.move_on_after(min(max(wait_s, 0.0), LOOK_AGAIN_S)):
                    await self._woken.wait()

    async def _deliver_next(self) -> datetime | None:
        """Deliver what is due; if nothing is, return when to look again."""
        channel = self._channel
        now = channel.clock.now()
        claimed = await channel.ask_store(ClaimDelivery(channel=channel.info.name, claim=channel.claim, now=now))
        if claimed.outgoing is None:
            return claimed.due_at or now + timedelta(seconds=LOOK_AGAIN_S)
        outgoing, ref = claimed.outgoing, claimed.outgoing.ref
        try:
            ref = await self._say(outgoing)
        except NotDelivered as error:
            await self._failed_for_good(outgoing, error)
        except DeliveryUnsure as error:
            await self._end(outgoing, "unsure", error, wait_s=self._back_off(outgoing))
        except (TransientFailure, TooManyRequests) as error:
            await self._end(outgoing, "retry", error, wait_s=self._back_off(outgoing, error))
        except NeedsOperator as error:
            await self._end(outgoing, "retry", error, wait_s=0.0)
            raise
        else:
            await self._end(outgoing, "sent", ref=ref)
            self._failures, self.ok_at = 0, channel.clock.now()
        return None

    async def _say(self, outgoing: Outgoing) -> str:
        """Say it: by editing where it stands in the chat already; returns the platform's name for it."""
        platform = self._channel.platform
        place = place_of(outgoing)
        if outgoing.ref is not None:
            await platform.edit(place, outgoing.ref, outgoing.text)
            return outgoing.ref
        text = f"{REPEAT_MARK}{outgoing.text}" if outgoing.is_repeat else outgoing.text
        return await platform.send(place, text, outgoing.key)

    async def _failed_for_good(self, outgoing: Outgoing, error: NotDelivered) -> None:
        if outgoing.ref is not None:  # what was to be edited is gone: say it anew
            await self._end(outgoing, "retry", error, wait_s=0.0, ref=None)
            return
        log.warning("a message was not delivered", actor=self._channel.path, key=outgoing.key, reason=error.detail)
        await self._end(outgoing, "dead", error)

    async def _end(
        self,
        outgoing: Outgoing,
        outcome: Outcome,
        error: PocketPawError | None = None,
        *,
        wait_s: float = 0.0,
        ref: str | None = None,
    ) -> None:
        channel = self._channel
        now = channel.clock.now()
        is_kept = outcome == "retry" and not isinstance(error, NotDelivered)
        await channel.ask_store(
            EndDelivery(
                outgoing_id=outgoing.id,
                claim=channel.claim,
                outcome=outcome,
                is_idempotent=channel.platform.is_idempotent,
                ref=outgoing.ref if is_kept else ref,
                error=channel.redactor.text(error.detail) if error is not None else None,
                retry_at=now + timedelta(seconds=wait_s),
                now=now,
            )
        )

    def _back_off(self, outgoing: Outgoing, error: PocketPawError | None = None) -> float:
        """Leave the platform alone for a while, and this message for longer; returns for how long."""
        if isinstance(error, TooManyRequests):
            pause_s = pause_asked(error, RETRY_AFTER_S)
            self.pause(pause_s)
            return pause_s
        self._failures += 1
        self.pause(CONNECTOR.delay_s(self._failures))
        return CONNECTOR.delay_s(outgoing.attempts)


def place_of(outgoing: Outgoing) -> Place:
    return Place(chat=outgoing.chat, thread=outgoing.thread or None, reply_to=outgoing.reply_to)

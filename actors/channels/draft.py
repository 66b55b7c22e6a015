"""The answer as it grows: its first words are sent, and edited at the platform's pace. Decoration, but for one thing.

Whether the first words stand in the chat is on disk, as they become the answer: the outbox edits them into it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from ...runtime.errors import PocketPawError, TooManyRequests, TransientFailure
from ...storage.outbox import BeginDraft, EndDraft, Outgoing
from .chat_platform import DeliveryUnsure, NotDelivered, Place, pause_asked
from .deliverer import RETRY_AFTER_S
from .text_parts import split_text
from .wording import REPEAT_MARK

if TYPE_CHECKING:
    from .channel import Channel

GROWS = " …"
FAILURES = (TransientFailure, TooManyRequests, NotDelivered, DeliveryUnsure)


class Draft:
    """One answer's. After a failure it shows no more: the outbox has the last word anyway."""

    def __init__(self, channel: Channel, place: Place, key: str) -> None:
        self.due_at = math.inf
        """When there is something new to show, on trio's clock."""
        self._channel = channel
        self._place = place
        self._key = key
        self._text = ""
        self._shown = ""
        self._ref: str | None = None
        self._is_over = not channel.platform.edit_every_s
        self._next_at = trio.current_time() + channel.platform.edit_every_s

    def add(self, text: str) -> None:
        self._text += text
        if not self._is_over:
            self.due_at = self._next_at

    async def show(self) -> None:
        """Show what there is, if it is time to."""
        if trio.current_time() < self.due_at:
            return
        self.due_at = math.inf
        text = self._first_part()
        if text == self._shown or self._channel.deliverer.is_paused:
            return
        try:
            if self._ref is None:
                await self._begin(text)
            else:
                await self._channel.platform.edit(self._place, self._ref, text)
            self._shown = text
        except FAILURES as error:
            self._is_over = True
            if isinstance(error, TooManyRequests):
                self._channel.deliverer.pause(pause_asked(error, RETRY_AFTER_S))
        self._next_at = trio.current_time() + self._channel.platform.edit_every_s

    def _first_part(self) -> str:
        platform = self._channel.platform
        room = platform.text_limit - platform.length(REPEAT_MARK) - platform.length(GROWS)
        parts = split_text(self._text[: 2 * room], room, platform.length)
        return f"{parts[0]}{GROWS}" if parts else ""

    async def _begin(self, text: str) -> None:
        """Send the first words; that they are being sent is on disk before, and what came of it after."""
        if not text:
            return
        channel, place = self._channel, self._place
        begin = BeginDraft(
            key=self._key,
            channel=channel.info.name,
            chat=place.chat,
            thread=place.thread or "",
            reply_to=place.reply_to,
            claim=channel.claim,
            now=channel.clock.now(),
        )
        async with channel.deliverer.saying:
            outgoing = await channel.ask_store(begin)
            if outgoing is None:  # an earlier life has tried
                self._is_over = True
                return
            try:
                ref = await channel.platform.send(place, text, f"{self._key}:draft")
            except PocketPawError as error:
                await self._end(outgoing, None, is_unsure=isinstance(error, DeliveryUnsure))
                raise
            await self._end(outgoing, ref)
            self._ref = ref

    async def _end(self, outgoing: Outgoing, ref: str | None, *, is_unsure: bool = False) -> None:
        channel = self._channel
        end = EndDraft(outgoing_id=outgoing.id, claim=channel.claim, ref=ref, is_unsure=is_unsure)
        await channel.ask_store(end)

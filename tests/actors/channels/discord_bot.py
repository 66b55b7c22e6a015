"""A bot that listens to a Discord on loopback, for tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import trio
from pocketpaw.actors.channels.chat_platform import Heard
from pocketpaw.actors.channels.discord import Discord
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.runtime.errors import PocketPawError, Unavailable

from ...fakes.discord_server import TOKEN, FakeDiscord, fake_discord
from .admitted import with_files

MakeLive = Callable[..., LiveSettings]

PATIENCE_S = 60.0


class Bot:
    """A platform that listens, and what came of it."""

    def __init__(self, live: LiveSettings, heard: set[str] | None) -> None:
        self.live = live
        self.platform = Discord(live)
        self.heard: list[Heard] = []
        self.keys = set[str]() if heard is None else heard
        self.proofs = 0
        self.failure: PocketPawError | None = None
        self.fails_to_store = False
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def texts(self) -> list[str]:
        return [heard.text for heard in self.heard]

    async def hear(self, heard: Heard) -> None:
        await trio.lowlevel.checkpoint()
        if self.fails_to_store:
            raise Unavailable("the store is down")
        if heard.key in self.keys:  # as the inbox knows a repeat
            return
        self.heard.append(await with_files(heard))
        self.keys.add(heard.key)
        self._changed.unpark_all()

    def proven(self) -> None:
        self.proofs += 1
        self._changed.unpark_all()

    async def listen(self) -> None:
        try:
            await self.platform.listen(self.hear, self.proven)
        except PocketPawError as failure:
            self.failure = failure
            self._changed.unpark_all()

    async def wait(self, condition: Callable[[], object]) -> None:
        while not condition():
            await self._changed.park()

    async def has_failed(self) -> PocketPawError:
        await self.wait(lambda: self.failure)
        assert self.failure is not None
        return self.failure


@asynccontextmanager
async def a_discord() -> AsyncGenerator[FakeDiscord]:
    """One whose protocol nobody breaks."""
    with trio.fail_after(PATIENCE_S):
        async with fake_discord() as discord:
            yield discord
        assert discord.violations == [], discord.violations


@asynccontextmanager
async def listening(
    discord: FakeDiscord, make_live: MakeLive, heard: set[str] | None = None, **settings: object
) -> AsyncGenerator[Bot]:
    """One incarnation of a bot, which is stopped in the end; `heard` gets the keys of what it hears."""
    live = make_live(**{"discord_bot_token": TOKEN, "discord_api_url": discord.api_url, **settings})
    bot = Bot(live, heard)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bot.listen)
        yield bot
        nursery.cancel_scope.cancel()

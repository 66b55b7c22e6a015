"""Hands turns that nobody works on to their sessions' agents.

At start those of an earlier run; later any that were orphaned, because their agent was taken down with its supervisor,
or the store answered too late.
"""

from __future__ import annotations

from typing import ClassVar

import trio

from ..runtime import Actor
from ..runtime.errors import DeliveryFailure, TransientFailure, Unavailable
from ..storage.turns import ListUnfinishedSessions
from .agent import ResumeTurns

AT_ONCE = 1_000
"""Sessions that are read at once; where there are more, the rest follows once their turns have been claimed."""

SWEEP_S = 30.0
ANY_BOOT = ""


class Recovery(Actor):
    """Starts when an earlier run's turns are with their agents; where the store is not there yet, it tries again."""

    has_tasks: ClassVar[bool] = True

    def __init__(self, boot_id: str) -> None:
        super().__init__()
        self._boot_id = boot_id

    async def on_start(self) -> None:
        await self._hand_over(not_of=self._boot_id)
        self.spawn(self._sweep)

    async def _sweep(self) -> None:
        """An agent leaves out the turns that it knows of, so that what is in hand is not disturbed."""
        while True:
            await trio.sleep(SWEEP_S)
            await self._hand_over(not_of=ANY_BOOT)

    async def _hand_over(self, *, not_of: str) -> None:
        try:
            session_ids = await self.ask(ListUnfinishedSessions(boot_id=not_of, limit=AT_ONCE))
            for session_id in session_ids:
                await self.ask(ResumeTurns(session_id=session_id))
        except (Unavailable, DeliveryFailure) as error:
            raise TransientFailure(f"unfinished turns cannot be taken up: {error.detail}") from error
        if len(session_ids) == AT_ONCE:
            raise TransientFailure(f"{AT_ONCE} sessions or more have unfinished turns: the rest comes next")

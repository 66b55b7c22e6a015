"""At start: hands the turns that an earlier run of the daemon left undone to their sessions' agents."""

from __future__ import annotations

from ..runtime import Actor, IgnoreStart
from ..runtime.errors import DeliveryFailure, TransientFailure, Unavailable
from ..storage.turns import ListUnfinishedTurns
from .agent import ResumeTurns

AT_ONCE = 1_000
"""Turns that are read at once; where there are more, the rest follows once these have been claimed."""


class Recovery(Actor):
    """Does its one task in `on_start`, and leaves its place empty; where the store is not there yet, it tries again."""

    def __init__(self, boot_id: str) -> None:
        super().__init__()
        self._boot_id = boot_id

    async def on_start(self) -> None:
        try:
            turns = await self.ask(ListUnfinishedTurns(boot_id=self._boot_id, limit=AT_ONCE))
            for session_id in dict.fromkeys(turn.session_id for turn in turns):
                await self.ask(ResumeTurns(session_id=session_id))
        except (Unavailable, DeliveryFailure) as error:
            raise TransientFailure(f"unfinished turns cannot be taken up: {error.detail}") from error
        if len(turns) == AT_ONCE:
            raise TransientFailure(f"there are more than {AT_ONCE} unfinished turns: the rest comes next")
        raise IgnoreStart

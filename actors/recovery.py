"""At start: hands the turns that an earlier run of the daemon left undone to their sessions' agents."""

from __future__ import annotations

from ..runtime import Actor, IgnoreStart
from ..runtime.errors import TransientFailure, Unavailable
from ..storage.turns import ListUnfinishedTurns
from .agent import ResumeTurns


class Recovery(Actor):
    """Does its one task in `on_start`, and leaves its place empty. Where the store cannot be read, it is tried again."""

    def __init__(self, boot_id: str) -> None:
        super().__init__()
        self._boot_id = boot_id

    async def on_start(self) -> None:
        try:
            turns = await self.ask(ListUnfinishedTurns(boot_id=self._boot_id))
        except Unavailable as error:
            raise TransientFailure(f"unfinished turns cannot be read: {error.detail}") from error
        for session_id in dict.fromkeys(turn.session_id for turn in turns):
            await self.tell(ResumeTurns(session_id=session_id))
        raise IgnoreStart

"""Carrying out a run: an intention's prompt, seen through to the end of its turn, or a task's message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import msgspec
import structlog
import trio

from ...runtime import Principal
from ...runtime.errors import Conflict, DeliveryFailure, NotFound, PocketPawError, TooManyRequests, Unavailable
from ...storage.schedule import FinishRun, Started
from ...storage.sessions import CreateSession
from ...storage.turns import GetTurn, Turn
from ..agent import Accepted, Chat, session_topic
from .intentions import intention_session, prompt_of

if TYPE_CHECKING:
    from .scheduler import Scheduler
    from .standing import Standing

log = structlog.get_logger()

CHANNEL = "intention"
TITLE_LIMIT = 200

PAUSES_S = (2.0, 15.0, 60.0)
"""Before an agent is given the prompt again that it could not take."""

LOOK_AGAIN_S = 60.0
"""Between looks at a turn of which nothing was heard: its agent may have died and its turn gone on elsewhere."""

STORE_AWAY_S = 5.0


class Outcome(msgspec.Struct, frozen=True):
    state: Literal["done", "failed", "interrupted"]
    error: str | None = None
    turn_id: str | None = None


class Runner:
    """Works for the scheduler, in tasks of its own."""

    def __init__(self, scheduler: Scheduler, standing: Mapping[str, Standing]) -> None:
        self._scheduler = scheduler
        self._standing = standing

    async def run(self, started: Started, claim: str) -> None:
        """See a run through until its end is on disk."""
        job = started.job
        try:
            outcome = await (self._intend(started) if job.kind == "intention" else self._perform(started))
        except PocketPawError as error:
            outcome = Outcome("failed", error.detail)
        if outcome.state != "done":
            log.warning("a run failed", actor=self._scheduler.path, job=job.id, name=job.name, reason=outcome.error)
        await self._finish(started, claim, outcome)
        if job.kind == "intention":
            self._tell("intention_completed", started, f"{job.name}: {outcome.error or outcome.state}", outcome.state)

    async def _perform(self, started: Started) -> Outcome:
        standing = self._standing.get(started.job.id)
        if standing is None:
            return Outcome("failed", "this version has no such task")
        await self._scheduler.ask(standing.message(), timeout_s=standing.timeout_s)
        return Outcome("done")

    async def _intend(self, started: Started) -> Outcome:
        """Give the agent the prompt. Given again for the same run it is the same turn, so nothing is done twice."""
        job = started.job
        self._tell("intention_started", started, f"{job.name} begins", "running")
        self._scheduler.mark(*job.provenance)
        await self._open_session(started)
        accepted = await self._chat(started)
        try:
            turn = await self._ended(accepted)
        except NotFound:
            return Outcome("failed", "its session was deleted while it ran", accepted.turn_id)
        if turn.state == "done":
            return Outcome("done", turn_id=turn.id)
        return Outcome("failed", turn.error or f"its turn was {turn.state}", turn.id)

    async def _open_session(self, started: Started) -> None:
        """Make the session under the intention's name, lest its first prompt name it."""
        job = started.job
        try:
            await self._scheduler.ask(
                CreateSession(session_id=intention_session(job.id), title=job.name[:TITLE_LIMIT], channel=CHANNEL)
            )
        except Conflict:
            return  # it ran before

    async def _chat(self, started: Started) -> Accepted:
        job, run = started.job, started.run
        prompt = Chat(
            session_id=intention_session(job.id),
            content=prompt_of(job),
            channel=CHANNEL,
            idempotency_key=f"{job.id}/{run.slot.isoformat()}",
        )
        principal = Principal(job.principal, frozenset(job.scopes))
        system, sender = self._scheduler.system, self._scheduler.path
        for pause_s in PAUSES_S:
            try:
                return await system.ask(prompt, principal=principal, sender=sender)
            except (Unavailable, DeliveryFailure, TooManyRequests) as error:
                log.info("a prompt is given again", actor=sender, job=job.id, reason=error.detail)
                await trio.sleep(pause_s)
        return await system.ask(prompt, principal=principal, sender=sender)

    async def _ended(self, accepted: Accepted) -> Turn:
        """The turn, once it has ended.

        Raises:
            NotFound: it was deleted with its session.
        """
        if accepted.ended is not None:
            return accepted.ended
        topic = session_topic(accepted.session_id)
        with self._scheduler.system.bus.subscribe(topic, accepted.after) as events:
            while True:
                with trio.move_on_after(LOOK_AGAIN_S):
                    while not any(event.name == "stream_end" for event in await events.take()):
                        if events.is_cut_off:
                            await trio.sleep_forever()  # only the looks count from here on
                try:
                    turn = await self._scheduler.ask(GetTurn(turn_id=accepted.turn_id))
                except (Unavailable, DeliveryFailure):
                    await trio.sleep(STORE_AWAY_S)
                    continue
                if turn.state not in ("pending", "running"):
                    return turn

    async def _finish(self, started: Started, claim: str, outcome: Outcome) -> None:
        while True:
            now = self._scheduler.clock.now()
            end = FinishRun(run_id=started.run.id, claim=claim, now=now, **msgspec.structs.asdict(outcome))
            try:
                await self._scheduler.ask(end)
            except PocketPawError as error:
                log.info("a run's end is kept later", actor=self._scheduler.path, reason=error.detail)
                await trio.sleep(STORE_AWAY_S)
            else:
                return

    def _tell(self, name: str, started: Started, content: str, state: str) -> None:
        metadata = {
            "intention_id": started.job.id,
            "intention_name": started.job.name,
            "session_id": intention_session(started.job.id),
            "state": state,
            "due_at": started.run.slot.isoformat(),
            "late": started.run.is_late,
        }
        self._scheduler.publish("events", name, {"event_type": name, "content": content, "metadata": metadata})

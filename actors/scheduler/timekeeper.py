"""Keeping time: what is due is entered in the ledger, then carried out from there.

The time of day is read anew each minute at least, so that a clock that is set, or a machine that slept, is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING

import structlog
import trio

from ...runtime.errors import InvalidInput, NotFound, PocketPawError
from ...storage.delivery import DeliverReminders, Notice
from ...storage.jobs import ChangeJob, Job, ListDueJobs, ListRecurring, PutJob, ReplanJobs, Replanned
from ...storage.schedule import (
    Claim,
    ClaimSlots,
    PruneRuns,
    Started,
    StartRuns,
    TakeOverRuns,
)
from ..agent import ReadAnew
from ..channels.platforms import notice_chats
from .clock import zone_named
from .planning import next_slot, plan, replanned
from .runs import Runner
from .standing import Standing

if TYPE_CHECKING:
    from .scheduler import Scheduler

log = structlog.get_logger()

LOOK_S = 60.0
"""How long to sleep at most before the clock is read again."""

STORE_AWAY_S = 5.0

BATCH = 50
"""Jobs that are seen to at once; other tasks get their turn in between."""

RUNS_AT_ONCE = 8
"""Intentions and tasks that run at once; more wait, on disk."""

SET_BACK = timedelta(minutes=1)
"""A clock that goes back by more was set."""

RUN_AGAIN_WITHIN = timedelta(hours=23)
"""So long a prompt that is given again is known for the same one: the window of idempotency keys, less an hour."""

KEEP_RUNS = timedelta(days=30)
PRUNE_EVERY = timedelta(days=1)


class Timekeeper:
    """Works for the scheduler, in a task of its own."""

    def __init__(self, scheduler: Scheduler, standing: Sequence[Standing]) -> None:
        self._scheduler = scheduler
        self._standing = {f"task:{one.id}": one for one in standing}
        self._schedules: dict[str, str] = {}  # of the standing tasks, as the store has them
        self._runner = Runner(scheduler, self._standing)
        self._running: set[int] = set()
        self._woken = trio.Event()
        self._owns_runs = False  # whether no run is left that nobody sees to
        self._may_wait = True  # whether there may be pending runs in the ledger
        self._planned_in: tzinfo | None = None
        self._seen: datetime | None = None
        self._pruned: datetime | None = None
        self._trouble = ""

    @property
    def _claim(self) -> str:
        return f"{self._scheduler.boot_id}/{self._scheduler.incarnation}"

    def wake(self) -> None:
        """Look now: something has changed in the store."""
        self._may_wait = True
        self._woken.set()

    async def run(self) -> None:
        """Keep time for ever, also while the store is away."""
        while True:
            try:
                following = await self._catch_up()
            except PocketPawError as error:
                self._owns_runs, self._may_wait = False, True  # an answer that did not come may have begun some
                self._say_trouble(error.detail)
                await trio.sleep(STORE_AWAY_S)
            else:
                self._say_trouble("")
                await self._pause(following)

    async def _pause(self, until: datetime | None) -> None:
        left_s = LOOK_S if until is None else (until - self._scheduler.clock.now()).total_seconds()
        with trio.move_on_after(max(0.0, min(LOOK_S, left_s))):
            await self._woken.wait()
        self._woken = trio.Event()

    async def _catch_up(self) -> datetime | None:
        """Do all that there is to do by now; returns when the next job is due."""
        await self._take_over()
        await self._keep_standing()
        await self._prune()
        while True:
            now = self._scheduler.clock.now()
            await self._see_clock(now)
            due = await self._scheduler.ask(ListDueJobs(at=now, limit=BATCH))
            await self._enter(due.jobs, now)
            if not (due.jobs or self._may_wait):
                return due.next_slot
            self._may_wait = False
            if await self._deliver(now) + await self._start(now):
                self._may_wait = True

    # What is due ------------------------------------------------------------------------------------------------------

    async def _enter(self, jobs: list[Job], now: datetime) -> None:
        """Enter the slots of due jobs in the ledger; from then on they are as good as run."""
        claims: list[Claim] = []
        for job in jobs:
            try:
                claims.append(plan(job, now, self._scheduler.zone))
            except InvalidInput as error:
                await self._switch_off(job, error.detail)
        if claims:
            await self._scheduler.ask(ClaimSlots(claims=claims, now=now))

    async def _switch_off(self, job: Job, reason: str) -> None:
        log.error("a job is switched off", actor=self._scheduler.path, job=job.id, name=job.name, reason=reason)
        await self._scheduler.ask(ChangeJob(job_id=job.id, kind=job.kind, enabled=False, next_slot=None))

    async def _deliver(self, now: datetime) -> int:
        """Have the reminders that are due come; returns how many did."""
        chats = notice_chats(self._scheduler.settings)
        request = DeliverReminders(claim=self._claim, now=now, chats=chats, limit=BATCH)
        notices = await self._scheduler.ask(request)
        for notice in notices:
            await self._tell_agent(notice)
            self._announce(notice)
        return len(notices)

    async def _tell_agent(self, notice: Notice) -> None:
        """Have the session's agent, if it is awake, know of the note before the next turn."""
        agent = self._scheduler.system.nodes.get(f"agents/{notice.session_id}")
        if notice.session_id is not None and agent is not None and agent.is_alive:
            await self._scheduler.tell(ReadAnew(session_id=notice.session_id))

    def _announce(self, notice: Notice) -> None:
        """Tell whoever listens. What has to arrive is on disk by now."""
        if not self._scheduler.settings.notifications_enabled:
            return
        metadata = {
            "kind": "reminder",
            "reminder_id": notice.job_id,
            "session_id": notice.session_id,
            "channel": notice.channel,
            "due_at": notice.slot.isoformat(),
            "late": notice.is_late,
            "recurrence": notice.recurrence,
        }
        content = f"Reminder: {notice.text}"
        event = {"event_type": "notification", "content": content, "metadata": metadata}
        self._scheduler.publish("events", "notification", event)

    async def _start(self, now: datetime) -> int:
        """Begin as many intentions and tasks as there is room for; returns how many."""
        room = RUNS_AT_ONCE - len(self._running)
        if room <= 0:
            return 0
        claim = self._claim
        started = await self._scheduler.ask(StartRuns(claim=claim, now=now, limit=room))
        for one in started:
            self._running.add(one.run.id)
            self._scheduler.spawn(self._run, one, claim)
        return len(started)

    async def _run(self, started: Started, claim: str) -> None:
        await self._runner.run(started, claim)
        self._running.discard(started.run.id)
        self.wake()

    # What may have come to be wrong -----------------------------------------------------------------------------------

    async def _take_over(self) -> None:
        """Have what an earlier life left running begun again, or given up."""
        if self._owns_runs:
            return
        now = self._scheduler.clock.now()
        request = TakeOverRuns(known=sorted(self._running), now=now, too_old=now - RUN_AGAIN_WITHIN)
        for run in await self._scheduler.ask(request):
            log.warning(
                "a run was interrupted",
                actor=self._scheduler.path,
                job=run.job_id,
                slot=run.slot.isoformat(),
                reason=run.error,
            )
        self._owns_runs = True

    async def _see_clock(self, now: datetime) -> None:
        """Plan anew what recurs if the time zone is another one, or the clock went back, or nobody has looked yet."""
        zone = self._scheduler.zone
        if self._seen is not None and now < self._seen - SET_BACK:
            self._planned_in = None
        self._seen = now
        if zone is self._planned_in:
            return
        name = self._scheduler.settings.time_zone
        if name and zone_named(name) is None:
            log.warning("there is no such time zone: this machine's holds", actor=self._scheduler.path, time_zone=name)
        page: list[Job] = await self._scheduler.ask(ListRecurring())
        while page:
            await self._replan(page, now, zone)
            page = await self._scheduler.ask(ListRecurring(after_id=page[-1].id))
        self._planned_in = zone

    async def _replan(self, jobs: list[Job], now: datetime, zone: tzinfo) -> None:
        changes: list[Replanned] = []
        for job in jobs:
            try:
                following = replanned(job, now, zone)
            except InvalidInput as error:
                await self._switch_off(job, error.detail)
                continue
            if following is not None and job.next_slot is not None:
                changes.append(Replanned(job.id, job.next_slot, following))
        if changes:
            await self._scheduler.ask(ReplanJobs(changes=changes))

    async def _keep_standing(self) -> None:
        """Have the standing tasks in the store as the settings say."""
        for job_id, standing in self._standing.items():
            schedule = " ".join(standing.schedule(self._scheduler.settings).split())
            if self._schedules.get(job_id) == schedule:
                continue
            try:
                await self._keep(job_id, standing.name, schedule)
            except InvalidInput as error:
                log.warning("a task has no schedule", actor=self._scheduler.path, job=job_id, reason=error.detail)
                await self._keep(job_id, standing.name, "")
            self._schedules[job_id] = schedule

    async def _keep(self, job_id: str, name: str, schedule: str) -> None:
        if not schedule:
            try:
                await self._scheduler.ask(ChangeJob(job_id=job_id, kind="task", enabled=False, next_slot=None))
            except NotFound:
                return  # it was never on
            return
        now = self._scheduler.clock.now()
        job = Job(
            id=job_id,
            kind="task",
            name=name,
            schedule=schedule,
            next_slot=next_slot(schedule, now, self._scheduler.zone),
            principal="system",
            created_at=now,
        )
        await self._scheduler.ask(PutJob(job=job))

    async def _prune(self) -> None:
        """Forget what ended long ago."""
        now = self._scheduler.clock.now()
        if self._pruned is None or now - self._pruned >= PRUNE_EVERY:
            await self._scheduler.ask(PruneRuns(before=now - KEEP_RUNS))
            self._pruned = now

    def _say_trouble(self, reason: str) -> None:
        """Log that nothing can be done, once, and that it can again."""
        if reason != self._trouble:
            event = "nothing is scheduled for now" if reason else "what is due comes again"
            log.warning(event, actor=self._scheduler.path, reason=reason)
            self._trouble = reason

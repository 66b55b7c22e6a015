"""The scheduler: people's reminders and intentions, and the task that has them come at their time.

The store has all that counts: each job with its next slot, and a ledger with a row for every slot. What is in memory
can be lost at any moment; the next life goes on from the store.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import tzinfo
from typing import Protocol

import msgspec
import trio

from ...config import Settings
from ...runtime import Actor, Done, Principal
from ...runtime.errors import InvalidInput
from ...storage.jobs import AddJob, ChangeJob, DeleteJob, GetJob, Job, ListJobs, PutJob
from ...storage.schedule import AddRun
from .clock import Clock, SystemClock, local_zone
from .intentions import (
    AddIntention,
    ChangeIntention,
    DeleteIntention,
    IntentionAnswer,
    IntentionDeleted,
    IntentionList,
    IntentionRun,
    ListIntentions,
    RunIntention,
    SetWorkflows,
    ToggleIntention,
    intention_session,
    shown_intention,
)
from .planning import next_slot
from .reminder_text import understand
from .reminders import (
    DeleteReminder,
    ListReminders,
    Remind,
    ReminderAdded,
    ReminderDeleted,
    ReminderList,
    shown_reminder,
)
from .slots import read_cron
from .standing import Standing
from .timekeeper import Timekeeper


class SettingsSource(Protocol):
    @property
    def current(self) -> Settings: ...


class Scheduler(Actor):
    """Its handlers only change what the timekeeper finds in the store, and wake it."""

    concurrency = 16
    has_tasks = True

    def __init__(
        self, live: SettingsSource, boot_id: str, standing: Sequence[Standing] = (), clock: Clock | None = None
    ) -> None:
        super().__init__()
        self.clock = clock or SystemClock()
        self.boot_id = boot_id
        self._live = live
        self._timekeeper = Timekeeper(self, standing)

    @property
    def settings(self) -> Settings:
        return self._live.current

    @property
    def zone(self) -> tzinfo:
        """The time zone that people here live by."""
        return local_zone(self.settings.time_zone)

    async def on_start(self) -> None:
        self.spawn(self._timekeeper.run)

    # Reminders --------------------------------------------------------------------------------------------------------

    async def remind(self, message: Remind) -> ReminderAdded:
        now = self.clock.now()
        understood = await trio.to_thread.run_sync(understand, message.message, now, self.zone)
        job = Job(
            id=f"r-{secrets.token_hex(8)}",
            kind="reminder",
            name=understood.text,
            prompt=message.message,
            schedule=understood.schedule,
            recurrence=understood.recurrence,
            next_slot=understood.at,
            session_id=message.session_id,
            principal=self.principal.name,
            scopes=sorted(self.principal.scopes),
            provenance=list(self.provenance),
            created_at=now,
        )
        added = await self.ask(AddJob(job=job))
        self._timekeeper.wake()
        return ReminderAdded(shown_reminder(added, now))

    async def list_reminders(self, message: ListReminders) -> ReminderList:
        now = self.clock.now()
        return ReminderList([shown_reminder(job, now) for job in await self.ask(ListJobs(kind="reminder"))])

    async def delete_reminder(self, message: DeleteReminder) -> ReminderDeleted:
        await self.ask(DeleteJob(job_id=message.reminder_id, kind="reminder"))
        return ReminderDeleted(message.reminder_id)

    # Intentions -------------------------------------------------------------------------------------------------------

    async def add_intention(self, message: AddIntention) -> IntentionAnswer:
        job = self._intention(f"i-{secrets.token_hex(8)}", message.name, message.prompt, message.trigger.schedule)
        job = msgspec.structs.replace(job, context_sources=message.context_sources, enabled=message.enabled)
        if not job.enabled:
            job = msgspec.structs.replace(job, next_slot=None)
        added = await self.ask(AddJob(job=job))
        self._timekeeper.wake()
        return IntentionAnswer(shown_intention(added))

    async def list_intentions(self, message: ListIntentions) -> IntentionList:
        return IntentionList([shown_intention(job) for job in await self.ask(ListJobs(kind="intention"))])

    async def change_intention(self, message: ChangeIntention) -> IntentionAnswer:
        was = await self._get_intention(message.intention_id)
        return IntentionAnswer(shown_intention(await self._change_intention(was, message)))

    async def toggle_intention(self, message: ToggleIntention) -> IntentionAnswer:
        was = await self._get_intention(message.intention_id)
        change = ChangeIntention(intention_id=was.id, enabled=not was.enabled)
        return IntentionAnswer(shown_intention(await self._change_intention(was, change)))

    async def delete_intention(self, message: DeleteIntention) -> IntentionDeleted:
        await self.ask(DeleteJob(job_id=message.intention_id, kind="intention"))
        return IntentionDeleted(message.intention_id)

    async def run_intention(self, message: RunIntention) -> IntentionRun:
        await self.ask(AddRun(job_id=message.intention_id, kind="intention", now=self.clock.now()))
        self._timekeeper.wake()
        job = await self._get_intention(message.intention_id)
        return IntentionRun("ok", intention_session(job.id), shown_intention(job))

    async def set_workflows(self, message: SetWorkflows) -> Done:
        wanted: dict[str, Job] = {}
        for workflow in message.workflows:
            name = hashlib.sha256(f"{message.owner}\0{workflow.name}".encode()).hexdigest()[:16]
            job = self._intention(f"i-{name}", workflow.name, workflow.prompt, workflow.schedule)
            wanted[job.id] = msgspec.structs.replace(job, owner=message.owner)
        for job in await self.ask(ListJobs(kind="intention")):
            if job.owner == message.owner and job.id not in wanted:
                await self.ask(DeleteJob(job_id=job.id, kind="intention"))
        for job in wanted.values():
            await self.ask(PutJob(job=job))
        self._timekeeper.wake()
        return Done()

    def _intention(self, job_id: str, name: str, prompt: str, schedule: str) -> Job:
        now = self.clock.now()
        return Job(
            id=job_id,
            kind="intention",
            name=name,
            prompt=prompt,
            schedule=self._checked(schedule),
            next_slot=next_slot(schedule, now, self.zone),
            channel="intention",
            principal=self.principal.name,
            scopes=sorted(self.principal.scopes),
            provenance=list(self.provenance),
            created_at=now,
        )

    async def _get_intention(self, intention_id: str) -> Job:
        return await self.ask(GetJob(job_id=intention_id, kind="intention"))

    async def _change_intention(self, was: Job, message: ChangeIntention) -> Job:
        schedule = self._checked(message.trigger.schedule) if message.trigger is not None else was.schedule
        is_enabled = was.enabled if message.enabled is None else message.enabled
        change = ChangeJob(
            job_id=was.id,
            kind="intention",
            name=message.name,
            prompt=message.prompt,
            context_sources=message.context_sources,
        )
        if message.prompt is not None or message.context_sources is not None:
            change = msgspec.structs.replace(
                change,
                principal=self.principal.name,
                scopes=_shared(Principal(was.principal, frozenset(was.scopes)), self.principal),
                provenance=list(dict.fromkeys([*was.provenance, *self.provenance])),
            )
        if (schedule, is_enabled) != (was.schedule, was.enabled):
            following = next_slot(schedule, self.clock.now(), self.zone) if is_enabled else None
            change = msgspec.structs.replace(change, schedule=schedule, enabled=is_enabled, next_slot=following)
        changed = await self.ask(change)
        self._timekeeper.wake()
        return changed

    def _checked(self, schedule: str) -> str:
        """The cron line, if it is one that comes to pass."""
        try:
            read_cron(schedule, self.zone).after(self.clock.now())
        except InvalidInput as error:
            raise InvalidInput(error.detail, field=["trigger", "schedule"]) from None
        return " ".join(schedule.split())


def _shared(one: Principal, other: Principal) -> list[str]:
    """The scopes that both have."""
    return sorted(scope for scope in one.scopes | other.scopes if one.may(scope) and other.may(scope))

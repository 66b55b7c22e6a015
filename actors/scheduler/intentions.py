"""Intentions, as people see them: prompts that the agent is given by a schedule."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from ...runtime import Done, Message
from ...storage.jobs import Job

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Prompt = Annotated[str, msgspec.Meta(min_length=1, max_length=100_000)]
Source = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Sources = Annotated[list[Source], msgspec.Meta(max_length=20)]


class Trigger(msgspec.Struct, frozen=True):
    """`schedule` is a cron line of five fields, in local time."""

    schedule: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    type: Literal["cron"] = "cron"


class Intention(msgspec.Struct, frozen=True):
    """`next_run` is null while it is switched off. Its runs are turns of the session `intention:{id}`."""

    id: str
    name: str
    prompt: str
    trigger: Trigger
    context_sources: list[str]
    enabled: bool
    created_at: datetime
    last_run: datetime | None
    next_run: datetime | None


class IntentionAnswer(msgspec.Struct, frozen=True):
    intention: Intention


class IntentionList(msgspec.Struct, frozen=True):
    intentions: list[Intention]


class IntentionDeleted(msgspec.Struct, frozen=True):
    id: str
    deleted: bool = True


class IntentionRun(msgspec.Struct, frozen=True):
    """The run has been entered; what comes of it is said in the session, and as events."""

    status: str
    session_id: str
    intention: Intention


class AddIntention(Message[IntentionAnswer], to="scheduler"):
    """Have the agent given a prompt by a cron schedule; what it does then it does for whoever asked for it.

    `context_sources` name what it should look at first.
    """

    name: Name
    prompt: Prompt
    trigger: Trigger
    context_sources: Sources = msgspec.field(default_factory=list[str])
    enabled: bool = True


class ListIntentions(Message[IntentionList], to="scheduler"):
    """List the intentions, oldest first."""


class ChangeIntention(Message[IntentionAnswer], to="scheduler"):
    """Change an intention; what is left out stays.

    Whoever changes its prompt or `context_sources` has it run for them, and with no scope that they have not.
    """

    intention_id: str
    name: Name | None = None
    prompt: Prompt | None = None
    trigger: Trigger | None = None
    context_sources: Sources | None = None
    enabled: bool | None = None


class ToggleIntention(Message[IntentionAnswer], to="scheduler"):
    """Switch an intention off, or on again."""

    intention_id: str


class DeleteIntention(Message[IntentionDeleted], to="scheduler"):
    """Delete an intention; its session stays."""

    intention_id: str


class RunIntention(Message[IntentionRun], to="scheduler"):
    """Run an intention now, also one that is switched off."""

    intention_id: str


class Workflow(msgspec.Struct, frozen=True):
    """A prompt of a kit, and when it is given."""

    name: Name
    prompt: Prompt
    schedule: str


class SetWorkflows(Message[Done], to="scheduler"):
    """Have an owner's intentions be these and no others; each keeps its next slot while its schedule stays.

    They run with the scopes of whoever asks. A name is used once.
    """

    owner: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    workflows: list[Workflow]


def shown_intention(job: Job) -> Intention:
    facts = job.context_sources, job.enabled, job.created_at, job.last_run, job.next_slot
    return Intention(job.id, job.name, job.prompt, Trigger(job.schedule), *facts)


def intention_session(job_id: str) -> str:
    """The session in which an intention runs."""
    return f"intention:{job_id}"


def prompt_of(job: Job) -> str:
    """What the agent is told. It must be the same for a run that is begun again, or that would be another message."""
    if not job.context_sources:
        return job.prompt
    return f"{job.prompt}\n\nLook at this first, where you can: {', '.join(job.context_sources)}."

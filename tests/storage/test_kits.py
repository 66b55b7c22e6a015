from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from pocketpaw.runtime.errors import Conflict, NotFound
from pocketpaw.storage.jobs import AddJob, Job
from pocketpaw.storage.kits import (
    ChangeKit,
    DropKit,
    FailedWorkflow,
    GetStoredKit,
    KeepKit,
    ListFailedWorkflows,
    ListStoredKits,
    SettleKit,
    StoredKit,
)
from pocketpaw.storage.schedule import AddRun, FinishRun, StartRuns

from .conftest import Ask

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
KIT = StoredKit(
    id="mine",
    config={"meta": {"name": "Mine"}},
    user_values={"name": "Ann"},
    active=True,
    settled=False,
    principal="ann",
    scopes=["kits"],
    installed_at=NOW,
)


def test_a_kit_is_kept_once_changed_settled_and_forgotten(write: Ask, read: Ask) -> None:
    write(KeepKit(kit=KIT))
    with pytest.raises(Conflict, match="'mine' is installed already"):
        write(KeepKit(kit=KIT))
    changed = msgspec.structs.replace(KIT, user_values={}, active=False, principal="ben", scopes=[])
    write(ChangeKit(kit=msgspec.structs.replace(changed, config={"is": "not changed"})))
    assert read(GetStoredKit(kit_id="mine")) == changed
    write(SettleKit(kit_id="mine"))
    assert read(ListStoredKits()) == [msgspec.structs.replace(changed, settled=True)]
    write(DropKit(kit_id="mine"))
    assert read(ListStoredKits()) == []


def test_a_kit_that_is_not_there_is_told(write: Ask, read: Ask) -> None:
    for change in (ChangeKit(kit=KIT), SettleKit(kit_id="mine"), DropKit(kit_id="mine")):
        with pytest.raises(NotFound, match="no kit 'mine'"):
            write(change)
    with pytest.raises(NotFound, match="no kit 'mine'"):
        read(GetStoredKit(kit_id="mine"))


def test_only_the_latest_run_of_a_kits_own_workflow_counts_as_failed(write: Ask, read: Ask) -> None:
    for job_id, owner in (("i-1", "kit:mine"), ("i-2", "")):
        job = Job(
            id=job_id, kind="intention", name=job_id, next_slot=None, principal="ann", owner=owner, created_at=NOW
        )
        write(AddJob(job=job))

    def run(job_id: str, minute: int, error: str | None) -> None:
        write(AddRun(job_id=job_id, kind="intention", now=NOW.replace(minute=minute)))
        (started,) = write(StartRuns(claim="c", now=NOW))
        state = "failed" if error else "done"
        write(FinishRun(run_id=started.run.id, claim="c", state=state, now=NOW, error=error))

    run("i-2", 1, "not a kit's")
    run("i-1", 2, "the model is away")
    assert read(ListFailedWorkflows()) == [FailedWorkflow("mine", "i-1", "the model is away")]
    run("i-1", 3, None)
    assert read(ListFailedWorkflows()) == []

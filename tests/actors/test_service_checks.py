"""What the checks of audit, schedule, access and webhooks find, and what they leave to others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pocketpaw.actors import service_checks
from pocketpaw.actors.access.guard import GetAccessProblems
from pocketpaw.actors.audit.trail import AuditVerdict, GetTrailState, TrailState, VerifyAudit
from pocketpaw.actors.checks import CHECKS, Check, Finding, Surroundings
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.runtime import ActorSystem, Message, Supervisor
from pocketpaw.runtime.errors import PocketPawError, Unavailable
from pocketpaw.storage.audit import AuditHead
from pocketpaw.storage.jobs import DueJobs, Job, ListDueJobs
from pocketpaw.storage.webhooks import ListStoredWebhooks, StoredWebhook

NOW = datetime.now(UTC)
HEAD = AuditHead(5, "h")
JOB = Job(
    id="r-1",
    kind="reminder",
    name="stretch",
    prompt="stretch",
    schedule="",
    principal="master",
    scopes=[],
    created_at=NOW,
    next_slot=NOW - timedelta(hours=1),
)


async def look(check: Check, live: LiveSettings, **answers: object) -> list[Finding]:
    given: dict[type[Message[Any]], object] = {
        VerifyAudit: answers.get("audit", AuditVerdict(5, [], [], HEAD)),
        GetTrailState: answers.get("trail", TrailState(0, 0)),
        ListDueJobs: answers.get("jobs", DueJobs([], None)),
        GetAccessProblems: answers.get("access", []),
        ListStoredWebhooks: answers.get("webhooks", []),
    }
    asked: list[Message[Any]] = []

    async def ask(message: Message[Any]) -> Any:
        asked.append(message)
        answer = given[type(message)]
        if isinstance(answer, PocketPawError):
            raise answer
        return answer

    findings = await check.look(Surroundings(live, ActorSystem(Supervisor("root")), ask, ()))
    assert asked
    return findings


AWAY = Unavailable("the disk is full")


@pytest.mark.parametrize(
    "check", [service_checks.audit, service_checks.schedule, service_checks.access, service_checks.webhooks]
)
async def test_what_is_in_order_is_left_alone(live: LiveSettings, check: Check) -> None:
    assert CHECKS[check.id] is check
    assert await look(check, live) == []


async def test_an_audit_that_was_changed_is_critical(live: LiveSettings) -> None:
    (finding,) = await look(service_checks.audit, live, audit=AuditVerdict(5, ["entry 2 was changed"], [], HEAD))
    assert finding.status == "critical"
    assert "entry 2 was changed" in finding.message


async def test_an_audit_that_is_not_on_disk_or_very_large_is_told(live: LiveSettings) -> None:
    large = AuditVerdict(service_checks.AUDIT_LARGE + 1, [], [], HEAD)
    findings = await look(service_checks.audit, live, audit=large, trail=TrailState(3, 0))
    assert [finding.subject for finding in findings] == ["unsaved", "size"]
    assert "3 acts" in findings[0].message


async def test_a_job_that_was_not_begun_is_named(live: LiveSettings) -> None:
    (finding,) = await look(service_checks.schedule, live, jobs=DueJobs([JOB], None))
    assert "stretch" in finding.message


async def test_credentials_that_are_not_known_are_told(live: LiveSettings) -> None:
    findings = await look(service_checks.access, live, access=["logouts are not on disk yet"])
    assert [finding.message for finding in findings] == ["logouts are not on disk yet"]


async def test_a_webhook_without_its_secret_is_named(live: LiveSettings) -> None:
    await live.keep_secrets({"webhooks/door": "a-secret-for-the-door"})
    doors = [StoredWebhook("door", "", None), StoredWebhook("gate", "", None)]
    (finding,) = await look(service_checks.webhooks, live, webhooks=doors)
    assert finding.subject == "gate"


@pytest.mark.parametrize(
    ("check", "what"),
    [
        (service_checks.audit, "audit"),
        (service_checks.schedule, "jobs"),
        (service_checks.access, "access"),
        (service_checks.webhooks, "webhooks"),
    ],
)
async def test_that_the_storage_cannot_be_used_is_told_once_by_its_own_check(
    live: LiveSettings, check: Check, what: str
) -> None:
    assert await look(check, live, **{what: AWAY}) == []

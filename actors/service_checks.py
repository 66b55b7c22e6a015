"""The health checks of the services that people rely on without seeing them: audit, schedule, access, webhooks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ..runtime.errors import PocketPawError
from ..storage.jobs import ListDueJobs
from ..storage.webhooks import ListStoredWebhooks
from .access.guard import GetAccessProblems
from .audit.trail import GetTrailState, VerifyAudit
from .checks import CHECKS, Finding, Surroundings, check

__all__ = ["CHECKS"]

AUDIT_LARGE = 1_000_000
"""Entries; about 500 MB."""

OVERDUE = timedelta(minutes=5)
NAMED = 10


@check("Audit", "security", every_s=300.0, timeout_s=20.0)
async def audit(around: Surroundings) -> list[Finding]:
    """What has come into the audit since the last look is in order, and on disk; it is not too large."""
    try:
        verdict = await around.ask(VerifyAudit(thoroughly=False))
        state = await around.ask(GetTrailState())
    except PocketPawError:
        return []  # that it cannot be read is what the checks of the storage and of the actors say
    hint = "POST security-audit names every entry. Find out who did that; DELETE audit archives it and begins anew."
    findings = [Finding("critical", f"the audit: {problem}", hint, problem) for problem in verdict.problems]
    if state.unsaved:
        text = f"{state.unsaved} acts are not in the audit yet"
        findings.append(Finding("warning", text, "Nothing, once the storage can be used again.", "unsaved"))
    if verdict.entries > AUDIT_LARGE:
        text = f"the audit has {verdict.entries} entries"
        findings.append(Finding("warning", text, "DELETE audit moves them into an archive file.", "size"))
    return findings


@check("Schedule", "scheduler", every_s=60.0)
async def schedule(around: Surroundings) -> list[Finding]:
    """Whatever was due has been begun."""
    try:
        due = await around.ask(ListDueJobs(at=datetime.now(UTC) - OVERDUE, limit=NAMED))
    except PocketPawError:
        return []  # as above
    if not due.jobs:
        return []
    names = ", ".join(job.name for job in due.jobs)
    hint = "GET runtime/actors/scheduler says whether it runs; POST runtime/actors/scheduler/restart starts it anew."
    return [Finding("warning", f"due for more than 5 minutes, and not begun: {names}", hint)]


@check("Access", "security", every_s=60.0)
async def access(around: Surroundings) -> list[Finding]:
    """Every API key, OAuth token and logout is known, and on disk."""
    try:
        problems = await around.ask(GetAccessProblems())
    except PocketPawError:
        return []  # as above
    hint = "Nothing, once the storage can be used again; until then the access token lets you in."
    return [Finding("warning", text, hint, text) for text in problems]


@check("Webhooks", "webhooks", every_s=300.0)
async def webhooks(around: Surroundings) -> list[Finding]:
    """Every webhook has its secret."""
    try:
        names = [webhook.name for webhook in await around.ask(ListStoredWebhooks())]
        lost = [name for name in names if around.live.secret(f"webhooks/{name}") is None]
    except PocketPawError:
        return []  # as above; that the vault cannot be opened is what its own check says
    hint = "POST webhooks/regenerate-secret gives it a new one, for its callers."
    return [
        Finding("warning", f"the webhook {name} has lost its secret, so nobody can call it", hint, name)
        for name in lost
    ]

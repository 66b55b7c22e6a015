"""Security: whether what is kept is sound, and could be had back."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trio

from ...storage.soundness import CheckStorage
from ..checks import READ_WHOLE_BYTES
from .security_check import Premises, Seen, fine, security_check, setting, wrong
from .trail import VerifyAudit

CHAIN_S = 300.0
BACKUP_AGE = timedelta(days=30)


@security_check("Audit", "critical")
async def audit_chain(premises: Premises) -> Seen:
    """No entry of the audit was changed, inserted or deleted."""
    verdict = await premises.ask(VerifyAudit(), timeout_s=CHAIN_S)
    if verdict.problems:
        return wrong(
            f"the audit was tampered with: {'; '.join(verdict.problems)}. Find out by whom and keep a copy, then begin "
            "anew with DELETE audit"
        )
    elsewhere = f"; not in the home folder: {', '.join(verdict.missing)}" if verdict.missing else ""
    return fine(f"{verdict.entries} entries are as they were written, up to {verdict.head.id}{elsewhere}")


@security_check("Database", "critical")
async def database(premises: Premises) -> Seen:
    report = await premises.ask(CheckStorage())
    if report.size_bytes <= READ_WHOLE_BYTES:
        report = await premises.ask(CheckStorage(thoroughly=True))
    if report.problem is not None:
        return wrong(f"the database {report.database} is damaged: {report.problem}")
    return fine("the database can be read from end to end")


@security_check("Backups", "info")
async def backups(premises: Premises) -> Seen:
    live = premises.live
    if live.at_start.database_url:
        return fine("the database is elsewhere (database_url), and so are its backups")
    age = await trio.to_thread.run_sync(_unsaved_for, live.home.database)
    if age > BACKUP_AGE:
        return wrong(
            f"the latest copy of the database in the home folder is {age.days} days old, or there is none: copy the "
            "home folder to another disk while the daemon is stopped"
        )
    return fine("the database is new, or was copied not long ago")


@security_check("Log", "info", repair=setting(log_level=None))
async def log_level(premises: Premises) -> Seen:
    if premises.live.current.log_level == "debug":
        return wrong("log_level is debug: the log says more of what people do than it has to")
    return fine(f"log_level is {premises.live.current.log_level}")


@security_check("User")
async def user(_premises: Premises) -> Seen:
    if os.geteuid() == 0:
        return wrong("the daemon runs as root, and so do the commands of its agent: run it as a user of its own")
    return fine(f"the daemon does not run as root (uid {os.geteuid()})")


@security_check("Self-audit", "info", repair=setting(self_audit_enabled=None))
async def self_audit(premises: Premises) -> Seen:
    settings = premises.live.current
    if not settings.self_audit_enabled:
        return wrong("self_audit_enabled is off: nobody looks at all this by themselves")
    return fine(f"all this is looked at by itself ({settings.self_audit_schedule})")


def _unsaved_for(database: Path) -> timedelta:
    """Since when there has been no copy of the database: since the latest, or since it was made."""
    marks = [*database.parent.glob(f"{database.name}.backup-*"), database.with_name(f"{database.name}.made")]
    times = [mark.stat().st_mtime for mark in marks if mark.exists()]
    return datetime.now(UTC) - datetime.fromtimestamp(max(times), UTC) if times else timedelta()


CHECKS = (audit_chain, database, backups, log_level, user, self_audit)

"""Reminders."""

from __future__ import annotations

from ..actors.scheduler.reminders import DeleteReminder, ListReminders, Remind
from .route import delete, get, post

SCOPE = "reminders"
ROUTES = [
    get("/reminders", ListReminders, scope=SCOPE),
    post("/reminders", Remind, scope=SCOPE, audit=False),
    delete("/reminders/{reminder_id}", DeleteReminder, scope=SCOPE, audit=False),
]

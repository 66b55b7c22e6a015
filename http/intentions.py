"""Intentions: prompts that the agent is given by a schedule."""

from __future__ import annotations

from ..actors.scheduler.intentions import (
    AddIntention,
    ChangeIntention,
    DeleteIntention,
    ListIntentions,
    RunIntention,
    ToggleIntention,
)
from .route import delete, get, patch, post

SCOPE = "reminders"
ROUTES = [
    get("/intentions", ListIntentions, scope=SCOPE),
    post("/intentions", AddIntention, scope=SCOPE),
    patch("/intentions/{intention_id}", ChangeIntention, scope=SCOPE),
    delete("/intentions/{intention_id}", DeleteIntention, scope=SCOPE),
    post("/intentions/{intention_id}/toggle", ToggleIntention, scope=SCOPE),
    post("/intentions/{intention_id}/run", RunIntention, scope=SCOPE),
]

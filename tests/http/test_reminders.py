from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pocketpaw.http.route import PREFIXES

from .conftest import Serve

FIELDS = {"id", "text", "trigger_at", "created_at", "time_remaining", "original"}


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_reminders_are_made_of_words_listed_and_deleted(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        assert (await client.get(f"{prefix}/reminders")).json() == {"reminders": []}
        made = await client.post(f"{prefix}/reminders", json={"message": "in 2 hours to stretch"})
        assert made.status_code == 200
        reminder = made.json()["reminder"]
        assert set(reminder) == FIELDS
        assert (reminder["text"], reminder["time_remaining"]) == ("Stretch", "in 2h")
        assert datetime.fromisoformat(reminder["trigger_at"]) > datetime.now(UTC)
        again = await client.post(f"{prefix}/reminders", json={"message": "every monday at 18:30 choir"})
        assert again.json()["reminder"]["recurrence"] == "every monday at 18:30"
        listed = (await client.get(f"{prefix}/reminders")).json()["reminders"]
        assert [one["text"] for one in listed] == ["Stretch", "Choir"]
        gone = await client.delete(f"{prefix}/reminders/{reminder['id']}")
        assert gone.json() == {"id": reminder["id"], "deleted": True}
        assert (await client.delete(f"{prefix}/reminders/{reminder['id']}")).status_code == 404


@pytest.mark.parametrize("body", [{}, {"message": ""}, {"message": "x" * 5001}, {"message": "no time"}, {"message": 7}])
async def test_a_bad_reminder_is_refused_at_its_field(serve: Serve, body: dict[str, object]) -> None:
    async with serve() as daemon, daemon.client() as client:
        refused = await client.post("/api/v1/reminders", json=body)
        assert refused.status_code == 422
        (problem,) = refused.json()["detail"]
        assert problem["loc"] == ["body", "message"]


async def test_reminders_and_intentions_need_a_credential(serve: Serve) -> None:
    async with serve() as daemon, daemon.stranger() as stranger:
        assert (await stranger.get("/api/v1/reminders")).status_code == 401
        assert (await stranger.get("/api/v1/intentions")).status_code == 401

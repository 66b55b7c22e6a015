from __future__ import annotations

import pytest
from pocketpaw.http.route import PREFIXES

from .conftest import Serve, eventually

DAILY = {"name": "Daily", "prompt": "hi", "trigger": {"type": "cron", "schedule": "0 9 * * *"}}
FIELDS = {
    "id", "name", "prompt", "trigger", "context_sources", "enabled", "created_at", "last_run", "next_run",
}  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_an_intention_is_made_changed_toggled_and_deleted(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        assert (await client.get(f"{prefix}/intentions")).json() == {"intentions": []}
        made = (await client.post(f"{prefix}/intentions", json=DAILY)).json()["intention"]
        assert set(made) == FIELDS
        assert made["trigger"] == DAILY["trigger"]
        assert made["next_run"] is not None
        place = f"{prefix}/intentions/{made['id']}"
        changed = (await client.patch(place, json={"name": "Evening", "enabled": True})).json()["intention"]
        assert changed == {**made, "name": "Evening"}
        off = (await client.post(f"{place}/toggle")).json()["intention"]
        assert (off["enabled"], off["next_run"]) == (False, None)
        assert (await client.get(f"{prefix}/intentions")).json() == {"intentions": [off]}
        assert (await client.delete(place)).json() == {"id": made["id"], "deleted": True}
        for answer in (
            await client.delete(place),
            await client.patch(place, json={"name": "x"}),
            await client.post(f"{place}/toggle"),
            await client.post(f"{place}/run"),
        ):
            assert answer.status_code == 404


async def test_a_run_is_a_turn_of_the_intentions_session(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        made = (await client.post("/api/v1/intentions", json=DAILY)).json()["intention"]
        run = (await client.post(f"/api/v1/intentions/{made['id']}/run")).json()
        assert (run["status"], run["intention"]["id"]) == ("ok", made["id"])
        history = f"/api/v1/sessions/{run['session_id']}/history"

        async def is_answered() -> bool:
            answer = await client.get(history)
            return answer.status_code == 200 and len(answer.json()) == 2

        await eventually(is_answered)
        question, reply = (await client.get(history)).json()
        assert (question["content"], reply["content"]) == ("hi", "the quick brown fox jumps.")
        session = (await client.get(f"/api/v1/sessions/{run['session_id']}")).json()
        assert (session["title"], session["channel"]) == ("Daily", "intention")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"trigger": {"type": "cron", "schedule": "not a cron"}}, ["body", "trigger", "schedule"]),
        ({"trigger": {"type": "interval", "schedule": "0 9 * * *"}}, ["body", "trigger", "type"]),
        ({"name": ""}, ["body", "name"]),
        ({"prompt": 7}, ["body", "prompt"]),
    ],
)
async def test_a_bad_intention_is_refused_at_its_field(
    serve: Serve, change: dict[str, object], place: list[str]
) -> None:
    async with serve() as daemon, daemon.client() as client:
        refused = await client.post("/api/v1/intentions", json={**DAILY, **change})
        assert refused.status_code == 422
        (problem,) = refused.json()["detail"]
        assert problem["loc"] == place

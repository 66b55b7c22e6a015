"""GET backends and POST backends/install over a real socket."""

from __future__ import annotations

import trio

from .conftest import Serve


async def test_backends_are_listed_and_what_cannot_be_installed_says_how_to_get_it(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        rows = (await client.get("/api/v1/backends")).json()
        assert {"name", "displayName", "available", "installHint", "beta"} <= set(rows[0])
        assert {"anthropic", "ollama", "gemini", "embedded", "cli:claude"} <= {row["name"] for row in rows}
        answer = await client.post("/api/v1/backends/install", json={"backend": "cli:claude"})
        assert (answer.status_code, answer.json()["status"]) == (200, "error")
        assert "npm install -g @anthropic-ai/claude-code" in answer.json()["error"]
        assert (await client.post("/api/v1/backends/install", json={"backend": "left-pad"})).status_code == 404
        assert (await client.post("/api/v1/backends/install", json={})).status_code == 422


async def test_an_installation_is_told_as_events_and_needs_an_administrator(serve: Serve) -> None:
    async with (
        serve(ollama_host="http://127.0.0.1:9") as daemon,
        daemon.client() as client,
        daemon.stranger() as nobody,
    ):
        assert (await nobody.post("/api/v1/backends/install", json={"backend": "ollama"})).status_code == 401
        events = daemon.system.bus.subscribe("events")
        answer = await client.post("/api/v1/backends/install", json={"backend": "ollama"})
        assert "cannot be reached" in answer.json()["error"]
        with trio.fail_after(5):
            said = [event.data() for event in await events.take() if event.name == "backends"]
    assert [event["metadata"]["state"] for event in said] == ["started", "failed"]
    assert {event["event_type"] for event in said} == {"backends"}

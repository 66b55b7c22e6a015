"""Kits over HTTP: what a client of PocketPaw finds, field by field."""

from __future__ import annotations

import pytest
from pocketpaw.http.route import PREFIXES

from .conftest import Serve, eventually

MINE = """
meta: {name: Mine, description: For me.}
layout: {sections: [{title: All, panels: [{id: a, type: markdown, source: "workflow:greet"}]}]}
workflows: {greet: {schedule: 0 9 * * *, instruction: Say hello.}}
"""
ENTRY = {"id", "name", "description", "icon", "category", "author", "tags", "preview", "installed"}
CONFIG = {"meta", "layout", "workflows", "user_config", "skills", "integrations"}


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_kit_is_found_installed_looked_at_and_removed(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        catalog = (await client.get(f"{prefix}/kits/catalog")).json()
        assert catalog["count"] == len(catalog["catalog"])
        assert all(set(entry) == ENTRY for entry in catalog["catalog"])
        made = (await client.post(f"{prefix}/kits/catalog/server-watch/install")).json()
        assert (made["id"], made["activated"]) == ("server-watch", True)
        listed = (await client.get(f"{prefix}/kits")).json()
        assert (listed["count"], [kit["id"] for kit in listed["kits"]]) == (1, ["server-watch"])
        kit = (await client.get(f"{prefix}/kits/server-watch")).json()["kit"]
        assert set(kit) == {"id", "config", "user_values", "installed_at", "active"}
        assert set(kit["config"]) == CONFIG
        assert kit["config"]["meta"]["built_in"] is True
        row = kit["config"]["layout"]["sections"][0]["panels"][0]
        assert (row["id"], row["type"], row["items"][0]["label"]) == ("machine", "metrics-row", "Processor")
        data = (await client.get(f"{prefix}/kits/server-watch/data")).json()
        assert data["errors"] == {}
        assert data["data"]["api:metrics"]["memory"]["percent"] > 0
        source = (await client.get(f"{prefix}/kits/server-watch/data/api:health")).json()
        assert (source["source"], "status" in source["data"]) == ("api:health", True)
        for verb in ("deactivate", "activate"):
            assert (await client.post(f"{prefix}/kits/server-watch/{verb}")).json()["success"] is True
        removed = (await client.delete(f"{prefix}/kits/server-watch")).json()
        assert removed == {"success": True, "message": "Kit server-watch removed"}
        assert (await client.delete(f"{prefix}/kits/server-watch")).status_code == 404
        assert (await client.get(f"{prefix}/kits/server-watch/data")).status_code == 404
        assert (await client.post(f"{prefix}/kits/catalog/moon/install")).status_code == 404


async def test_what_a_workflow_said_is_shown_in_its_panel(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        made = await client.post("/api/v1/kits/install", json={"yaml": MINE, "kit_id": "hello"})
        assert (made.status_code, made.json()["activated"]) == (200, False)
        await client.post("/api/v1/kits/hello/activate")
        (intention,) = (await client.get("/api/v1/intentions")).json()["intentions"]
        await client.post(f"/api/v1/intentions/{intention['id']}/run")

        async def is_shown() -> bool:
            data = (await client.get("/api/v1/kits/hello/data")).json()["data"]["workflow:greet"]
            return data["text"] == "the quick brown fox jumps."

        await eventually(is_shown)
        assert daemon.model.asked[-1] == "Say hello."
        assert (await client.post("/api/v1/kits/install", json={"yaml": MINE, "kit_id": "hello"})).status_code == 409


@pytest.mark.parametrize(
    ("body", "status", "place"),
    [
        ({"yaml": "meta: {}"}, 422, ["body", "yaml"]),
        ({"yaml": MINE, "kit_id": "../up"}, 422, ["body", "kit_id"]),
        ({"yaml": MINE, "user_values": {"a": "b"}}, 422, ["body", "user_values", "a"]),
        ({}, 422, ["body", "yaml"]),
        ({"yaml": MINE + "#" * 70_000}, 413, None),
    ],
)
async def test_a_kit_that_cannot_be_used_is_refused_at_its_field(
    serve: Serve, body: dict[str, object], status: int, place: list[str] | None
) -> None:
    async with serve() as daemon, daemon.client() as client:
        refused = await client.post("/api/v1/kits/install", json=body)
        assert refused.status_code == status
        if place is not None:
            assert refused.json()["detail"][0]["loc"] == place
        assert (await client.get("/api/v1/kits")).json() == {"kits": [], "count": 0}


async def test_a_key_for_kits_alone_sees_no_sessions_through_them(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        await client.post("/api/v1/kits/catalog/morning-briefing/install")
        key = (await client.post("/api/v1/auth/api-keys", json={"name": "panel", "scopes": ["kits"]})).json()["key"]
        async with daemon.stranger(key) as panel:
            shown = (await panel.get("/api/v1/kits/morning-briefing/data")).json()
            assert shown["data"]["api:sessions"] is None
            assert shown["errors"]["api:sessions"] == "Missing required scope: sessions"
            refused = await panel.get("/api/v1/kits/morning-briefing/data/sessions")
            assert (refused.status_code, refused.json()["detail"]) == (403, "Missing required scope: sessions")

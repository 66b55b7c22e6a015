"""Importing a home over HTTP: who may, and what is answered."""

from __future__ import annotations

from pathlib import Path

from ..journeys.older_pocketpaw import recorded_home
from .conftest import Serve

KINDS = {"sessions", "memories", "identity", "settings", "reminders", "intentions", "mcp_servers", "api_keys"}


async def test_who_has_every_scope_may_import_and_is_told_what_came_of_it(serve: Serve, tmp_path: Path) -> None:
    home = recorded_home(tmp_path / "ann")
    async with serve() as daemon, daemon.client() as client:
        dry = (await client.post("/api/v1/import", json={"path": str(home), "dry_run": True})).json()
        assert (dry["path"], dry["dry_run"]) == (str(home), True)
        assert set(dry["kinds"]) == {"other", *KINDS}
        assert {*dry["kinds"]["sessions"]} == {"taken", "known", "left"}
        assert (await client.get("/api/v1/sessions")).json()["total"] == 0
        done = (await client.post("/api/import", json={"path": str(home)})).json()
        assert done["kinds"]["sessions"]["taken"] == dry["kinds"]["sessions"]["taken"]
        assert (await client.get("/api/v1/sessions")).json()["total"] == 2
        missing = await client.post("/api/v1/import", json={"path": "/nowhere"})
        assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
        body = {"name": "most", "scopes": ["chat", "sessions", "settings:write", "memory", "files:read"]}
        key = (await client.post("/api/v1/auth/api-keys", json=body)).json()["key"]
        async with daemon.stranger(key) as other:
            refused = await other.post("/api/v1/import", json={"path": str(home)})
            assert (refused.status_code, refused.json()["detail"]) == (403, "Missing required scope: admin")

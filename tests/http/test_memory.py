from __future__ import annotations

import pytest
from pocketpaw.http.route import PREFIXES
from pocketpaw.storage.memories import AddMemory

from .conftest import Serve


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_memories_are_listed_in_pages_and_forgotten(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        assert (await client.get(f"{prefix}/memory/long_term")).json() == []
        for content in ("Ann likes tea", "Bob likes soup", "Carl sails"):
            await daemon.system.ask(AddMemory(content=content, tags=["people"]))
        page = await client.get(f"{prefix}/memory/long_term", params={"limit": 1, "q": "likes"})
        assert page.headers["x-total-count"] == "2"
        (newest,) = page.json()
        assert set(newest) == {"id", "content", "timestamp", "tags"}
        assert (newest["content"], newest["tags"]) == ("Bob likes soup", ["people"])
        rest = await client.get(f"{prefix}/memory/long_term", params={"offset": 1})
        assert [one["content"] for one in rest.json()] == ["Bob likes soup", "Ann likes tea"]
        deleted = await client.delete(f"{prefix}/memory/long_term/{newest['id']}")
        assert deleted.json() == {"ok": True}
        for unknown in (newest["id"], "x", "9" * 40):
            assert (await client.delete(f"{prefix}/memory/long_term/{unknown}")).status_code == 404
        for wrong in ({"limit": 0}, {"limit": 501}, {"offset": -1}):
            assert (await client.get(f"{prefix}/memory/long_term", params=wrong)).status_code == 422


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_memory_settings_and_stats(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        shown = (await client.get(f"{prefix}/memory/settings")).json()
        assert (shown["memory_backend"], shown["auto_learn"], shown["hint"]) == ("file", False, "")
        written = {**shown, "auto_learn": True}
        changed = (await client.post(f"{prefix}/memory/settings", json=written)).json()
        assert changed["auto_learn"]
        assert "embedded model is too small" in changed["hint"]
        assert daemon.live.current.file_auto_learn
        refused = await client.post(f"{prefix}/memory/settings", json={"memory_backend": "mem0"})
        assert refused.status_code == 422
        (problem,) = refused.json()["detail"]
        assert problem["loc"] == ["body", "memory_backend"]
        assert "not installed" in problem["msg"]
        stats = (await client.get(f"{prefix}/memory/stats")).json()
        assert set(stats) == {"backend", "total_memories", "total_sessions", "total_messages", "size_bytes"}
        assert (stats["backend"], stats["total_memories"]) == ("file", 0)


async def test_memories_need_their_scope(serve: Serve) -> None:
    async with serve() as daemon, daemon.stranger() as stranger:
        assert (await stranger.get("/api/v1/memory/long_term")).status_code == 401

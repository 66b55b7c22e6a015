from __future__ import annotations

import pytest
from pocketpaw.actors.identity import DEFAULTS, LIMIT_BYTES
from pocketpaw.http.route import PREFIXES

from .conftest import Serve

FIELDS = ["identity_file", "soul_file", "style_file", "instructions_file", "user_file"]


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_the_identity_is_shown_and_written(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        shown = (await client.get(f"{prefix}/identity")).json()
        assert shown == dict(zip(FIELDS, DEFAULTS.values(), strict=True))
        changed = await client.put(f"{prefix}/identity", json={"soul_file": "You are strict.", "newer": 1})
        assert changed.json() == {"ok": True, "updated": ["soul_file"]}
        assert (await client.get(f"{prefix}/identity")).json() == {**shown, "soul_file": "You are strict."}
        assert (daemon.live.home.identity / "SOUL.md").read_text() == "You are strict."
        await client.put(f"{prefix}/identity", json={"soul_file": None})
        assert (await client.get(f"{prefix}/identity")).json() == shown
        too_long = await client.put(f"{prefix}/identity", json={"user_file": "x" * (LIMIT_BYTES + 1)})
        assert too_long.status_code == 422
        assert too_long.json()["detail"][0]["loc"] == ["body", "user_file"]
        assert (await client.put(f"{prefix}/identity", json={"user_file": 1})).status_code == 422

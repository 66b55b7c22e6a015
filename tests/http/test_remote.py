"""The tunnel's endpoints: what they answer, and who may use them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..fakes.cloudflared import place
from .conftest import Serve

PREFIXES = ("/api/v1", "/api")


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_tunnel_is_opened_shown_and_closed(serve: Serve, prefix: str, tmp_path: Path) -> None:
    fake = place(tmp_path / "bin")
    async with serve(cloudflared_path=str(fake.program)) as daemon, daemon.client() as client:
        off = {"active": False, "url": None, "state": "off", "error": None}
        assert (await client.get(f"{prefix}/remote/status")).json() == off
        opened = (await client.post(f"{prefix}/remote/start", json={})).json()
        url = fake.runs()[0].url
        assert opened == {"active": True, "url": url, "state": "connected", "error": None}
        assert fake.runs()[0].arguments[-1] == daemon.url

        refused = await client.get(f"{prefix}/remote/status")
        assert (refused.status_code, "tunnel" in refused.json()["detail"]) == (401, True)
        client.headers["Authorization"] = f"Bearer {daemon.live.access_token}"
        assert (await client.get(f"{prefix}/remote/status")).json() == opened
        assert (await client.post(f"{prefix}/remote/stop")).json() == off
        del client.headers["Authorization"]
        assert (await client.get(f"{prefix}/remote/status")).json() == off


async def test_without_cloudflared_the_answer_says_how_to_get_it(serve: Serve) -> None:
    async with serve(cloudflared_path="/no/such/cloudflared") as daemon, daemon.client() as client:
        answer = await client.post("/api/v1/remote/start")
        assert answer.status_code == 200
        assert (answer.json()["active"], answer.json()["url"]) == (False, None)
        assert "install cloudflared (https://" in answer.json()["error"]


@pytest.mark.parametrize(("method", "path"), [("GET", "status"), ("POST", "start"), ("POST", "stop")])
async def test_a_key_without_the_scope_may_not(serve: Serve, method: str, path: str) -> None:
    async with serve(cloudflared_path="/no/such/cloudflared") as daemon, daemon.client() as client:
        key = (await client.post("/api/v1/auth/api-keys", json={"name": "k", "scopes": ["chat"]})).json()["key"]
        async with daemon.stranger(key) as stranger:
            refused = await stranger.request(method, f"/api/v1/remote/{path}")
        assert (refused.status_code, refused.json()["detail"]) == (403, "Missing required scope: remote")

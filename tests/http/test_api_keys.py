from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pocketpaw.http.route import PREFIXES
from pocketpaw.http.routes import ROUTES

from .conftest import Serve

FIELDS = {"id", "name", "prefix", "scopes", "created_at", "expires_at"}


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_key_from_its_making_to_its_end(serve: Serve, prefix: str) -> None:
    keys = f"{prefix}/auth/api-keys"
    async with serve() as daemon, daemon.client() as client:
        made = (await client.post(keys, json={"name": "backup", "newer": 1})).json()
        assert set(made) == {"key", *FIELDS}
        assert (made["scopes"], made["expires_at"]) == (["chat", "sessions"], None)
        assert made["key"].startswith(made["prefix"])
        assert made["key"].startswith("pp_")
        (listed,) = (await client.get(keys)).json()
        assert set(listed) == {*FIELDS, "last_used_at", "revoked"}
        assert (listed["id"], listed["last_used_at"], listed["revoked"]) == (made["id"], None, False)
        async with daemon.stranger(made["key"]) as script:
            assert (await script.get(f"{prefix}/sessions")).status_code == 200
            refused = await script.get(f"{prefix}/settings")
            assert refused.json() == {"detail": "Missing required scope: settings:read", "code": "forbidden"}
            (used,) = (await client.get(keys)).json()
            assert datetime.fromisoformat(used["last_used_at"]) >= datetime.fromisoformat(made["created_at"])
            rotated = (await client.post(f"{keys}/{made['id']}/rotate")).json()
            assert (set(rotated), rotated["scopes"]) == ({"key", *FIELDS}, made["scopes"])
            assert (await script.get(f"{prefix}/sessions")).status_code == 401
            script.headers["Authorization"] = f"Bearer {rotated['key']}"
            assert (await script.get(f"{prefix}/sessions")).status_code == 200
            assert (await client.delete(f"{keys}/{rotated['id']}")).json() == {"ok": True}
            assert (await script.get(f"{prefix}/sessions")).status_code == 401
        assert [key["revoked"] for key in (await client.get(keys)).json()] == [True, True]
        assert (await client.delete(f"{keys}/none")).status_code == 404
        assert (await client.post(f"{keys}/none/rotate")).status_code == 404
        assert (await client.post(f"{keys}/{made['id']}/rotate")).status_code == 409


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "k", "scopes": ["everything"]}, "scopes"),
        ({"name": "k", "scopes": []}, "scopes"),
        ({"name": "k", "scopes": "chat"}, "scopes"),
        ({"name": "k", "expires_at": (datetime.now(UTC) - timedelta(seconds=1)).isoformat()}, "expires_at"),
        ({"name": "k", "expires_at": "2999-01-01T00:00:00"}, "expires_at"),
        ({"name": "k", "expires_at": "tomorrow"}, "expires_at"),
    ],
)
async def test_what_is_wrong_with_a_key_is_named(serve: Serve, body: dict[str, Any], field: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        refused = await client.post("/api/v1/auth/api-keys", json=body)
        assert refused.status_code == 422
        assert refused.json()["detail"][0]["loc"][:2] == ["body", field]


async def test_a_key_comes_in_every_way_but_as_a_cookie(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client, daemon.stranger() as script:
        key = (await client.post("/api/v1/auth/api-keys", json={"name": "k"})).json()["key"]
        assert (await script.get("/api/v1/sessions", params={"token": key})).status_code == 200
        cookie = {"Cookie": f"pocketpaw_session={key}"}
        assert (await script.get("/api/v1/sessions", headers=cookie)).status_code == 401


async def test_a_key_opens_nothing_beyond_its_scopes_by_any_detour(serve: Serve) -> None:
    """Every route that needs another scope, and the ways in which a credential is exchanged for another."""
    async with serve() as daemon, daemon.client() as client:
        key = (await client.post("/api/v1/auth/api-keys", json={"name": "k", "scopes": ["chat"]})).json()["key"]
        async with daemon.stranger(key) as script:
            for route in ROUTES:
                if not route.is_exempt and route.scope not in (None, "chat"):
                    path = re.sub(r"{\w+}", "x", route.mounts[0])
                    refused = await script.request(route.method, path)
                    assert refused.status_code == 403, f"{route.method} {path}"
                    assert refused.json()["detail"] == f"Missing required scope: {route.scope}"
            login = await script.post("/api/v1/auth/login", json={"token": key})
            assert (login.status_code, "set-cookie" in login.headers) == (401, False)
            assert (await script.get("/api/v1/settings")).status_code == 403
        admin = (await client.post("/api/v1/auth/api-keys", json={"name": "a", "scopes": ["admin"]})).json()["key"]
        async with daemon.stranger(admin) as script:
            assert (await script.get("/api/v1/settings")).status_code == 200
            assert (await script.get("/api/v1/auth/api-keys")).status_code == 200
            for method, path in (("POST", "auth/session"), ("POST", "token/regenerate"), ("GET", "qr")):
                assert (await script.request(method, f"/api/v1/{path}")).status_code == 403, path


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_new_access_token_ends_the_old_one_and_every_session_at_once(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.stranger(daemon.live.access_token) as client:
        session = (await client.post(f"{prefix}/auth/session")).json()["session_token"]
        regenerated = await client.post(f"{prefix}/token/regenerate")
        assert set(regenerated.json()) == {"token"}
        for credential, status in ((daemon.live.access_token, 200), (session, 401)):
            answer = await client.get(f"{prefix}/settings", headers={"Authorization": f"Bearer {credential}"})
            assert answer.status_code == status
        assert (await client.get(f"{prefix}/settings")).status_code == 401

"""Who gets in: every route without a credential, with a wrong scope, from elsewhere; and what a request may cost."""

from __future__ import annotations

import re

import httpx2
import pytest
from pocketpaw.http.route import Route
from pocketpaw.http.routes import ROUTES
from pocketpaw.runtime import Principal

from .conftest import Serve

CLOSED = [route for route in ROUTES if not route.is_exempt]
OPEN = [route for route in ROUTES if route.is_exempt]
ELSEWHERE = {
    "through a proxy": {"X-Forwarded-For": "127.0.0.1"},
    "through another proxy": {"Forwarded": "for=127.0.0.1"},
    "through nginx": {"X-Real-IP": "127.0.0.1"},
    "through Cloudflare": {"CF-Connecting-IP": "127.0.0.1"},
    "under a foreign name": {"Host": "evil.example"},
    "with a wrong credential": {"Authorization": "Bearer wrong"},
    "with another scheme": {"Authorization": "Basic d3Jvbmc6d3Jvbmc="},
    "with a forged session": {"Cookie": "pocketpaw_session=1:00", "X-Forwarded-For": "127.0.0.1"},
}


def path_of(route: Route, mount: str) -> str:
    return re.sub(r"{\w+}", "x", mount)


@pytest.mark.parametrize("headers", ELSEWHERE.values(), ids=ELSEWHERE)
async def test_nobody_gets_in_without_a_credential_but_from_this_machine(serve: Serve, headers: dict[str, str]) -> None:
    async with serve() as daemon, daemon.client() as client:
        for route in CLOSED:
            for mount in route.mounts:
                refused = await client.request(route.method, path_of(route, mount), headers=headers)
                assert refused.status_code == 401, f"{route.method} {mount}: {refused.text}"
                assert refused.headers["www-authenticate"] == "Bearer"
                assert set(refused.json()) == {"detail", "code"}


async def test_a_foreign_page_changes_nothing_and_reads_nothing(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        for origin in ("https://evil.example", "null", "http://127.0.0.1.evil.example"):
            for route in CLOSED:
                refused = await client.request(
                    route.method, path_of(route, route.mounts[0]), headers={"Origin": origin}
                )
                assert refused.status_code == (401 if route.method == "GET" else 403), f"{route.method} {route.path}"
            login = await client.post(
                "/api/v1/auth/login", json={"token": daemon.live.access_token}, headers={"Origin": origin}
            )
            assert login.status_code == 403


async def test_what_is_beside_an_open_path_is_closed(serve: Serve) -> None:
    async with serve() as daemon, daemon.stranger() as client:
        for route in OPEN:
            for mount in route.mounts:
                path = path_of(route, mount)
                for beside in (path + "x", path + "/", path + "/..;/settings", path.upper()):
                    refused = await client.request(route.method, beside)
                    assert refused.status_code == 401, beside
            refused = await client.request("PATCH", path_of(route, route.mounts[0]))
            assert refused.status_code == 401, route.path


async def test_open_paths_are_open_to_strangers(serve: Serve) -> None:
    async with serve() as daemon, daemon.stranger() as client:
        for route in OPEN:
            if route.bucket == "api":
                answer = await client.request(route.method, path_of(route, route.mounts[0]))
                assert answer.status_code in {200, 204, 501, 503}, f"{route.path}: {answer.text[:200]}"


async def test_a_credential_without_the_scope_is_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketpaw.actors.access.guard.MASTER", Principal("narrow", frozenset({"kits"})))
    async with serve() as daemon, daemon.stranger(daemon.live.access_token) as client:
        for route in CLOSED:
            if route.scope not in {None, "kits"}:
                refused = await client.request(route.method, path_of(route, route.mounts[0]))
                assert refused.status_code == 403, route.path
                assert refused.json() == {"detail": f"Missing required scope: {route.scope}", "code": "forbidden"}
        assert (await client.get("/api/v1/kits")).status_code == 200
        assert (await client.get("/api/v1/version")).status_code == 200


async def test_every_way_to_bring_a_credential(serve: Serve) -> None:
    async with serve() as daemon, daemon.stranger() as client:
        token = daemon.live.access_token
        session = (await client.post("/api/v1/auth/session", headers={"Authorization": f"Bearer {token}"})).json()
        assert session["expires_in_hours"] == 24
        for credential in (token, session["session_token"]):
            bearer = await client.get("/api/v1/settings", headers={"Authorization": f"bearer {credential}"})
            query = await client.get("/api/v1/settings", params={"token": credential})
            assert (bearer.status_code, query.status_code) == (200, 200)
        cookie = {"Cookie": f"a=b; pocketpaw_session={session['session_token']}; c"}
        assert (await client.get("/api/v1/settings", headers=cookie)).status_code == 200


async def test_login_gives_a_cookie_and_logout_takes_it_away(serve: Serve) -> None:
    async with serve() as daemon, daemon.stranger() as client:
        wrong = await client.post("/api/v1/auth/login", json={"token": "wrong"})
        assert (wrong.status_code, wrong.json()["code"]) == (401, "unauthenticated")
        login = await client.post("/api/auth/login", json={"token": daemon.live.access_token})
        assert login.json() == {"ok": True}
        cookie = login.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=86400"} <= set(cookie.split("; "))
        assert (await client.get("/api/v1/settings")).status_code == 200
        kept = client.cookies["pocketpaw_session"]
        logout = await client.post("/api/v1/auth/logout")
        assert logout.json() == {"ok": True}
        assert "Max-Age=0" in logout.headers["set-cookie"]
        again = await client.get("/api/v1/settings", headers={"Cookie": f"pocketpaw_session={kept}"})
        assert again.status_code == 401


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"email": "ann@example.org", "password": "x"}, 501),
        ({}, 422),
        ({"token": 7}, 422),
        ({"token": "x" * 2000}, 422),
    ],
)
async def test_other_logins_are_told_what_is_wrong(serve: Serve, form: dict[str, object], status: int) -> None:
    async with serve() as daemon, daemon.stranger() as client:
        assert (await client.post("/api/v1/auth/login", json=form)).status_code == status


async def test_a_session_cannot_make_another(serve: Serve) -> None:
    async with serve() as daemon, daemon.stranger(daemon.live.access_token) as client:
        session = (await client.post("/api/v1/auth/session")).json()["session_token"]
        refused = await client.post("/api/v1/auth/session", headers={"Authorization": f"Bearer {session}"})
        assert refused.status_code == 403


async def test_a_limited_client_is_told_how_much_is_left_and_when_to_come_back(serve: Serve) -> None:
    async with serve(api_rate_limit_per_key=30) as daemon, daemon.client() as client:
        first = await client.get("/api/v1/version")
        limit = int(first.headers["x-ratelimit-limit"])
        assert int(first.headers["x-ratelimit-remaining"]) == limit - 1
        assert int(first.headers["x-ratelimit-reset"]) >= 1
        answers = [await client.get("/api/v1/version") for _ in range(limit)]
        refused = answers[-1]
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["x-ratelimit-remaining"] == "0"
        assert (await client.get("/health")).status_code == 200


async def test_guessing_the_token_is_limited(serve: Serve) -> None:
    async with serve(auth_rate_limit_per_peer=12) as daemon, daemon.stranger() as client:
        guesses = [await client.post("/api/v1/auth/login", json={"token": f"guess-{n}"}) for n in range(20)]
        assert [guess.status_code for guess in guesses[:2]] == [401, 401]
        assert {guess.status_code for guess in guesses[10:]} == {429}


async def test_without_the_guard_nobody_gets_in(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        del daemon.system.nodes["guard"]
        refused: httpx2.Response = await client.get("/api/v1/settings")
        assert refused.status_code >= 400
        assert (await client.get("/health/live")).status_code == 200

from __future__ import annotations

import pytest
from pocketpaw.http.metrics import ROUTES
from pocketpaw.http.route import PREFIXES

from .conftest import Serve


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_the_systems_figures_have_the_contracts_fields(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        body = (await client.get(f"{prefix}/metrics/system")).json()
        assert {"cpu", "memory", "disk", "battery", "process"} <= body.keys()
        assert body["cpu"].keys() == {"percent", "count"}
        assert body["process"].keys() == {"rss_bytes", "threads", "uptime_seconds"}


async def test_usage_is_told_listed_and_reset_and_turns_go_on(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        await client.post("/api/v1/chat", json={"content": "hi", "session_id": "s-1"})
        usage = (await client.get("/api/v1/metrics/usage")).json()
        assert usage == {
            "total_tokens": 12,
            "input_tokens": 7,
            "output_tokens": 5,
            "cost_usd": 0.0,
            "requests": 1,
            "by_model": {"scripted": usage["by_model"]["scripted"]},
            "by_backend": {"fake": usage["by_backend"]["fake"]},
        }
        (record,) = (await client.get("/api/v1/metrics/usage/recent")).json()
        assert (record["model"], record["total_tokens"], record["session_id"]) == ("scripted", 12, "s-1")
        assert (await client.delete("/api/v1/metrics/usage")).json() == {"status": "ok"}
        assert (await client.get("/api/v1/metrics/usage")).json()["requests"] == 0
        assert (await client.get("/api/v1/metrics/usage/recent")).json() == []
        history = (await client.get("/api/v1/sessions/s-1/history")).json()
        assert [one["role"] for one in history] == ["user", "assistant"]
        again = await client.post("/api/v1/chat", json={"content": "hi", "session_id": "s-1"})
        assert again.json()["usage"]["total_tokens"] == 12
        assert (await client.get("/api/v1/metrics/usage")).json()["requests"] == 1


@pytest.mark.parametrize(
    ("since", "status"),
    [
        ("2020-01-01T00:00:00Z", 200),
        ("2020-01-01T00:00:00+02:00", 200),
        ("2020-01-01T00:00:00", 422),
        ("0001-01-01T00:00:00+14:00", 422),
        ("yesterday", 422),
    ],
)
async def test_usage_since_a_time_needs_one_with_its_zone(serve: Serve, since: str, status: int) -> None:
    async with serve() as daemon, daemon.client() as client:
        response = await client.get("/api/v1/metrics/usage", params={"since": since})
        assert response.status_code == status
        if status == 422:
            assert response.json()["detail"][0]["loc"] == ["query", "since"]


async def test_prometheus_is_told_everything_requests_included(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        for path in ("/api/v1/sessions/nosuch", "/api/sessions/other", "/api/v1/version", "/no/such/path", "/nor/this"):
            await client.get(path)
        response = await client.get("/metrics")
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        lines = response.text.splitlines()
        requests = "pocketpaw_http_requests_total"
        assert f'{requests}{{method="GET",route="/api/v1/sessions/{{session_id}}",status="404"}} 2' in lines
        assert f'{requests}{{method="GET",route="/api/v1/version",status="200"}} 1' in lines
        assert f'{requests}{{method="",route="",status="404"}} 2' in lines
        assert "pocketpaw_store_up 1" in lines
        assert 'pocketpaw_actor_restarts_total{actor="http"} 0' in lines
        assert (
            f'{requests}{{method="GET",route="/metrics",status="200"}} 1'
            in (await client.get("/metrics")).text.splitlines()
        )


async def test_figures_are_for_those_who_may_see_them(serve: Serve) -> None:
    assert {route.scope for route in ROUTES if route.method == "GET"} == {"metrics"}
    assert {route.scope for route in ROUTES if route.method != "GET"} == {"admin"}
    async with serve() as daemon, daemon.stranger() as stranger:
        for route in ROUTES:
            assert (await stranger.request(route.method, route.mounts[0])).status_code == 401
        async with daemon.stranger(daemon.live.access_token) as known:
            assert (await known.get("/metrics")).status_code == 200

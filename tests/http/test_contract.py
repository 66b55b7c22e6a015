"""Every endpoint of the contract's foundation over a real socket: its fields, under both prefixes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any, cast

import httpx2
import pytest
import trio
from pocketpaw.http.route import PREFIXES
from pocketpaw.runtime.errors import InvalidInput
from structlog.testing import capture_logs

from .conftest import REPLY, Daemon, Serve, eventually

WHOLE = "".join(REPLY)

Json = dict[str, Any]


async def chat(client: httpx2.AsyncClient, content: str, session_id: str | None = None) -> Json:
    response = await client.post("/api/v1/chat", json={"content": content, "session_id": session_id})
    assert response.status_code == 200, response.text
    return cast("Json", response.json())


def is_utc(text: str) -> bool:
    offset = datetime.fromisoformat(text).utcoffset()
    return offset is not None and not offset


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_sessions(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        made = (await client.post(f"{prefix}/sessions")).json()
        assert set(made) == {"id", "title"}
        assert made["title"] == "New Chat"
        named = (await client.post(f"{prefix}/sessions", json={"title": "Ann's", "newer": 1})).json()
        assert named["title"] == "Ann's"
        said = await chat(client, "a quick question", made["id"])

        page = (await client.get(f"{prefix}/sessions", params={"limit": 1})).json()
        assert page["total"] == 2
        (newest,) = page["sessions"]
        fields = {"id", "title", "channel", "created_at", "updated_at", "last_activity", "message_count"}
        assert set(newest) == fields
        assert (newest["id"], newest["message_count"]) == (said["session_id"], 2)
        assert is_utc(newest["created_at"])
        assert (await client.get(f"{prefix}/sessions/{made['id']}")).json() == newest

        assert (await client.post(f"{prefix}/sessions/{made['id']}/title", json={"title": "Foxes"})).json() == {
            "status": "ok"
        }
        (found,) = (await client.get(f"{prefix}/sessions/search", params={"q": "question"})).json()["sessions"]
        assert set(found) == {"id", "title", "channel", "match", "match_role", "last_activity"}
        assert (found["title"], found["match"], found["match_role"]) == ("Foxes", "a quick question", "user")

        history = (await client.get(f"{prefix}/sessions/{made['id']}/history")).json()
        assert [(message["role"], message["content"]) for message in history] == [
            ("user", "a quick question"),
            ("assistant", WHOLE),
        ]
        assert all(set(message) == {"role", "content", "timestamp", "metadata"} for message in history)
        assert (await client.get(f"{prefix}/sessions/{made['id']}/messages")).json() == history
        assert (await client.get(f"{prefix}/memory/session", params={"id": made["id"]})).json() == history
        before = history[1]["metadata"]["message_id"]
        earlier = await client.get(f"{prefix}/sessions/{made['id']}/history", params={"before": before})
        assert earlier.json() == history[:1]

        assert (await client.delete(f"{prefix}/sessions/{made['id']}")).json() == {"status": "ok"}
        gone = await client.delete(f"{prefix}/sessions/{made['id']}")
        assert (gone.status_code, gone.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_session_is_exported_as_a_file(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        session_id = (await chat(client, "hello"))["session_id"]
        as_json = await client.get(f"{prefix}/sessions/{session_id}/export")
        assert as_json.headers["content-type"] == "application/json"
        assert as_json.headers["content-disposition"].startswith('attachment; filename="pocketpaw-session-')
        assert as_json.json()["message_count"] == 2
        as_text = await client.get(f"{prefix}/sessions/{session_id}/export", params={"format": "md"})
        assert as_text.headers["content-type"] == "text/markdown; charset=utf-8"
        assert WHOLE in as_text.text
        assert (await client.get(f"{prefix}/sessions/{session_id}/export", params={"format": "pdf"})).status_code == 422
        assert (await client.get(f"{prefix}/sessions/nosuch/export")).status_code == 404


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_health(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        version = (await client.get(f"{prefix}/version")).json()
        assert set(version) == {"version", "python", "agent_backend", "backends"}
        assert version["agent_backend"] == "embedded"
        checked = (await client.post(f"{prefix}/health/check")).json()
        assert {"status", "check_count", "issues", "last_check"} <= set(checked)
        assert checked["status"] in {"healthy", "degraded", "unhealthy"}
        assert is_utc(checked["last_check"])
        assert (await client.get(f"{prefix}/health")).json() == checked
        assert (await client.get(f"{prefix}/health/errors", params={"search": "x", "offset": 1})).json() == []
        assert (await client.delete(f"{prefix}/health/errors")).json() == {"status": "ok"}


async def test_probes_need_no_prefix(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        await client.post("/api/v1/health/check")
        assert (await client.get("/health")).json().keys() == {"status"}
        detailed = (await client.get("/health/detailed")).json()
        assert set(detailed) == {"status", "services"}
        assert all(set(service) == {"status", "latency_ms"} for service in detailed["services"].values())
        ready, live = await client.get("/health/ready"), await client.get("/health/live")
        assert (ready.status_code, ready.json()["status"]) == (200, "ready")
        assert (live.status_code, live.json()) == (200, {"status": "alive"})


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_settings(serve: Serve, prefix: str) -> None:
    async with serve(openai_compatible_api_key="sk-secret-1234567890") as daemon, daemon.client() as client:
        shown = (await client.get(f"{prefix}/settings")).json()
        assert shown["web_host"] == "127.0.0.1"
        assert "secret" not in shown["openai_compatible_api_key"]
        changed = await client.put(f"{prefix}/settings", json={"settings": {"tool_profile": "minimal"}})
        assert (changed.json()["status"], changed.json()["updated"]) == ("ok", ["tool_profile"])
        flat = await client.put(f"{prefix}/settings", json={"tool_profile": "coding"})
        assert flat.json()["updated"] == ["tool_profile"]
        assert (await client.get(f"{prefix}/settings")).json()["tool_profile"] == "coding"
        for wrong in ({"nosuch": 1}, {"tool_profile": "huge"}, {"settings": {"web_port": "x"}}):
            refused = await client.put(f"{prefix}/settings", json=wrong)
            assert refused.status_code == 422, refused.text
            assert refused.json()["detail"][0]["loc"][0] == "body"


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_the_runtime_is_shown_as_it_is(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        tree = (await client.get(f"{prefix}/runtime/tree")).json()
        assert {"name", "kind", "state", "strategy", "restarts", "uptime_seconds", "children"} <= set(tree)
        assert "http" in {child["name"] for child in tree["children"]}
        writer = (await client.get(f"{prefix}/runtime/actors/store/writer")).json()
        assert writer["node"]["kind"] == "thread"
        assert set(writer["node"]["mailbox"]) == {"depth", "capacity"}
        assert (await client.get(f"{prefix}/runtime/actors/no/such")).status_code == 404
        restarted = await client.post(f"{prefix}/runtime/actors/models/router/restart")
        assert restarted.status_code == 200, restarted.text
        after = (await client.get(f"{prefix}/runtime/actors/models/router")).json()
        assert after["node"]["incarnation"] == 2
        daemon.system.dead_letters.add("nobody", "Ping", "dead")
        letters = (await client.get(f"{prefix}/runtime/dead-letters", params={"limit": 1})).json()
        assert set(letters[0]) == {"to", "message_type", "reason", "timestamp"}


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_what_the_agents_do_is_shown(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        idle = (await client.get(f"{prefix}/agent/status")).json()
        assert set(idle["global"]) == {"state", "active_sessions", "max_concurrent", "uptime_seconds"}
        daemon.model.hold()
        async with client.stream("POST", f"{prefix}/chat/stream", json={"content": "hi", "session_id": "s-1"}):
            busy = (await client.get(f"{prefix}/agent/status")).json()
        (session,) = busy["sessions"]
        assert session["session_id"] == "s-1"
        assert {"session_key", "channel", "title", "state", "tool_name", "duration_seconds"} <= set(session)
        assert {"token_usage", "error_message"} <= set(session)
        await client.post(f"{prefix}/chat/stop", params={"session_id": "s-1"})


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_what_is_not_built_says_so(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        refused = await client.post(f"{prefix}/agents/7/pause", json={})
        assert refused.status_code == 501
        assert refused.json() == {"detail": "POST /agents/{agent_id}/pause is not built yet", "code": "not_built"}


async def test_nothing_is_found_where_nothing_is(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        for path in (
            "/",
            "/api",
            "/api/v1/",
            "/api/v1/nosuch",
            "/api/v1/sessions/",
            "//api/v1/sessions",
            "/api/v2/health",
        ):
            nothing = await client.get(path)
            assert (nothing.status_code, nothing.json()["code"]) == (404, "not_found"), path


async def test_a_wrong_method_is_told_the_right_ones(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        refused = await client.put("/api/v1/sessions", json={})
        assert (refused.status_code, refused.json()["code"]) == (405, "method_not_allowed")
        assert {"GET", "POST"} <= set(refused.headers["allow"].split(", "))


async def test_head_is_get_without_the_body(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        for path in ("/api/v1/version", "/api/v1/events/stream"):
            with trio.fail_after(2):
                head = await client.head(path)
            assert (head.status_code, head.content) == (200, b"")


async def test_a_body_over_the_limit_is_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketpaw.http.call.BODY_LIMIT_BYTES", 1024 * 1024)
    async with serve() as daemon, daemon.client() as client:
        announced = await client.post("/api/v1/chat", json={"content": "x" * 1024 * 1024})

        async def chunks() -> AsyncGenerator[bytes]:
            for _ in range(20):
                yield b"x" * 100_000

        unannounced = await client.post("/api/v1/chat", content=chunks(), headers={"Content-Type": "application/json"})
        for refused in (announced, unannounced):
            assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
        assert (await chat(client, "hi"))["content"] == WHOLE


async def test_another_content_type_is_refused(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        refused = await client.post("/api/v1/chat", data={"content": "hi"})
        assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_media")


async def test_every_response_has_the_requests_id(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        for path in ("/api/v1/version", "/api/v1/nosuch", "/api/v1/sessions?limit=0", "/health", "/api/v1/docs"):
            named = await client.get(path, headers={"X-Request-ID": "req-1"})
            assert named.headers["x-request-id"] == "req-1", path
            made = (await client.get(path)).headers["x-request-id"]
            assert len(made) == 16, path
        forged = await client.get("/api/v1/version", headers={"X-Request-ID": "no spaces please"})
        assert forged.headers["x-request-id"] != "no spaces please"


async def test_what_nobody_expected_is_500_with_the_request_id_and_no_traceback(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret inside")

    async with serve() as daemon, daemon.client() as client:
        monkeypatch.setattr("pocketpaw.http.health.configured", fail)

        async def is_recorded() -> bool:
            return bool((await client.get("/api/v1/health/errors")).json())

        with capture_logs() as logged:
            broken = await client.get("/api/v1/version", headers={"X-Request-ID": "req-7"})
            await eventually(is_recorded)
        assert (broken.status_code, broken.json()["code"]) == (500, "internal_error")
        assert broken.json()["request_id"] == broken.headers["x-request-id"] == "req-7"
        assert "secret" not in broken.text
        errors = (await client.get("/api/v1/health/errors")).json()
        assert errors[0]["source"] == "http"
        assert errors[0]["context"] == {"request_id": "req-7"}
        assert "RuntimeError: secret inside" in errors[0]["traceback"]
        (line,) = (line for line in logged if line["log_level"] == "error")
        assert "RuntimeError: secret inside" in line["exception"]


async def test_the_field_that_an_actor_refuses_is_named_where_the_client_put_it(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        session_id = (await chat(client, "hi"))["session_id"]
        refused = await client.get(f"/api/v1/sessions/{session_id}/history", params={"before": "yesterday"})
        assert refused.status_code == 422
        assert refused.json()["detail"][0]["loc"] == ["query", "before"]
        assert refused.json()["code"] == InvalidInput.code


async def test_pages_of_an_allowed_origin_may_read_and_others_may_not(serve: Serve) -> None:
    origin = "https://paw.example"
    async with serve(api_cors_allowed_origins=[origin]) as daemon, daemon.client() as client:
        asked = {"Origin": origin, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "x"}
        preflight = await client.options("/api/v1/settings", headers=asked)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == origin
        assert "PUT" in preflight.headers["access-control-allow-methods"]
        assert "Authorization" in preflight.headers["access-control-allow-headers"]
        read = await client.get("/api/v1/version", headers={"Origin": origin})
        assert read.headers["access-control-allow-origin"] == origin
        assert "Retry-After" in read.headers["access-control-expose-headers"]
        assert read.headers["vary"] == "Origin"
        refused = await client.options("/api/v1/settings", headers={**asked, "Origin": "https://evil.example"})
        assert not [name for name in refused.headers if name.startswith("access-control")]
        foreign = await client.get("/api/v1/version", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in foreign.headers


async def test_a_restart_of_the_listener_serves_again_and_touches_nobody_else(serve: Serve) -> None:
    async with serve() as daemon:
        before = numbers(daemon)
        async with daemon.client() as client:
            await client.post("/api/v1/runtime/actors/http/restart")

        async def is_bound_again() -> bool:
            return len(daemon.urls) > 1

        await eventually(is_bound_again)
        async with daemon.client() as client:
            assert (await client.get("/health")).status_code == 200
        assert numbers(daemon) == {**before, "http": before["http"] + 1}


def numbers(daemon: Daemon) -> dict[str, int]:
    return {path: node.number for path, node in daemon.system.nodes.items()}

"""Channels through the API; what they do with their platforms is in tests/actors/channels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pocketpaw.http.route import PREFIXES

from ..fakes.telegram_server import fake_telegram
from .conftest import Serve, eventually

NAMES = {"discord", "slack", "whatsapp", "telegram", "signal", "matrix", "teams", "google_chat"}
SETTABLE = {"bot_token": "1:secret-of-the-bot", "allowed_user_id": 42}


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_each_channel_says_how_it_is(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        status: dict[str, dict[str, Any]] = (await client.get(f"{prefix}/channels/status")).raise_for_status().json()
    assert set(status) == NAMES
    for name, channel in status.items():
        assert (channel["configured"], channel["running"], channel["autostart"]) == (False, False, True), name
        assert (channel["restarts"], channel["state"]) == (0, "off")
    assert status["whatsapp"]["mode"] == ""


async def test_a_channel_is_set_up_and_runs(serve: Serve) -> None:
    async with fake_telegram() as telegram, serve() as daemon, daemon.client() as client:
        config = {"bot_token": telegram.token, "telegram_api_url": telegram.url, "allowed_user_id": 42}
        body = {"channel": "telegram", "config": config}
        assert (await client.post("/api/v1/channels/save", json=body)).json() == {"status": "ok"}

        async def is_running() -> bool:
            status = (await client.get("/api/v1/channels/status")).json()["telegram"]
            return bool(status["running"])

        await eventually(is_running)
        telegram.say("hello")
        assert (await telegram.wait_for(1))[0].text == "the quick brown fox jumps."
        stop = {"channel": "telegram", "action": "stop"}
        stopped = (await client.post("/api/v1/channels/toggle", json=stop)).json()
        assert stopped == {"channel": "telegram", "configured": True, "running": False}
        assert not await is_running()
        told = await client.get("/api/v1/telegram/status")
        assert told.json() == {"configured": True, "user_id": "42"}
        shown = await client.get("/api/v1/settings")
        assert telegram.token not in shown.text


async def test_what_cannot_be_saved_is_named_and_nothing_is(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        for channel, config, place in (
            ("telegram", {**SETTABLE, "web_host": "0.0.0.0"}, ["body", "config", "web_host"]),
            ("telegram", {**SETTABLE, "discord_bot_token": "x"}, ["body", "config", "discord_bot_token"]),
            ("telegram", {"autostart": "maybe"}, ["body", "config", "autostart"]),
        ):
            answer = await client.post("/api/v1/channels/save", json={"channel": channel, "config": config})
            assert answer.status_code == 422, answer.text
            assert answer.json()["detail"][0]["loc"] == place
        bad = {"channel": "telegram", "config": {"allowed_user_id": "everybody"}}
        assert (await client.post("/api/v1/channels/save", json=bad)).status_code == 422
        assert (await client.post("/api/v1/channels/save", json={"channel": "icq", "config": {}})).status_code == 404
        assert not (await client.get("/api/v1/channels/status")).json()["telegram"]["configured"]


async def test_autostart_is_saved_beside_that_of_others(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        for channel in ("slack", "gchat"):
            body = {"channel": channel, "config": {"autostart": False}}
            assert (await client.post("/api/v1/channels/save", json=body)).status_code == 200
        status = (await client.get("/api/v1/channels/status")).json()
        assert {name for name, channel in status.items() if not channel["autostart"]} == {"slack", "google_chat"}


@pytest.mark.parametrize(
    ("channel", "action", "status"),
    [("telegram", "start", 400), ("telegram", "stop", 400), ("matrix", "start", 501), ("icq", "start", 404)],
)
async def test_a_channel_that_cannot_be_switched_says_why(serve: Serve, channel: str, action: str, status: int) -> None:
    async with serve() as daemon, daemon.client() as client:
        answer = await client.post("/api/v1/channels/toggle", json={"channel": channel, "action": action})
        assert answer.status_code == status
        assert channel in answer.json()["detail"].lower()


async def test_no_code_is_made_for_a_channel_that_hears_nobody(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        answer = await client.post("/api/v1/channels/pairings", json={"channel": "matrix"})
        assert (answer.status_code, "not built" in answer.json()["detail"]) == (501, True)


async def test_people_are_paired_and_unpaired(serve: Serve) -> None:
    async with fake_telegram() as telegram:
        settings = {"telegram_bot_token": telegram.token, "telegram_api_url": telegram.url}
        async with serve(**settings) as daemon, daemon.client() as client:
            made = (await client.post("/api/v1/channels/pairings", json={"channel": "telegram"})).json()
            assert (await client.get("/api/v1/telegram/pairing-status")).json() == {"paired": False, "user_id": None}
            telegram.say(f"/start {made['code']}", chat=77)
            assert "paired" in (await telegram.wait_for(1))[0].text
            assert (await client.get("/api/v1/telegram/pairing-status")).json() == {"paired": True, "user_id": "77"}
            (pairing,) = (await client.get("/api/v1/channels/pairings")).json()["pairings"]
            assert (pairing["channel"], pairing["sender"], pairing["name"]) == ("telegram", "77", "P77")
            assert made["code"] not in json.dumps(pairing)
            audit = (await client.get("/api/v1/audit")).text
            assert "P77 was paired on Telegram" in audit
            assert made["code"] not in audit
            ended = await client.delete("/api/v1/channels/pairings/telegram/77")
            assert ended.json() == {"status": "ok"}
            assert (await client.delete("/api/v1/channels/pairings/telegram/77")).status_code == 404
            telegram.say("and now?", chat=77)
            assert "only talk with people" in (await telegram.wait_for(2))[1].text


async def test_the_code_is_kept_by_its_digest_only(serve: Serve, tmp_path: Path) -> None:
    async with serve() as daemon, daemon.client() as client:
        code = (await client.post("/api/v1/channels/pairings", json={"channel": "telegram"})).json()["code"]
        files = [path for path in daemon.live.home.root.rglob("*") if path.is_file()]
        assert files
        assert not any(code.replace("-", "").encode() in path.read_bytes() for path in files)


async def test_a_key_lets_nobody_in_who_would_have_more_than_it_has(serve: Serve) -> None:
    settings = {"channel_scopes": ["chat", "memory"], "telegram_bot_token": "1:x"}
    async with serve() as daemon, daemon.client() as client:
        (await client.put("/api/v1/settings", json=settings)).raise_for_status()
        keys: dict[str, str] = {}
        for name, scopes in {
            "narrow": ["channels", "settings:write", "chat"],
            "wide": ["channels", "settings:write", "chat", "memory"],
        }.items():
            made = await client.post("/api/v1/auth/api-keys", json={"name": name, "scopes": scopes})
            keys[name] = made.json()["key"]

        def save(**config: object) -> tuple[str, str, dict[str, object]]:
            return "POST", "/channels/save", {"channel": "telegram", "config": config}

        pair = ("POST", "/channels/pairings", {"channel": "telegram"})
        widening = [
            pair,
            save(allowed_user_id=66),
            save(api_url="http://127.0.0.1:9"),  # who speaks for the platform is whoever they say they are
            ("PUT", "/settings", {"discord_bot_token": "x"}),
        ]
        async with daemon.stranger(keys["narrow"]) as narrow, daemon.stranger(keys["wide"]) as wide:
            for method, path, body in widening:
                refused = await narrow.request(method, f"/api/v1{path}", json=body)
                assert (refused.status_code, "memory" in refused.json()["detail"]) == (403, True), (path, refused.text)
                done = await wide.request(method, f"/api/v1{path}", json=body)
                assert done.status_code == 200, done.text
            more = {"channel_scopes": ["chat", "memory", "admin"]}
            assert (await wide.put("/api/v1/settings", json=more)).status_code == 403
            less: dict[str, object] = {"channel_scopes": ["chat"]}
            method, path, body = save(autostart=False)
            assert (await narrow.request(method, f"/api/v1{path}", json=body)).status_code == 200
            assert (await narrow.put("/api/v1/settings", json=less)).status_code == 200
            assert (await wide.put("/api/v1/settings", json={"channel_scopes": None})).status_code == 403
        assert daemon.live.current.channel_scopes == ("chat",)

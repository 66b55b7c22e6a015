"""Webhooks over real sockets: how they are managed, who gets through, and what is answered."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncGenerator
from typing import Any, cast

import httpx2
import pytest
import trio
from pocketpaw.http.route import PREFIXES
from pocketpaw.storage.turns import GetTurn

from .conftest import REPLY, Serve, eventually

Json = dict[str, Any]
WHOLE = "".join(REPLY)
INBOUND = "/webhook/inbound/door"


async def add(client: httpx2.AsyncClient, name: str = "door", **fields: object) -> Json:
    made = await client.post("/api/v1/webhooks/add", json={"name": name, **fields})
    assert made.status_code == 200, made.text
    return cast("Json", made.json()["webhook"])


def shown(made: Json) -> dict[str, str]:
    return {"X-Webhook-Secret": made["secret"]}


def signed(made: Json, body: bytes) -> dict[str, str]:
    return {"X-Webhook-Signature": hmac.new(made["secret"].encode(), body, hashlib.sha256).hexdigest()}


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_webhooks_are_made_listed_and_removed(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        assert (await client.get(f"{prefix}/webhooks")).json() == {"webhooks": []}
        made = (await client.post(f"{prefix}/webhooks/add", json={"name": "door", "description": "d"})).json()
        webhook = made["webhook"]
        url = f"{daemon.url}{INBOUND}"
        rest = {"name": "door", "description": "d", "sync_timeout": 30, "url": url}
        assert made == {"status": "ok", "webhook": {**rest, "secret": webhook["secret"]}}
        assert len(webhook["secret"]) == 43
        masked = {**rest, "secret": f"…{webhook['secret'][-4:]}"}
        assert (await client.get(f"{prefix}/webhooks")).json() == {"webhooks": [masked]}
        again = (await client.post(f"{prefix}/webhooks/regenerate-secret", json={"name": "door"})).json()
        assert again == {"status": "ok", "webhook": {**rest, "secret": again["webhook"]["secret"]}}
        assert again["webhook"]["secret"] != webhook["secret"]
        taken = await client.post(f"{prefix}/webhooks/add", json={"name": "door"})
        assert (taken.status_code, taken.json()["code"]) == (409, "conflict")
        assert (await client.post(f"{prefix}/webhooks/remove", json={"name": "door"})).json() == {"status": "ok"}
        for path in ("remove", "regenerate-secret"):
            assert (await client.post(f"{prefix}/webhooks/{path}", json={"name": "door"})).status_code == 404


async def test_a_webhook_that_cannot_be_is_refused_by_field(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        for body, field in (
            ({}, "name"),
            ({"name": ""}, "name"),
            ({"name": "a b"}, "name"),
            ({"name": "a/b"}, "name"),
            ({"name": "a\n"}, "name"),
            ({"name": "x" * 65}, "name"),
            ({"name": "a", "sync_timeout": 0}, "sync_timeout"),
            ({"name": "a", "sync_timeout": 601}, "sync_timeout"),
            ({"name": "a", "description": "x" * 1001}, "description"),
        ):
            refused = await client.post("/api/v1/webhooks/add", json=body)
            assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["body", field]), body


async def test_its_address_is_the_one_by_which_it_is_seen(serve: Serve) -> None:
    async with serve() as daemon, daemon.stranger(daemon.live.access_token) as client:
        client.headers |= {"Host": "paw.example", "X-Forwarded-Proto": "https"}
        assert (await add(client))["url"] == f"https://paw.example{INBOUND}"


@pytest.mark.parametrize("body", [b'{"who":"ann"}', b"plain", b"", b"\xff\xfe"])
async def test_a_call_from_anywhere_is_accepted_once_it_is_on_disk(serve: Serve, body: bytes) -> None:
    async with serve() as daemon, daemon.client() as client, daemon.stranger() as caller:
        made = await add(client)
        for headers in (shown(made), signed(made, body), {**signed(made, body), "Content-Type": "text/x-odd"}):
            accepted = await caller.post(INBOUND, content=body, headers=headers)
            assert accepted.status_code == 202, accepted.text
            assert accepted.json().keys() == {"status", "request_id"}
            assert accepted.json()["status"] == "accepted"
            turn = await daemon.system.ask(GetTurn(turn_id=accepted.json()["request_id"]))
            assert (turn.session_id, turn.provenance) == ("webhook:door", ["webhook door"])
            assert (turn.principal, turn.scopes) == ("webhook:door", ["chat"])


async def test_githubs_delivery_is_taken_once(serve: Serve) -> None:
    body = json.dumps({"action": "opened"}).encode()
    async with serve() as daemon, daemon.client() as client, daemon.stranger() as caller:
        made = await add(client)
        signature = f"sha256={signed(made, body)['X-Webhook-Signature']}"
        headers = {"X-Hub-Signature-256": signature, "X-GitHub-Delivery": "d-1", "X-GitHub-Event": "issues"}
        first, again = [await caller.post(f"{INBOUND}?wait=true", content=body, headers=headers) for _ in range(2)]
        assert first.json() == again.json() == {"status": "ok", "response": WHOLE}
        assert (await caller.post(INBOUND, content=body, headers=headers)).status_code == 202
        changed = await caller.post(INBOUND, content=b"{}", headers={**shown(made), "X-GitHub-Delivery": "d-1"})
        assert changed.status_code == 409
        (asked,) = daemon.model.asked
        assert "event: issues\n" in asked
        history = (await client.get("/api/v1/sessions/webhook:door/history")).json()
        assert [message["role"] for message in history] == ["user", "assistant"]


async def test_whoever_has_no_secret_hears_the_same_whether_there_is_such_a_webhook_or_not(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        made = await add(client)
        answers = [
            await client.post(f"/webhook/inbound/{name}", content=b"hi", headers=headers)
            for name in ("door", "nosuch", "a%20b", "a%00b", "x" * 5000)
            for headers in ({}, {"X-Webhook-Secret": "wrong"}, {"X-Webhook-Signature": "00"}, {"Authorization": "x"})
        ]
        answers.append(await client.post("/webhook/inbound/nosuch", content=b"hi", headers=shown(made)))
        answers.append(await client.post(INBOUND, content=b"hi", headers=signed(made, b"ho")))
        answers.append(await client.post(INBOUND, headers={"Authorization": f"Bearer {daemon.live.access_token}"}))
        assert {answer.status_code for answer in answers} == {401}
        assert len({answer.text for answer in answers}) == 1
        assert daemon.model.asked == []


async def test_an_old_call_is_refused(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        made = await add(client)
        headers = {"X-Webhook-Timestamp": "1000", **signed(made, b"1000.hi")}
        refused = await client.post(INBOUND, content=b"hi", headers=headers)
        assert (refused.status_code, "X-Webhook-Timestamp" in refused.text) == (401, True)


async def test_a_body_over_one_mebibyte_is_refused(serve: Serve) -> None:
    async def chunks() -> AsyncGenerator[bytes]:
        for _ in range(1025):
            yield b"x" * 1024

    async with serve() as daemon, daemon.client() as client:
        made = await add(client)
        whole = await client.post(INBOUND, content=b"x" * 1024 * 1024, headers=shown(made))
        assert whole.status_code == 202
        announced = await client.post(INBOUND, content=b"x" * (1024 * 1024 + 1), headers=shown(made))
        unannounced = await client.post(INBOUND, content=chunks(), headers=shown(made))
        for refused in (announced, unannounced):
            assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
            assert "1 MiB" in refused.json()["detail"]


async def test_a_caller_that_waits_too_long_is_told_where_the_reply_will_be(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        made = await add(client, sync_timeout=1)
        gate = daemon.model.hold()
        with trio.fail_after(5):
            late = await client.post(f"{INBOUND}?wait=true", content=b"hi", headers=shown(made))
        assert (late.status_code, late.json()["code"]) == (504, "timed_out")
        assert late.json()["session_id"] == "webhook:door"
        for _ in REPLY:
            gate.release()

        async def is_answered() -> bool:
            return (await daemon.system.ask(GetTurn(turn_id=late.json()["request_id"]))).reply == WHOLE

        await eventually(is_answered)


async def test_a_caller_that_calls_too_often_is_told_to_wait_whatever_it_brings(serve: Serve) -> None:
    limits = {"api_rate_limit_per_key": 50, "auth_rate_limit_per_peer": 12}
    async with serve(**limits) as daemon, daemon.client() as client, daemon.stranger() as caller:
        made = await add(client)
        answers = [
            await caller.post(INBOUND, content=b"hi", headers={"Authorization": f"Bearer {n}"}) for n in range(8)
        ]
        assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 3
        assert int(answers[-1].headers["Retry-After"]) >= 1
        assert (await caller.post(INBOUND, content=b"x" * 2_000_000, headers=shown(made))).status_code == 429
        with_token = {"Authorization": f"Bearer {daemon.live.access_token}"}
        assert (await caller.get("/api/v1/webhooks", headers=with_token)).status_code == 200


async def test_a_web_page_from_elsewhere_cannot_call_it(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        made = await add(client)
        refused = await client.post(INBOUND, content=b"hi", headers={**shown(made), "Origin": "https://evil.example"})
        assert refused.status_code == 403

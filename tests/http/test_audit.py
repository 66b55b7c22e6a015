"""The audit over real sockets: who did what, found again, exported, archived; and the looks at our own security."""

from __future__ import annotations

import csv
import json
from typing import Any, cast

import httpx2
import msgspec
import pytest
from pocketpaw.actors.audit.trail import RotateAudit
from pocketpaw.http.audit import Exported
from pocketpaw.http.audited import Audited
from pocketpaw.http.route import PREFIXES
from pocketpaw.http.routes import ROUTES
from pocketpaw.http.transport import ClientDisconnected
from pocketpaw.storage.audit import Act, AppendToAudit, AuditEntry, AuditHead, follow

from .conftest import Serve, eventually
from .test_routes import row, rows
from .test_websocket import connect

Json = dict[str, Any]

UNAUDITED = """
POST chat, POST chat/stream, POST chat/stop, POST chat/approve
POST sessions, POST sessions/{}/title, POST reminders, DELETE reminders/{}
POST health/check, POST /mcp
"""
"""What changes nothing that matters to security, or is entered by the store itself."""


def test_every_endpoint_that_can_change_something_is_audited() -> None:
    without = {row(route) for route in ROUTES if route.is_built and route.method != "GET" and route.audited is None}
    assert without == rows(UNAUDITED)
    reads = {row(route) for route in ROUTES if route.method == "GET" and route.audited is not None}
    assert reads == rows("GET qr")


async def audit(client: httpx2.AsyncClient, **wanted: object) -> list[Json]:
    response = await client.get("/api/v1/audit", params=cast("dict[str, str]", wanted))
    assert response.status_code == 200, response.text
    return cast("list[Json]", response.json())


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_change_is_in_the_audit_before_it_is_answered(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.stranger(daemon.live.access_token) as client:
        headers = {"X-Request-ID": "trace-7"}
        await client.put(f"{prefix}/settings", json={"anthropic_api_key": "sk-canary-1234567"}, headers=headers)
        newest = (await client.get(f"{prefix}/audit")).json()[0]
        assert set(newest) == set(AuditEntry.__struct_fields__)
        assert newest["actor"] == "master"
        assert (newest["action"], newest["category"]) == ("change_settings", "settings")
        assert newest["context"] == {"peer": "127.0.0.1", "updated": ["anthropic_api_key"]}
        assert (newest["status"], newest["trace_id"]) == ("success", "trace-7")
        assert newest["description"] == "Change settings"
        assert "canary" not in (await client.get(f"{prefix}/audit")).text


async def test_keys_and_logins_are_audited_and_none_of_their_secrets(serve: Serve) -> None:
    async with serve() as daemon, daemon.stranger(daemon.live.access_token) as client:
        made = (await client.post("/api/v1/auth/api-keys", json={"name": "k", "scopes": ["chat"]})).json()
        await client.delete(f"/api/v1/auth/api-keys/{made['id']}")
        async with daemon.stranger() as browser:
            await browser.post("/api/v1/auth/login", json={"token": "a wrong guess"})
            await browser.post("/api/v1/auth/login", json={"token": daemon.live.access_token})
        entries = await audit(client, category="auth")
        told = [(entry["action"], entry["status"], entry["actor"]) for entry in entries]
        assert told == [
            ("login", "success", "anybody"),
            ("login", "refused", "anybody"),
            ("revoke_api_key", "success", "master"),
            ("create_api_key", "success", "master"),
        ]
        assert entries[3]["context"] == {"peer": "127.0.0.1", "id": made["id"], "name": "k", "scopes": ["chat"]}
        assert entries[2]["context"]["key_id"] == made["id"]
        for secret in (made["key"], daemon.live.access_token, "a wrong guess"):
            assert secret not in json.dumps(entries)


async def test_who_was_turned_away_is_told(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        made = (await client.post("/api/v1/auth/api-keys", json={"name": "k", "scopes": ["chat"]})).json()
        async with daemon.stranger(made["key"]) as weak, daemon.stranger("pp_a-guess") as guesser:
            assert (await weak.put("/api/v1/settings", json={"log_level": "debug"})).status_code == 403
            assert (await guesser.get("/api/v1/sessions")).status_code == 401
            assert (await guesser.post("/webhook/inbound/nosuch", content=b"x")).status_code == 401

        async def all_are_there() -> bool:
            found = {(one["action"], one["actor"]) for one in await audit(client) if one["status"] == "refused"}
            return found == {
                ("change_settings", f"key:{made['id']}"),
                ("use_credential", "anybody"),
                ("call_webhook", "anybody"),
            }

        await eventually(all_are_there)
        assert "pp_a-guess" not in json.dumps(await audit(client))


async def test_a_failure_is_told_and_a_request_that_asks_for_nothing_is_not(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        assert (await client.post("/api/v1/webhooks/remove", json={"name": "nosuch"})).status_code == 404
        assert (await client.put("/api/v1/settings", json={"nosuch": 1})).status_code == 422
        (entry,) = await audit(client, actor="localhost")
        assert (entry["action"], entry["status"]) == ("remove_webhook", "failed")
        assert entry["context"] == {"peer": "127.0.0.1", "name": "nosuch", "code": "not_found"}


async def test_a_change_over_the_websocket_is_audited_like_any_other(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client, connect(daemon) as socket:
        await socket.say(action="settings", log_level="warning")
        await socket.hear_until("settings_saved")
        (entry,) = await audit(client, category="settings")
        assert (entry["actor"], entry["action"]) == ("localhost", "change_settings")
        assert entry["context"]["updated"] == ["log_level"]


async def test_the_audit_is_searched_and_paged(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        for name in ("a", "b", "c"):
            await client.post("/api/v1/webhooks/add", json={"name": name})
        assert [one["context"]["name"] for one in await audit(client, category="webhooks", limit=2)] == ["c", "b"]
        assert [one["context"]["name"] for one in await audit(client, category="webhooks", offset=2)] == ["a"]
        assert await audit(client, actor="nobody") == []
        day = (await audit(client))[0]["timestamp"][:10]
        assert len(await audit(client, category="webhooks", date_from=day, date_to=day)) == 3
        assert await audit(client, date_to="2020-01-01") == []
        for name, value in (
            ("limit", 0),
            ("limit", 501),
            ("offset", -1),
            ("date_from", "today"),
            ("date_to", "2026-02-30"),
        ):
            refused = await client.get("/api/v1/audit", params={name: str(value)})
            assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["query", name])


async def test_only_who_may_do_everything_sees_the_audit(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        made = (await client.post("/api/v1/auth/api-keys", json={"name": "k", "scopes": ["metrics"]})).json()
        async with daemon.stranger(made["key"]) as other:
            for method, path in (
                ("GET", "audit"),
                ("DELETE", "audit"),
                ("GET", "audit/export"),
                ("POST", "security-audit"),
            ):
                assert (await other.request(method, f"/api/v1/{path}")).status_code == 403


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_an_export_can_be_checked_by_whoever_has_it(serve: Serve, prefix: str) -> None:
    acts = [Act(actor="a", action="x", category="c", description=f"act {number}") for number in range(2_500)]
    async with serve() as daemon, daemon.client() as client:
        await daemon.system.ask(AppendToAudit(acts=acts))
        exported = await client.get(f"{prefix}/audit/export")
        assert exported.headers["content-type"] == "application/json"
        assert exported.headers["content-disposition"] == 'attachment; filename="pocketpaw-audit.json"'
        entries = msgspec.json.decode(exported.content, type=list[AuditEntry])
        head, problems = follow(AuditHead(), entries)
        assert head.id >= 2_500
        assert problems == []
        assert (await client.get(f"{prefix}/audit/export", params={"format": "xml"})).status_code == 422
        await daemon.system.ask(RotateAudit())
        assert (await client.get(f"{prefix}/audit/export")).json() == []
        assert len((await client.get(f"{prefix}/audit/export", params={"format": "csv"})).text.splitlines()) == 1


async def test_an_export_that_is_overtaken_by_an_archive_does_not_look_whole(serve: Serve) -> None:
    acts = [Act(actor="a", action="x", category="c", description=f"act {number}") for number in range(1_500)]
    async with serve() as daemon:
        head = await daemon.system.ask(AppendToAudit(acts=acts))
        ask_only: Any = daemon.system
        body = Exported(ask_only, 0, head.id, lambda entries, _part: msgspec.json.encode(entries))
        assert len(msgspec.json.decode(await anext(body))) == 1_000
        await daemon.system.ask(RotateAudit())
        with pytest.raises(ClientDisconnected, match="archived meanwhile"):
            await anext(body)


async def test_a_table_for_a_spreadsheet_holds_no_formula(serve: Serve) -> None:
    evil = "=cmd|'/c calc'!A1"
    async with serve() as daemon, daemon.client() as client:
        await daemon.system.ask(
            AppendToAudit(
                acts=[Act(actor=evil, action="+1", category='a "b", c', description="@x\n-y", context={"k": 1})]
            )
        )
        exported = await client.get("/api/v1/audit/export", params={"format": "csv"})
        assert exported.headers["content-type"] == "text/csv; charset=utf-8"
        head, *lines = csv.reader(exported.text.splitlines(keepends=True))
        assert head == list(AuditEntry.__struct_fields__)
        (line,) = [dict(zip(head, line, strict=True)) for line in lines if evil in line[2]]
        assert (line["actor"], line["action"], line["description"]) == (f"'{evil}", "'+1", "'@x\n-y")
        assert (line["category"], line["context"], line["status"]) == ('a "b", c', '{"k":1}', "success")


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_an_archive_takes_everything_and_the_next_entry_says_so(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        await client.post("/api/v1/webhooks/add", json={"name": "door"})
        before = await audit(client)
        archived = (await client.delete(f"{prefix}/audit")).json()
        assert set(archived) == {"status", "entries", "file"}
        assert archived["entries"] == len(before)
        (entry,) = await audit(client)
        assert (entry["action"], entry["status"]) == ("rotate_audit", "success")
        assert entry["context"]["file"] == archived["file"]
        assert int(entry["id"]) == int(before[0]["id"]) + 1


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_security_audit_says_what_it_saw_and_mends_what_it_can(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        daemon.live.home.root.chmod(0o755)
        daemon.live.home.access_token.chmod(0o644)
        await client.put("/api/v1/settings", json={"log_level": "debug"})
        report = (await client.post(f"{prefix}/security-audit")).json()
        results = {result["check"]: result for result in report["results"]}
        assert set(report["results"][0]) == {"check", "passed", "message", "fixable"}
        assert report["total"] == len(results) == report["passed"] + report["issues"]
        mendable = {"Home folder", "Files with secrets", "Log"}
        for name in mendable:
            assert (results[name]["passed"], results[name]["fixable"]) == (False, True), name
        assert "access_token" in results["Files with secrets"]["message"]
        assert results["Audit"]["passed"]
        assert not results["Audit"]["fixable"]

        mended = (await client.post(f"{prefix}/security-audit", json={"fix": True})).json()
        assert mendable <= set(mended["fixed"])
        assert all(result["passed"] for result in mended["results"] if result["check"] in mendable)
        assert daemon.live.home.root.stat().st_mode & 0o777 == 0o700
        assert daemon.live.home.access_token.stat().st_mode & 0o777 == 0o600
        assert daemon.live.current.log_level == "info"


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_self_audit_is_kept_for_its_day(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        assert (await client.get(f"{prefix}/self-audit/reports")).json() == []
        assert (await client.post(f"{prefix}/self-audit/run")).status_code == 200
        made = (await client.post(f"{prefix}/self-audit/run")).json()
        assert {"date", "total", "passed", "issues", "checks"} <= set(made)
        assert set(made["checks"][0]) == {"name", "passed", "message", "severity"}
        names = {check["name"] for check in made["checks"]}
        assert {"Audit", "Storage", "Schedule", "Scheduled jobs", "Access token", "Home folder"} <= names
        summary = {name: made[name] for name in ("date", "total", "passed", "issues")}
        assert (await client.get(f"{prefix}/self-audit/reports")).json() == [summary]
        assert (await client.get(f"{prefix}/self-audit/reports/{made['date']}")).json() == made
        assert (await client.get(f"{prefix}/self-audit/reports/2020-01-01")).status_code == 404
        for bad in ("2026-13-01", "2026-02-30", "yesterday", "2026-1-1", "2026-01-01%0A"):
            assert (await client.get(f"{prefix}/self-audit/reports/{bad}")).status_code == 422


def test_an_endpoint_may_say_how_it_is_audited() -> None:
    by_row = {row(route): route.audited for route in ROUTES}
    assert by_row["PUT settings"] == Audited("settings")
    assert by_row["POST token/regenerate"] == Audited("auth")
    assert by_row["POST /webhook/inbound/{}"] == Audited("webhooks", refusals_only=True)

from __future__ import annotations

from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
from pocketpaw.actors.access.guard import CreateLoginCode
from pocketpaw.http import qr
from pocketpaw.http.route import PREFIXES
from structlog.testing import capture_logs

from ..fakes.cloudflared import place
from .conftest import Serve
from .consent import Form

MASTER_ONLY = {"localhost_auth_bypass": False}


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the QR codes say that are made in this test."""
    made: list[str] = []
    draw = qr._png  # pyright: ignore[reportPrivateUsage] there is nothing here that reads the image

    def remember(link: str) -> bytes:
        made.append(link)
        return draw(link)

    monkeypatch.setattr(qr, "_png", remember)
    return made


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_scanned_code_logs_one_browser_in_once(serve: Serve, links: list[str], prefix: str) -> None:
    async with serve() as daemon, daemon.stranger(daemon.live.access_token) as operator:
        image = await operator.get(f"{prefix}/qr")
        assert (image.status_code, image.headers["content-type"]) == (200, "image/png")
        assert image.content.startswith(b"\x89PNG\r\n")
        assert image.headers["cache-control"] == "no-store"
        (link,) = links
        assert link.startswith(f"{daemon.url}/api/v1/auth/qr?code=")
        async with daemon.stranger() as phone:
            preview, page = await phone.get(link), await phone.get(link)
            assert preview.text == page.text  # which has used nothing up
            assert (page.status_code, page.headers["x-frame-options"]) == (200, "DENY")
            assert "set-cookie" not in page.headers
            form = Form(page.text)
            target = urljoin(str(page.url), form.action)
            assert (await phone.get("/api/v1/settings")).status_code == 401
            done = await phone.post(target, data=form.fields, headers={"Origin": daemon.url})
            assert done.status_code == 200
            cookie = done.headers["set-cookie"]
            assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
            assert (await phone.get("/api/v1/settings")).status_code == 200
        async with daemon.stranger() as second:
            again = await second.post(target, data=form.fields)
            assert (again.status_code, "set-cookie" in again.headers) == (401, False)


async def test_with_a_tunnel_open_a_code_leads_through_it(serve: Serve, links: list[str], tmp_path: Path) -> None:
    fake = place(tmp_path / "bin")
    async with serve(cloudflared_path=str(fake.program)) as daemon:
        async with daemon.stranger(daemon.live.access_token) as operator:
            opened = (await operator.post("/api/v1/remote/start", json={})).json()
            assert (await operator.get("/api/v1/qr")).status_code == 200
            await operator.post("/api/v1/remote/stop")
            assert (await operator.get("/api/v1/qr")).status_code == 200
        through, direct = links
        assert through.startswith(f"{opened['url']}/api/v1/auth/qr?code=")
        assert direct.startswith(f"{daemon.url}/api/v1/auth/qr?code=")


async def test_a_code_needs_a_credential_and_making_one_is_in_the_log(serve: Serve, links: list[str]) -> None:
    async with serve() as daemon, daemon.stranger() as stranger, daemon.client() as operator:
        for path in ("/api/v1/qr", "/api/qr"):
            assert (await stranger.get(path)).status_code == 401
        assert links == []
        with capture_logs() as logged:
            await operator.get("/api/v1/qr")
    assert [(entry["event"], entry["by"]) for entry in logged if entry["event"] == "login code created"] == [
        ("login code created", "localhost")
    ]
    assert urlsplit(links[0]).query.partition("=")[2] not in repr(logged)


async def test_a_guess_logs_nobody_in_and_guessing_is_limited(serve: Serve) -> None:
    async with serve(auth_rate_limit_per_peer=12) as daemon, daemon.stranger() as thief:
        guesses = [await thief.post("/api/v1/auth/qr", data={"code": f"guess-{n}"}) for n in range(10)]
        assert [guess.status_code for guess in guesses] == [401] * 5 + [429] * 5
        assert (await thief.get("/api/v1/auth/qr")).status_code == 200


async def test_a_foreign_page_logs_nobody_in(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        code = (await daemon.system.ask(CreateLoginCode())).code
        for origin, status in {"https://evil.example": 403, "null": 403, daemon.url: 200}.items():
            answer = await client.post("/api/v1/auth/qr", data={"code": code}, headers={"Origin": origin})
            assert answer.status_code == status


async def test_another_device_is_sent_where_it_can_reach_the_daemon(
    serve: Serve, links: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qr, "_address_in_network", lambda: "192.0.2.44")
    async with serve(web_host="0.0.0.0") as daemon:
        headers = {"Authorization": f"Bearer {daemon.live.access_token}"}
        local = f"http://127.0.0.1:{daemon.port}"
        async with daemon.client(headers=headers) as operator:
            await operator.get(f"{local}/api/v1/qr")
            await operator.get(f"{local}/api/v1/qr", headers={"Host": "paw.example", "X-Forwarded-Proto": "https"})
        port = daemon.port
    assert [urlsplit(link).netloc for link in links] == [f"192.0.2.44:{port}", "paw.example"]
    assert [urlsplit(link).scheme for link in links] == ["http", "https"]


def test_this_machine_has_one_address_in_the_network_or_none() -> None:
    address = qr._address_in_network()  # pyright: ignore[reportPrivateUsage] what it says differs between machines
    assert address is None or address.count(".") == 3

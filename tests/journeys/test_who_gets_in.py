"""Every path of the served OpenAPI document, without a credential, in every way a stranger may come."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import httpx2
import pytest

from ..fakes.cloudflared import place
from .daemon import Daemon

SETTINGS = {
    "api_rate_limit_per_key": "0",
    "auth_rate_limit_per_peer": "0",
    "cloudflared_path": "/no/such/cloudflared",  # so that no tunnel is opened
}
OPEN = {
    ("GET", "/health"),
    ("GET", "/health/detailed"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/api/v1/openapi.json"),
    ("GET", "/api/v1/docs"),
    ("GET", "/api/v1/redoc"),
    ("GET", "/swagger"),
    ("GET", "/favicon.ico"),
    ("GET", "/static/redoc.standalone.js"),
    ("GET", "/static/swagger-start.js"),
    ("GET", "/static/swagger-ui-bundle.js"),
    ("GET", "/static/swagger-ui.css"),
    ("GET", "/oauth/callback"),
    ("POST", "/webhook/inbound/{name}"),
    ("POST", "/api/v1/auth/login"),
    ("GET", "/api/v1/auth/qr"),
    ("POST", "/api/v1/auth/qr"),
    ("POST", "/api/v1/oauth/token"),
    ("POST", "/api/v1/oauth/revoke"),
}
"""All that a stranger may ask for. Contract §2, "Exempt", and what exchanges one credential for another."""

REPLACES_THE_TOKEN = "/api/v1/token/regenerate"

WEBHOOK = ("POST", "/webhook/inbound/{name}")
"""It wants a secret of its own, which none of those here has, the owner included."""

ENDLESS = {"/api/v1/events/stream", "/api/v1/agent/status/stream"}

FORWARDED = {
    "X-Forwarded-For": {"X-Forwarded-For": "127.0.0.1"},
    "X-Forwarded-Host": {"X-Forwarded-Host": "localhost"},
    "Forwarded": {"Forwarded": "for=127.0.0.1;host=localhost"},
    "CF-Connecting-IP": {"CF-Connecting-IP": "127.0.0.1"},
    "X-Real-IP": {"X-Real-IP": "127.0.0.1"},
    "foreign Host": {"Host": "evil.example"},
    "Host that looks local": {"Host": "localhost.evil.example"},
}
FOREIGN_PAGES = {
    "foreign Origin": "https://evil.example",
    "Origin null": "null",
    "Origin that looks local": "http://localhost.evil.example",
}
SAFE = {"GET", "HEAD"}


class Operation(NamedTuple):
    method: str
    path: str
    is_said_to_be_open: bool

    @property
    def route(self) -> tuple[str, str]:
        return self.method, self.path

    @property
    def is_open(self) -> bool:
        return self.route in OPEN

    def urls(self) -> Iterator[str]:
        """Where it answers: at its canonical path, and under the older prefix."""
        url = re.sub(r"{\w+}", "x", self.path)
        yield url
        if url.startswith("/api/v1/"):
            yield url.replace("/api/v1/", "/api/", 1)


def operations(http: httpx2.Client) -> list[Operation]:
    document: dict[str, Any] = http.get("/api/v1/openapi.json").raise_for_status().json()
    assert document["security"], "all that says nothing else needs a credential"
    found = [
        Operation(method.upper(), path, operation.get("security") == [])
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    assert len(found) > 150
    return found


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    started = Daemon(tmp_path_factory.mktemp("local"), settings=SETTINGS)
    started.start()
    try:
        yield started
    finally:
        started.close()


def test_the_document_says_of_what_is_open_and_of_nothing_else_that_it_is(daemon: Daemon) -> None:
    with daemon.http as http:
        listed = operations(http)
    assert {operation.route for operation in listed} >= OPEN
    assert {operation.route for operation in listed if operation.is_said_to_be_open} == OPEN


@pytest.mark.parametrize("headers", FORWARDED.values(), ids=FORWARDED)
def test_a_stranger_gets_nothing_but_what_is_open(daemon: Daemon, headers: dict[str, str]) -> None:
    with daemon.http as http:
        check_closed(http, headers, mounts=1)


def check_closed(http: httpx2.Client, headers: dict[str, str], *, mounts: int = 2) -> None:
    """See that nothing but what is open answers at the first `mounts` places of each operation."""
    for operation in operations(http):
        for url in islice(operation.urls(), mounts):
            answer = http.request(operation.method, url, headers=headers)
            if operation.is_open:
                is_refused = answer.status_code in (401, 403)
                assert is_refused == (operation.route == WEBHOOK), (operation, url, answer.text[:200])
            else:
                assert answer.status_code == 401, (operation, url, answer.text[:200])
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                assert set(answer.json()) == {"detail", "code"}


@pytest.mark.parametrize("origin", FOREIGN_PAGES.values(), ids=FOREIGN_PAGES)
def test_a_page_from_elsewhere_reads_nothing_and_changes_nothing(daemon: Daemon, origin: str) -> None:
    with daemon.http as http:
        for operation in operations(http):
            answer = http.request(operation.method, next(operation.urls()), headers={"Origin": origin})
            assert "Access-Control-Allow-Origin" not in answer.headers
            if not operation.is_open:
                assert answer.status_code == (401 if operation.method in SAFE else 403), operation


def test_from_this_machine_everything_is_open(daemon: Daemon) -> None:
    with daemon.http as http:
        for operation in operations(http):
            if operation.path not in {*ENDLESS, REPLACES_THE_TOKEN} and "restart" not in operation.path:
                answer = http.request(operation.method, next(operation.urls()))
                assert (answer.status_code in (401, 403)) == (operation.route == WEBHOOK), operation


def test_with_the_token_a_stranger_is_none(daemon: Daemon) -> None:
    with daemon.http as http:
        headers = {"X-Forwarded-For": "203.0.113.9", "Authorization": f"Bearer {daemon.token}"}
        for operation in operations(http):
            if operation.path not in {*ENDLESS, REPLACES_THE_TOKEN}:
                answer = http.request(operation.method, next(operation.urls()), headers=headers)
                assert (answer.status_code in (401, 403)) == (operation.route == WEBHOOK), operation


def test_a_daemon_that_listens_everywhere_takes_nobody_for_local(tmp_path_factory: pytest.TempPathFactory) -> None:
    daemon = Daemon(tmp_path_factory.mktemp("public"), settings=SETTINGS)
    daemon.start("--host", "0.0.0.0")
    try:
        with daemon.http as http:
            check_closed(http, {})
            check_closed(http, {"Host": "localhost"}, mounts=1)
    finally:
        daemon.close()


def test_without_the_bypass_nobody_is_local(tmp_path_factory: pytest.TempPathFactory) -> None:
    daemon = Daemon(tmp_path_factory.mktemp("strict"), settings={**SETTINGS, "localhost_auth_bypass": "false"})
    daemon.start()
    try:
        with daemon.http as http:
            check_closed(http, {})
    finally:
        daemon.close()


def test_while_the_tunnel_is_open_nobody_is_local(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tunnel")
    fake = place(folder / "bin")
    daemon = Daemon(folder / "daemon", settings={**SETTINGS, "cloudflared_path": str(fake.program)})
    daemon.start()
    try:
        with daemon.http as http:
            opened = http.post("/api/v1/remote/start").raise_for_status().json()
            assert opened["state"] == "connected"
            check_closed(http, {})
            edge = f"http://127.0.0.1:{fake.runs()[0].edge_port}"
            with httpx2.Client(base_url=edge, trust_env=False, timeout=30.0) as visitor:
                check_closed(visitor, {"Host": opened["url"].removeprefix("https://")}, mounts=1)
                check_closed(visitor, {"Host": "localhost"}, mounts=1)
            token = {"Authorization": f"Bearer {daemon.token}"}
            http.post("/api/v1/remote/stop", headers=token).raise_for_status()
            assert http.get("/api/v1/sessions").status_code == 200
    finally:
        daemon.close()

"""The route table against the contract's: every row is there, and nothing lets in more than the contract says."""

from __future__ import annotations

import re

import pytest
from pocketpaw.http.route import Route
from pocketpaw.http.routes import ROUTES
from pocketpaw.http.websocket import PATHS

SCOPES = {
    "chat", "sessions", "settings:read", "settings:write", "memory", "channels", "mcp", "skills", "reminders",
    "files:read", "files:write", "remote", "kits", "metrics", "admin",
}  # fmt: skip

BUILT = """
POST auth/session, POST auth/login, POST auth/logout
GET auth/api-keys, POST auth/api-keys, DELETE auth/api-keys/{}, POST auth/api-keys/{}/rotate
GET oauth/authorize, POST oauth/authorize/consent, POST oauth/token, POST oauth/revoke
GET oauth/grants, DELETE oauth/grants/{}
GET qr, GET auth/qr, POST auth/qr, POST token/regenerate
POST chat, POST chat/stream, GET chat/stream, POST chat/stop, POST chat/approve, GET chat/approvals
POST sessions, GET sessions, GET sessions/{}, DELETE sessions/{}, POST sessions/{}/title, GET sessions/search
GET sessions/{}/history, GET memory/session, GET sessions/{}/messages, GET sessions/{}/export
GET version, GET health, GET health/errors, DELETE health/errors, POST health/check
GET /health, GET /health/detailed, GET /health/ready, GET /health/live
GET events/stream, GET agent/status, GET agent/status/stream
GET runtime/tree, GET runtime/actors/{}, POST runtime/actors/{}/restart, GET runtime/dead-letters
GET settings, PUT settings, POST vault/rotate
GET identity, PUT identity
POST import
GET memory/long_term, DELETE memory/long_term/{}, GET memory/settings, POST memory/settings, GET memory/stats
GET skills, GET skills/search, POST skills/install, POST skills/remove, POST skills/reload
GET mcp/status, POST mcp/add, POST mcp/remove, POST mcp/toggle, POST mcp/test, GET mcp/presets, POST mcp/presets/install
POST /mcp
GET metrics/system, GET metrics/usage, GET metrics/usage/recent, DELETE metrics/usage, GET /metrics
GET files/browse, GET files/content, GET files/download, GET files/download-zip, POST files/write, POST files/upload
GET files/recent
GET audit, DELETE audit, GET audit/export, POST security-audit
GET self-audit/reports, GET self-audit/reports/{}, POST self-audit/run
GET backends, POST backends/install
GET channels/status, POST channels/save, POST channels/toggle
GET channels/pairings, POST channels/pairings, DELETE channels/pairings/{}/{}
GET telegram/status, GET telegram/pairing-status
GET webhooks, POST webhooks/add, POST webhooks/remove, POST webhooks/regenerate-secret, POST /webhook/inbound/{}
GET reminders, POST reminders, DELETE reminders/{}
GET intentions, POST intentions, PATCH intentions/{}, DELETE intentions/{}, POST intentions/{}/toggle
POST intentions/{}/run
GET kits/catalog, POST kits/catalog/{}/install, POST kits/install, GET kits, GET kits/{}, DELETE kits/{}
POST kits/{}/activate, POST kits/{}/deactivate, GET kits/{}/data, GET kits/{}/data/{}
GET remote/status, POST remote/start, POST remote/stop
GET openapi.json, GET docs, GET redoc, GET /swagger
GET /favicon.ico
"""
NOT_BUILT = """
GET /oauth/callback
POST auth/register, GET auth/me, POST auth/passkey/register, POST auth/passkey/authenticate, POST auth/totp/setup
POST auth/totp/enable, POST auth/totp/disable, POST auth/totp/verify, POST auth/link
GET agents, POST agents, GET agents/{}, DELETE agents/{}, POST agents/{}/message, POST agents/{}/pause
POST agents/{}/resume, GET agents/{}/events
GET models, POST models, GET models/{}, PATCH models/{}, DELETE models/{}, POST models/{}/default, GET models/routing
GET models/health, GET models/cli/status, GET models/cli/quota, GET models/providers/ollama/models
GET models/providers/litellm/models, GET models/providers/{}/known, POST models/test
GET hooks, POST hooks, GET hooks/{}, PUT hooks/{}, DELETE hooks/{}, POST hooks/{}/enable, POST hooks/{}/disable
GET vault, POST vault, PATCH vault/{}, DELETE vault/{}, POST vault/{}/rotate
GET pipelines, GET pipelines/{}, POST pipelines/{}/stop, GET pipelines/templates, POST pipelines/templates
PUT pipelines/templates/{}, DELETE pipelines/templates/{}
GET notifications, POST notifications/{}/read, POST notifications/read-all
POST voice/transcribe
GET skills/{}, GET skills/tools/all, GET skills/permissions, PUT skills/permissions, DELETE skills/permissions/{}/{}
POST skills/{}/tools/{}/execute
"""
NO_CREDENTIAL = """
POST auth/login, POST oauth/token, POST oauth/revoke, GET auth/qr, POST auth/qr
GET /health, GET /health/detailed, GET /health/ready, GET /health/live
GET /oauth/callback, POST /webhook/inbound/{}
GET openapi.json, GET docs, GET redoc, GET /swagger, GET /favicon.ico
GET /static/swagger-start.js, GET /static/swagger-ui-bundle.js, GET /static/swagger-ui.css
GET /static/redoc.standalone.js
"""


def rows(text: str) -> set[str]:
    return {row.strip() for row in text.replace("\n", ",").split(",") if row.strip()}


def row(route: Route) -> str:
    path = re.sub(r"{\w+}", "{}", route.path)
    return f"{route.method} {path if route.at_root else path.removeprefix('/')}"


def test_every_row_that_is_built_answers() -> None:
    built = {row(route) for route in ROUTES if route.is_built}
    assert rows(BUILT) <= built
    assert {name for name in built - rows(BUILT) if "/static/" not in name} == set()


def test_every_other_row_says_that_it_is_not_built() -> None:
    assert {row(route) for route in ROUTES if not route.is_built} == rows(NOT_BUILT)


def test_no_row_is_declared_twice() -> None:
    assert len({row(route) for route in ROUTES}) == len(ROUTES)


def test_exactly_the_contracts_exemptions_need_no_credential() -> None:
    assert {row(route) for route in ROUTES if route.is_exempt} == rows(NO_CREDENTIAL)


def test_only_harmless_routes_need_no_scope() -> None:
    without = {row(route) for route in ROUTES if not route.is_exempt and route.scope is None}
    assert without == rows("GET version, GET health, POST auth/logout, GET auth/me")
    assert {route.scope for route in ROUTES if route.scope is not None} <= SCOPES


def test_every_endpoint_has_both_prefixes_or_none() -> None:
    for route in ROUTES:
        expected = [route.path] if route.at_root else [f"/api/v1{route.path}", f"/api{route.path}"]
        assert route.mounts == expected


@pytest.mark.parametrize("route", ROUTES, ids=row)
def test_every_endpoint_says_what_it_does(route: Route) -> None:
    assert route.doc.strip().endswith(".")


def test_websockets_have_three_equivalent_paths() -> None:
    assert set(PATHS) == {"/ws", "/v1/ws", "/api/v1/ws"}

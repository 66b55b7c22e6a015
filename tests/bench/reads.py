"""The read endpoints that the harness does not load: the same data in both servers, then the same GETs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from client import API, Client
from figures import Figures
from server import Server, wrk_per_s

MORE_ENDPOINTS = (
    "/intentions",
    "/identity",
    "/memory/stats",
    "/memory/settings",
    "/memory/long_term",
    "/webhooks",
    "/channels/status",
    "/auth/api-keys",
    "/metrics/usage",
    "/metrics/usage/recent",
    "/mcp/presets",
    "/backends",
    "/kits",
    "/kits/catalog",
    "/remote/status",
    "/self-audit/reports",
    "/health/errors",
    "/agent/status",
    "/files/browse?path=~",
    "/files/recent",
    "/sessions/search?q=hello",
    "/audit/export?format=json",
)
LOADS = (1, 16)
WARM_UP_S = 1
ENTRIES = 20
CREATE: Mapping[str, Mapping[str, object]] = {
    "/reminders": {"message": "in {n} hours to stretch"},
    "/intentions": {"name": "job {n}", "prompt": "hi", "trigger": {"type": "cron", "schedule": "0 9 * * *"}},
    "/webhooks/add": {"name": "hook-{n}", "description": "d"},
    "/auth/api-keys": {"name": "key {n}"},
}
"""What is made so often over the API before the lists are read."""


def load_more(server: Server, seconds: int, figures: Figures) -> None:
    """Fill the lists, and add the answers a second to GETs of each endpoint."""
    client = Client(server.port, many_addresses=server.many_addresses)
    _fill(client)
    for path in MORE_ENDPOINTS:
        status, _ = client.request("GET", API + path)
        if status != 200:
            figures.unanswered[path] = status
        elif shutil.which("wrk") is not None:
            wrk_per_s(server.port, path, LOADS[-1], WARM_UP_S, many_addresses=server.many_addresses)
            for connections in LOADS:
                per_s = wrk_per_s(server.port, path, connections, seconds, many_addresses=server.many_addresses)
                figures.gets_per_s[f"GET {path}, c{connections}"] = per_s


def _fill(client: Client) -> None:
    for path, fields in CREATE.items():
        for number in range(1, ENTRIES + 1):
            body = {
                name: value.replace("{n}", str(number)) if isinstance(value, str) else value
                for name, value in fields.items()
            }
            status, answer = client.request("POST", API + path, body)
            if status != 200:
                raise RuntimeError(f"POST {path} answered {status}: {answer[:200]!r}")

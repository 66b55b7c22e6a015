"""How the daemon is: the health engine's view under the prefixes, and the probes at the root."""

from __future__ import annotations

import platform
from functools import cache
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import msgspec
from quart import Response

from ..actors.health import ClearErrors, GetErrors, GetHealth, GetReadiness, GetServices, HealthStatus, RunChecks
from ..actors.models.catalogue import BACKENDS, configured
from .call import Call
from .route import delete, get, post


class Version(msgspec.Struct, frozen=True):
    """`agent_backend` is the backend that is asked first, `backends` are those that can be chosen."""

    version: str
    python: str
    agent_backend: str
    backends: list[str]


class Status(msgspec.Struct, frozen=True):
    status: HealthStatus


class Ready(msgspec.Struct, frozen=True):
    """`reason` says why it is not ready."""

    status: Literal["ready", "not ready"]
    reason: str = ""


class Alive(msgspec.Struct, frozen=True):
    status: str = "alive"


@cache
def daemon_version() -> str:
    try:
        return version("pocketpaw")
    except PackageNotFoundError:
        return "unknown"


async def get_version(call: Call) -> Version:
    """Which version this is, and which model backend answers."""
    settings = call.live.current
    chosen = configured(settings).backends
    name = chosen[0].name if chosen else settings.agent_backend
    return Version(daemon_version(), platform.python_version(), name, list(BACKENDS))


async def probe(call: Call) -> Status:
    """How the daemon is, in one word."""
    return Status((await call.ask(GetHealth())).status)


async def probe_readiness(call: Call) -> Response:
    """Whether the daemon can do its work now."""
    readiness = await call.ask(GetReadiness())
    body = Ready("ready" if readiness.ready else "not ready", readiness.reason)
    status = HTTPStatus.OK if readiness.ready else HTTPStatus.SERVICE_UNAVAILABLE
    return Response(msgspec.json.encode(body), status.value, content_type="application/json")


async def probe_liveness() -> Alive:
    """Whether the process answers at all; asks no actor."""
    return Alive()


READINESS = {
    HTTPStatus.OK: ("It can.", Ready),
    HTTPStatus.SERVICE_UNAVAILABLE: ("It cannot, and why.", Ready),
}
ROUTES = [
    get("/version", get_version),
    get("/health", GetHealth),
    get("/health/errors", GetErrors, scope="metrics"),
    delete("/health/errors", ClearErrors, scope="admin"),
    post("/health/check", RunChecks, scope="metrics", audit=False),
    get("/health", probe, at_root=True, is_exempt=True),
    get("/health/detailed", GetServices, at_root=True, is_exempt=True),
    get("/health/ready", probe_readiness, at_root=True, is_exempt=True, responses=READINESS),
    get("/health/live", probe_liveness, at_root=True, is_exempt=True),
]

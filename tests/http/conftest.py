"""The HTTP layer over real sockets, in front of the real actors; only the language model is scripted."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx2
import pytest
import trio
from pocketpaw.actors.access.api_keys import ApiKeys
from pocketpaw.actors.access.guard import Guard
from pocketpaw.actors.access.oauth import OAuth
from pocketpaw.actors.agent import Agent, AgentContext
from pocketpaw.actors.audit.auditor import Auditor
from pocketpaw.actors.audit.trail import AuditTrail
from pocketpaw.actors.channels.keeper import ChannelsKeeper, Switches
from pocketpaw.actors.files.keeper import FilesKeeper
from pocketpaw.actors.health import Health
from pocketpaw.actors.identity import Identity, IdentityKeeper
from pocketpaw.actors.importing.importer import Importer
from pocketpaw.actors.inspector import Inspector
from pocketpaw.actors.kits.keeper import Kits
from pocketpaw.actors.mcp.keeper import McpKeeper
from pocketpaw.actors.memory import MemoryKeeper
from pocketpaw.actors.metrics.metrics import Metrics
from pocketpaw.actors.models.installer import Installer
from pocketpaw.actors.models.protocol import Finished, Generate, GenerationEvent, TextDelta, ThinkingDelta, Usage
from pocketpaw.actors.models.router import BackendState, CheckBackends
from pocketpaw.actors.scheduler.scheduler import Scheduler
from pocketpaw.actors.settings import LiveSettings, SettingsKeeper
from pocketpaw.actors.skills.keeper import Skills
from pocketpaw.actors.tools.catalogue import Catalogue
from pocketpaw.actors.tools.gate import Gate
from pocketpaw.actors.tunnel.cloudflared import Cloudflared
from pocketpaw.actors.tunnel.exposure import Exposure
from pocketpaw.actors.tunnel.keeper import TunnelKeeper
from pocketpaw.actors.webhooks.webhooks import Webhooks
from pocketpaw.config import open_home
from pocketpaw.http.listener import Http
from pocketpaw.runtime import Actor, ActorSystem, Child, DynamicSupervisor, Supervisor
from pocketpaw.runtime.errors import Unavailable
from pocketpaw.storage.store import Storage, StoreReader, StoreWriter

from ..conftest import run_without_leak

REPLY = ("the ", "quick ", "brown ", "fox ", "jumps.")
USAGE = Usage(input_tokens=7, output_tokens=5, total_tokens=12, model="scripted", backend="fake")


class ScriptedModel:
    """What the fake model says: by default `REPLY` at once. Shared with the test, which is in the same loop."""

    def __init__(self) -> None:
        self.says: tuple[str, ...] = REPLY
        self.thinks = ""
        self.fails: Unavailable | None = None
        self.gate: trio.Semaphore | None = None
        """With a gate, each piece waits for a release."""
        self.asked: list[str] = []
        self.said = 0
        """Pieces that were said."""

    def hold(self) -> trio.Semaphore:
        """Say nothing more until the gate that this returns is released, once for each piece."""
        self.gate = trio.Semaphore(0)
        return self.gate


class FakeRouter(Actor):
    """Stands at `models/router` and answers as the script says."""

    concurrency = 200
    handler_timeout_s = None

    def __init__(self, model: ScriptedModel) -> None:
        super().__init__()
        self._model = model

    async def generate(self, message: Generate) -> AsyncGenerator[GenerationEvent]:
        model = self._model
        model.asked.append(message.messages[-1].content)
        if model.thinks:
            yield ThinkingDelta(model.thinks)
        for piece in model.says:
            if model.gate is not None:
                await model.gate.acquire()
            model.said += 1
            yield TextDelta(piece)
        if model.fails is not None:
            raise model.fails
        yield USAGE
        yield Finished("stop")

    async def check_backends(self, message: CheckBackends) -> list[BackendState]:
        return [BackendState("fake", "scripted", True, "", 0.1)]


@dataclass
class Daemon:
    """The running actors, and how to reach them from outside."""

    system: ActorSystem
    live: LiveSettings
    model: ScriptedModel
    urls: list[str]
    headers: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def url(self) -> str:
        return self.urls[-1]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @asynccontextmanager
    async def client(self, **options: object) -> AsyncGenerator[httpx2.AsyncClient]:
        """A client without a credential: it is on this machine, so it needs none."""
        async with httpx2.AsyncClient(base_url=self.url, trust_env=False, timeout=10, **options) as client:  # pyright: ignore[reportArgumentType] - passed on
            yield client

    @asynccontextmanager
    async def stranger(self, credential: str | None = None) -> AsyncGenerator[httpx2.AsyncClient]:
        """A client that comes through a proxy, and so needs a credential."""
        headers = {"X-Forwarded-For": "203.0.113.9"}
        if credential is not None:
            headers["Authorization"] = f"Bearer {credential}"
        async with self.client(headers=headers) as client:
            yield client


async def eventually(check: Callable[[], Awaitable[bool]], within_s: float = 5.0) -> None:
    """Wait in real time until `check` says yes."""
    with trio.fail_after(within_s):
        while not await check():  # noqa: ASYNC110 what is waited for is on the other side of a socket
            await trio.sleep(0.01)


Serve = Callable[..., AbstractAsyncContextManager[Daemon]]

UNLIMITED = {"api_rate_limit_per_key": 0, "auth_rate_limit_per_peer": 0, "ws_rate_limit_per_peer": 0}


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """`async with serve(web_port=0) as daemon:` runs the daemon's actors with these settings, and no rate limits."""

    @asynccontextmanager
    async def start(**settings: object) -> AsyncGenerator[Daemon]:
        home = open_home(tmp_path / "home")
        live = LiveSettings(home, {}, {"web_port": 0, "agent_backend": "embedded", **UNLIMITED, **settings})
        storage = Storage(home.database_url(live.current))
        catalogue, exposure = Catalogue(), Exposure(live)
        context = AgentContext(live, Identity(home.identity), catalogue, "boot-1")
        model, urls = ScriptedModel(), list[str]()
        tree = Supervisor(
            "root",
            [
                Supervisor(
                    "store", [Child(StoreWriter, storage, id="writer"), Child(StoreReader, storage, id="reader")]
                ),
                Child(SettingsKeeper, live, id="settings"),
                Supervisor("audit", [Child(AuditTrail, live, id="trail"), Child(Auditor, live)]),
                Child(IdentityKeeper, live, id="identity"),
                Child(MemoryKeeper, live, id="memory"),
                Child(Skills, live),
                Child(FilesKeeper, live, id="files"),
                Child(Metrics, live),
                Child(Health, live),
                Child(Guard, live),
                Supervisor("access", [Child(ApiKeys, id="keys"), Child(OAuth, live, id="oauth")]),
                Child(Inspector, live),
                Supervisor("models", [Child(FakeRouter, model, id="router"), Child(Installer, live)]),
                Supervisor("mcp", [DynamicSupervisor("servers"), Child(McpKeeper, live, catalogue, id="keeper")]),
                Supervisor("tools", [Child(Gate, live, catalogue, "boot-1")]),
                DynamicSupervisor("agents", partial(Agent, context=context)),
                Child(Webhooks, live),
                Supervisor(
                    "channels",
                    [DynamicSupervisor("adapters"), Child(ChannelsKeeper, live, "boot-1", Switches(), id="keeper")],
                ),
                Child(Scheduler, live, "boot-1"),
                Child(Kits),
                Child(Importer, live),
                Supervisor(
                    "tunnel",
                    [Child(Cloudflared, live, exposure, lazy=True), Child(TunnelKeeper, live, exposure, id="keeper")],
                ),
                Child(Http, live, urls.append),
            ],
        )
        async with run_without_leak(tree) as system:
            yield Daemon(system, live, model, urls)

    return start

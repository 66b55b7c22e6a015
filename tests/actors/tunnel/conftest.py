"""The tunnel as the daemon has it, its patience shortened, and the fake cloudflared that it runs."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio
from pocketpaw.actors.access.guard import Authenticate, Guard, Verdict
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.actors.tunnel.cloudflared import Cloudflared, Limits
from pocketpaw.actors.tunnel.exposure import Exposure
from pocketpaw.actors.tunnel.keeper import TunnelKeeper
from pocketpaw.actors.tunnel.protocol import GetTunnelStatus, TunnelStatus
from pocketpaw.runtime import ActorSystem, Backoff, Child, Supervisor

from ...conftest import run_without_leak
from ...fakes.cloudflared import FakeCloudflared, place

WITHIN_S = 20.0
QUICK = Limits(poll_s=0.05, unready_poll_s=0.02, unready_s=0.5, settle_s=WITHIN_S, leave_s=0.3)
BACKOFF = Backoff(min_s=0.05, max_s=0.05)


class Tunnel:
    """The running actors, and what a test wants of them."""

    def __init__(self, system: ActorSystem, live: LiveSettings, exposure: Exposure) -> None:
        self.system = system
        self.live = live
        self.exposure = exposure

    async def status(self) -> TunnelStatus:
        return await self.system.ask(GetTunnelStatus())

    async def until(self, condition: Callable[[TunnelStatus], object]) -> TunnelStatus:
        """Wait, in real time, until the tunnel is as it should be."""
        with trio.fail_after(WITHIN_S):
            while not condition(status := await self.status()):  # noqa: ASYNC110 a process is waited for
                await trio.sleep(0.01)
        return status

    async def judge_local(self) -> Verdict:
        """What the guard says of a program on this machine that has no credential."""
        return await self.system.ask(
            Authenticate(peer="127.0.0.1", forwarded=False, host="localhost:8888", origin=None, method="GET")
        )

    async def is_local_trusted(self) -> bool:
        return (await self.judge_local()).outcome == "allowed"


OpenTunnel = Callable[..., AbstractAsyncContextManager[Tunnel]]


@pytest.fixture
def fake(tmp_path: Path) -> FakeCloudflared:
    return place(tmp_path / "bin")


@pytest.fixture
def open_tunnel(make_live: Callable[..., LiveSettings], fake: FakeCloudflared) -> OpenTunnel:
    """`async with open_tunnel() as tunnel:` runs guard and tunnel, and sees that no process is left of it."""

    @asynccontextmanager
    async def run(limits: Limits = QUICK, **settings: object) -> AsyncGenerator[Tunnel]:
        live = make_live(**{"cloudflared_path": str(fake.program), "api_rate_limit_per_key": 0, **settings})
        live.served_at = ("127.0.0.1", 9)
        exposure = Exposure(live)
        process = Child(Cloudflared, live, exposure, limits, lazy=True, backoff=BACKOFF, max_restarts=1000)
        tunnel = Supervisor("tunnel", [process, Child(TunnelKeeper, live, exposure, id="keeper")])
        async with run_without_leak(Supervisor("root", [Child(Guard, live), tunnel])) as system:
            yield Tunnel(system, live, exposure)
        assert not live.is_tunnelled or exposure.is_wanted
        assert [run.pid for run in fake.runs() if is_there(run.pid)] == []

    return run


def is_there(pid: int) -> bool:
    """Whether there is such a process, be it a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

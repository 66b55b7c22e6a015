"""The tunnel heals, says so, is closed to whoever has no credential, and leaves nothing behind."""

from __future__ import annotations

import os
import signal

import msgspec
import psutil
import pytest
import trio
from pocketpaw.actors.tunnel.cloudflared import Limits
from pocketpaw.actors.tunnel.protocol import PATH, StartTunnel, StopTunnel, TunnelStatus
from pocketpaw.runtime import SupervisorNode
from pocketpaw.runtime.bus import Subscription

from ...fakes.cloudflared import FakeCloudflared
from .conftest import WITHIN_S, OpenTunnel, is_there

FIRST, SECOND = (f"https://quick-paw-{number}.trycloudflare.com" for number in (1, 2))
OFF = TunnelStatus(active=False, url=None, state="off")


class Told(msgspec.Struct):
    content: str
    metadata: dict[str, object]


async def told(subscription: Subscription, text: str) -> dict[str, object]:
    """Wait for the event that says so; returns its facts."""
    while True:
        with trio.fail_after(WITHIN_S):
            event = await anext(subscription)
        data = msgspec.convert(event.data(), Told)
        if event.name == "remote_status" and text in data.content:
            return data.metadata


async def test_a_tunnel_has_an_address_until_it_is_closed(open_tunnel: OpenTunnel, fake: FakeCloudflared) -> None:
    async with open_tunnel() as tunnel:
        assert await tunnel.status() == OFF
        opened = await tunnel.system.ask(StartTunnel())
        assert opened == TunnelStatus(active=True, url=FIRST, state="connected")
        assert await tunnel.system.ask(StartTunnel()) == opened
        (run,) = fake.runs()
        assert await tunnel.system.ask(StopTunnel()) == OFF
        assert not is_there(run.pid)
        assert await tunnel.system.ask(StopTunnel()) == OFF
    assert run.arguments[-2:] == ["--url", "http://127.0.0.1:9"]
    assert "--no-autoupdate" in run.arguments


async def test_the_program_gets_nothing_of_the_daemons_environment(
    open_tunnel: OpenTunnel, fake: FakeCloudflared, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TUNNEL_TOKEN", "POCKETPAW_ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "canary")
    async with open_tunnel() as tunnel:
        await tunnel.system.ask(StartTunnel())
    (run,) = fake.runs()
    assert "PATH" in run.environment
    assert "canary" not in run.environment.values()


async def test_nobody_is_local_from_before_the_process_starts_until_after_it_has_ended(
    open_tunnel: OpenTunnel, fake: FakeCloudflared
) -> None:
    fake.told(hangs=True)
    async with open_tunnel() as tunnel, trio.open_nursery() as nursery:
        assert await tunnel.is_local_trusted()
        nursery.start_soon(tunnel.system.ask, StartTunnel())
        while not fake.runs():  # noqa: ASYNC110 a process is waited for
            await trio.sleep(0.001)
        assert "tunnel" in (await tunnel.judge_local()).reason
        (run,) = fake.runs()
        nursery.start_soon(tunnel.system.ask, StopTunnel())
        while is_there(run.pid):
            is_trusted = await tunnel.is_local_trusted()
            assert not (is_trusted and is_there(run.pid))
            await trio.sleep(0.001)
        await tunnel.until(lambda status: status == OFF)
        assert await tunnel.is_local_trusted()


@pytest.mark.parametrize("path", ["guard", "tunnel/keeper", PATH])
async def test_nobody_is_local_while_an_actor_is_down(open_tunnel: OpenTunnel, path: str) -> None:
    async with open_tunnel() as tunnel:
        await tunnel.system.ask(StartTunnel())
        node = tunnel.system.node(path)
        before = node.number
        node.kill(RuntimeError("it crashed"))
        with trio.fail_after(WITHIN_S):
            while node.number == before or node.state != "running":
                if tunnel.system.node("guard").state == "running":
                    assert not await tunnel.is_local_trusted()
                await trio.sleep(0.001)
        assert not await tunnel.is_local_trusted()
        back = await tunnel.until(lambda status: status.state == "connected")
        assert back.url == (SECOND if path == PATH else FIRST)
        await tunnel.system.ask(StopTunnel())
        assert await tunnel.is_local_trusted()


async def test_a_guard_that_is_new_knows_of_the_tunnel(open_tunnel: OpenTunnel) -> None:
    async with open_tunnel() as tunnel:
        await tunnel.system.ask(StartTunnel())
        await tunnel.system.root.restart_child("guard")
        assert tunnel.system.node("guard").number == 2
        assert not await tunnel.is_local_trusted()


async def test_one_that_dies_is_back_with_another_address_and_that_is_told(
    open_tunnel: OpenTunnel, fake: FakeCloudflared
) -> None:
    async with open_tunnel() as tunnel:
        with tunnel.system.bus.subscribe("events") as events:
            await tunnel.system.ask(StartTunnel())
            assert await told(events, "is open") == {"active": True, "url": FIRST, "connected": True}
            os.kill(fake.runs()[0].pid, signal.SIGKILL)
            down = await told(events, "cloudflared was killed by SIGKILL")
            assert down["connected"] is False
            assert await told(events, "is open") == {"active": True, "url": SECOND, "connected": True}
            assert await tunnel.status() == TunnelStatus(active=True, url=SECOND, state="connected")
            await tunnel.system.ask(StopTunnel())
            assert await told(events, "is closed") == {"active": False, "url": None, "connected": False}
        assert not is_there(fake.runs()[0].pid)


async def test_one_that_leads_nowhere_for_a_moment_keeps_its_address(
    open_tunnel: OpenTunnel, fake: FakeCloudflared
) -> None:
    patient = Limits(poll_s=0.02, unready_poll_s=0.02, unready_s=WITHIN_S, settle_s=WITHIN_S)
    async with open_tunnel(patient) as tunnel:
        await tunnel.system.ask(StartTunnel())
        fake.be_ready(False)
        down = await tunnel.until(lambda status: status.state == "connecting")
        assert (down.active, down.url) == (True, FIRST)
        assert down.error == "cloudflared has no connection to Cloudflare at present"
        fake.be_ready(True)
        assert (await tunnel.until(lambda status: status.state == "connected")).url == FIRST
        assert len(fake.runs()) == 1


async def test_one_that_leads_nowhere_for_long_is_started_anew(open_tunnel: OpenTunnel, fake: FakeCloudflared) -> None:
    async with open_tunnel() as tunnel:
        await tunnel.system.ask(StartTunnel())
        fake.be_ready(False)
        await tunnel.until(lambda status: status.error is not None and "no connection for 0.5 s" in status.error)
        assert not is_there(fake.runs()[0].pid)
        fake.be_ready(True)
        back = await tunnel.until(lambda status: status.state == "connected")
        assert back.url == fake.runs()[-1].url != FIRST


async def test_one_that_stands_still_is_started_anew(open_tunnel: OpenTunnel, fake: FakeCloudflared) -> None:
    async with open_tunnel() as tunnel:
        await tunnel.system.ask(StartTunnel())
        os.kill(fake.runs()[0].pid, signal.SIGSTOP)
        await tunnel.until(lambda status: status.url == SECOND and status.state == "connected")
        assert not is_there(fake.runs()[0].pid)


async def test_megabytes_of_output_hold_nothing_up(open_tunnel: OpenTunnel, fake: FakeCloudflared) -> None:
    fake.told(stderr_bytes=2**20)
    async with open_tunnel() as tunnel:
        assert (await tunnel.system.ask(StartTunnel())).url == FIRST
        with trio.fail_after(WITHIN_S):
            while not fake.has_chattered:  # noqa: ASYNC110 a process is waited for
                await trio.sleep(0.01)
        assert (await tunnel.status()).state == "connected"


async def test_one_that_ignores_sigterm_is_killed_with_all_that_it_started(
    open_tunnel: OpenTunnel, fake: FakeCloudflared
) -> None:
    fake.told(ignores_sigterm=True, has_child=True)
    async with open_tunnel() as tunnel:
        await tunnel.system.ask(StartTunnel())
        group = fake.runs()[0].pid
        assert len(alive_in(group)) == 3  # with its child and the guard
        assert await tunnel.system.ask(StopTunnel()) == OFF
        with trio.fail_after(WITHIN_S):
            while alive_in(group):  # noqa: ASYNC110 the kernel ends them
                await trio.sleep(0.01)
        assert await tunnel.is_local_trusted()


def alive_in(group: int) -> list[int]:
    """The processes of a group, but for those that only wait to be reaped by init."""
    found: list[int] = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue  # ended meanwhile
    return found


async def test_one_that_gets_no_address_is_closed_again(open_tunnel: OpenTunnel, fake: FakeCloudflared) -> None:
    fake.told(fails=True)
    async with open_tunnel() as tunnel:
        refused = await tunnel.system.ask(StartTunnel())
        assert (refused.active, refused.url, refused.state) == (False, None, "off")
        assert refused.error is not None
        assert refused.error.startswith("cloudflared exited with status 1: failed to request quick Tunnel")
        assert await tunnel.is_local_trusted()
        fake.told()
        assert (await tunnel.system.ask(StartTunnel())).state == "connected"


async def test_one_that_waits_for_an_address_for_too_long_is_closed_again(
    open_tunnel: OpenTunnel, fake: FakeCloudflared
) -> None:
    fake.told(hangs=True)
    async with open_tunnel(Limits(start_s=0.3)) as tunnel:
        refused = await tunnel.system.ask(StartTunnel())
        error = "cloudflared was given no address within 0.3 s"
        assert refused == TunnelStatus(active=False, url=None, state="off", error=error)
        assert await tunnel.is_local_trusted()


async def test_a_stop_does_not_wait_for_a_start(open_tunnel: OpenTunnel, fake: FakeCloudflared) -> None:
    fake.told(hangs=True)
    found: list[TunnelStatus] = []
    async with open_tunnel() as tunnel:

        async def start() -> None:
            found.append(await tunnel.system.ask(StartTunnel()))

        with trio.fail_after(WITHIN_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(start)
                await tunnel.until(lambda status: status.state == "connecting")
                assert await tunnel.system.ask(StopTunnel()) == OFF
        life = tunnel.system.node(PATH).life
        assert life is not None
        assert str(life.exit) == "shutdown"  # in good order: it was not killed for being late
    assert [status.error for status in found] == ["the tunnel was closed before it was open"]


async def test_without_the_program_it_says_how_to_get_it(open_tunnel: OpenTunnel, fake: FakeCloudflared) -> None:
    async with open_tunnel(cloudflared_path="/no/such/cloudflared") as tunnel:
        refused = await tunnel.system.ask(StartTunnel())
        assert (refused.active, refused.state) == (False, "off")
        assert refused.error is not None
        assert "no cloudflared at /no/such/cloudflared: install cloudflared (https://" in refused.error
        assert tunnel.system.node(PATH).number == 0
        assert await tunnel.is_local_trusted()


async def test_it_is_found_on_the_path(
    open_tunnel: OpenTunnel, fake: FakeCloudflared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{fake.program.parent}:{os.environ['PATH']}")
    async with open_tunnel(cloudflared_path="") as tunnel:
        assert (await tunnel.system.ask(StartTunnel())).url == FIRST


async def test_one_that_leads_to_a_former_address_of_the_daemon_is_started_anew(
    open_tunnel: OpenTunnel, fake: FakeCloudflared
) -> None:
    async with open_tunnel() as tunnel:
        await tunnel.system.ask(StartTunnel())
        tunnel.live.served_at = ("0.0.0.0", 10)
        await tunnel.until(lambda status: status.url == SECOND)
        assert fake.runs()[1].arguments[-1] == "http://127.0.0.1:10"


async def test_the_supervisors_restart_brings_the_tunnel_back(open_tunnel: OpenTunnel) -> None:
    async with open_tunnel() as tunnel:
        await tunnel.system.ask(StartTunnel())
        await tunnel.system.root.restart_child("tunnel")
        assert not await tunnel.is_local_trusted()
        await tunnel.until(lambda status: status.url == SECOND and status.state == "connected")


async def test_a_restart_of_its_actor_does_not_open_a_tunnel_that_nobody_wants(
    open_tunnel: OpenTunnel, fake: FakeCloudflared
) -> None:
    async with open_tunnel() as tunnel:
        owner = tunnel.system.node(PATH).owner
        assert isinstance(owner, SupervisorNode)
        await owner.restart_child("cloudflared")
        assert await tunnel.status() == OFF
        assert fake.runs() == []
        assert (await tunnel.system.ask(StartTunnel())).state == "connected"


async def test_a_tunnel_that_is_down_can_be_closed(open_tunnel: OpenTunnel, fake: FakeCloudflared) -> None:
    async with open_tunnel() as tunnel:
        await tunnel.system.ask(StartTunnel())
        fake.told(fails=True)
        os.kill(fake.runs()[0].pid, signal.SIGKILL)
        await tunnel.until(lambda status: status.state == "backoff")
        assert not await tunnel.is_local_trusted()
        assert await tunnel.system.ask(StopTunnel()) == OFF
        runs = len(fake.runs())
        await trio.sleep(0.3)
        assert len(fake.runs()) == runs
        assert await tunnel.is_local_trusted()


async def test_a_tunnel_of_ones_own_has_its_own_address_and_its_token_is_no_argument(
    open_tunnel: OpenTunnel, fake: FakeCloudflared
) -> None:
    token, url = "canary-0123456789", "https://paw.example"
    async with open_tunnel(cloudflared_token=token, cloudflared_url=url) as tunnel:
        opened = await tunnel.system.ask(StartTunnel())
        assert opened == TunnelStatus(active=True, url=url, state="connected")
        assert not await tunnel.is_local_trusted()
    (run,) = fake.runs()
    assert run.arguments[-1] == "run"
    assert run.environment["TUNNEL_TOKEN"] == token
    assert token not in " ".join(run.arguments)


@pytest.mark.parametrize("setting", [{"cloudflared_token": "x" * 20}, {"cloudflared_url": "https://a.example"}])
async def test_a_tunnel_of_ones_own_needs_token_and_address(open_tunnel: OpenTunnel, setting: dict[str, str]) -> None:
    async with open_tunnel(**setting) as tunnel:
        refused = await tunnel.system.ask(StartTunnel())
        assert (refused.active, refused.state) == (False, "off")
        assert refused.error == "cloudflared_token and cloudflared_url are both set or both empty: set the missing one"

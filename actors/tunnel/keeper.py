"""The keeper of the tunnel: opens and closes it, and says how it is, whatever has become of its process."""

from __future__ import annotations

import msgspec
import structlog
import trio

from ...runtime import Actor, SupervisorNode
from ...runtime.cell import Cell
from ...runtime.errors import NeedsOperator, PocketPawError
from ..health import EVENTS, SystemEvent
from ..settings import LiveSettings
from .cloudflared import Cloudflared
from .exposure import Exposure
from .process import check_own_tunnel, find_program
from .protocol import (
    CLOUDFLARED,
    PATH,
    STATUS_EVENT,
    GetTunnelStatus,
    StartTunnel,
    StopTunnel,
    TunnelState,
    TunnelStatus,
)

log = structlog.get_logger()

OPEN_S = 60.0
"""More than it takes to open one, or to fail: see the limits of `Cloudflared`."""

WORDS: dict[TunnelState, str] = {
    "connecting": "cloudflared has no connection to Cloudflare at present",
    "stopping": "cloudflared has not ended yet",
}


class TunnelKeeper(Actor):
    """Answers from memory: what is wanted is in the exposure, and how it is can be seen in the tree."""

    has_tasks = True
    concurrency = 32
    handler_timeout_s = None  # an opening has limits of its own

    def __init__(self, live: LiveSettings, exposure: Exposure) -> None:
        super().__init__()
        self._live = live
        self._exposure = exposure
        self._opening = trio.Lock()

    async def on_start(self) -> None:
        if self._exposure.is_wanted:
            self.spawn(self._bring_back)

    async def get_tunnel_status(self, message: GetTunnelStatus) -> TunnelStatus:
        return self._status()

    async def start_tunnel(self, message: StartTunnel) -> TunnelStatus:
        async with self._opening:
            error = None if self._exposure.is_wanted else await self._open()
        status = self._status()
        return msgspec.structs.replace(status, error=error) if error else status

    async def stop_tunnel(self, message: StopTunnel) -> TunnelStatus:
        if self._exposure.is_wanted:
            log.warning("the tunnel is closed", actor=self.path, by=self.principal.name)
        await self._close()
        return self._status()

    async def _open(self) -> str | None:
        """Start it, and wait until it has an address; one that gets none is closed again. Returns why it has none."""
        try:
            check_own_tunnel(self._live.current)
            find_program(self._live.current.cloudflared_path)
        except NeedsOperator as error:
            return error.detail
        log.warning("the tunnel is opened", actor=self.path, by=self.principal.name)
        self._exposure.is_wanted = True
        try:
            await self._supervisor().restart_child(CLOUDFLARED)
            reason = await self._wait_until_up()
        except PocketPawError as failure:
            reason = failure.detail
        if reason is not None and not self._exposure.is_wanted:
            return "the tunnel was closed before it was open"
        if reason is not None:
            await self._close()
        return reason

    async def _wait_until_up(self) -> str | None:
        """Wait until it has an address, or has ended without; returns why it has ended."""
        node, tunnel = self._node(), self._tunnel()
        if tunnel is not None and node.life is not None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_after, node.life.exited, nursery.cancel_scope)
                await tunnel.wait_until_up()
                nursery.cancel_scope.cancel()
                return None
        return node.last_error or "cloudflared has ended"

    async def _close(self) -> None:
        was_wanted = self._exposure.is_wanted
        self._exposure.is_wanted = False
        await self._supervisor().terminate_child(CLOUDFLARED)
        if was_wanted:
            facts = {"active": False, "url": None, "connected": False}
            self.publish(EVENTS, STATUS_EVENT, SystemEvent(STATUS_EVENT, "The tunnel is closed.", facts))

    async def _bring_back(self) -> None:
        """Start it again after the supervisor of both was started anew."""
        if self._node().state in ("idle", "stopped"):
            try:
                await self._supervisor().restart_child(CLOUDFLARED)
            except PocketPawError as error:
                log.warning("the tunnel could not be opened again", actor=self.path, reason=error.detail)

    def _status(self) -> TunnelStatus:
        node, tunnel = self._node(), self._tunnel()
        state = self._state(node, tunnel)
        return TunnelStatus(
            active=self._exposure.is_wanted,
            url=tunnel.url if tunnel is not None and self._exposure.is_wanted else None,
            state=state,
            error=node.last_error if state in ("backoff", "parked") else WORDS.get(state),
        )

    def _state(self, node: Cell, tunnel: Cloudflared | None) -> TunnelState:
        if not self._exposure.is_wanted:
            return "stopping" if self._exposure.has_process else "off"
        if tunnel is not None:
            return "connected" if tunnel.is_connected else "connecting"
        if node.state == "parked":
            return "parked"
        return "backoff" if node.state in ("crashed", "backoff") else "starting"

    def _tunnel(self) -> Cloudflared | None:
        """The actor that runs, if one does."""
        node = self._node()
        return node.actor if node.state == "running" and isinstance(node.actor, Cloudflared) else None

    def _node(self) -> Cell:
        node = self.system.node(PATH)
        assert isinstance(node, Cell)
        return node

    def _supervisor(self) -> SupervisorNode:
        owner = self._node().owner
        assert isinstance(owner, SupervisorNode)
        return owner


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()

"""The tunnel: how the daemon is reached from outside the home."""

from __future__ import annotations

from ..actors.tunnel.keeper import OPEN_S
from ..actors.tunnel.protocol import GetTunnelStatus, StartTunnel, StopTunnel, TunnelStatus
from .call import Call
from .route import get, post

SCOPE = "remote"
ANSWER_S = 20.0
"""On top of the time that the opening may take: another one may be under way."""


async def start_tunnel(call: Call, message: StartTunnel) -> TunnelStatus:
    """Make the daemon reachable from outside; whoever comes, from this machine too, then needs a credential.

    The address is another one each time, unless `cloudflared_token` is set. One that cannot be had is not tried again,
    and `error` says why; one that was had and is lost is. It lasts until the stop, or the daemon's end.
    """
    return await call.ask(message, timeout_s=OPEN_S + ANSWER_S)


ROUTES = [
    get("/remote/status", GetTunnelStatus, scope=SCOPE),
    post("/remote/start", start_tunnel, scope=SCOPE),
    post("/remote/stop", StopTunnel, scope=SCOPE),
]

"""What can be said to the tunnel, and where."""

from __future__ import annotations

from typing import Literal

import msgspec

from ...runtime import Message

SUPERVISOR = "tunnel"
CLOUDFLARED = "cloudflared"
PATH = f"{SUPERVISOR}/{CLOUDFLARED}"
KEEPER = f"{SUPERVISOR}/keeper"

STATUS_EVENT = "remote_status"
"""The event that is published whenever the tunnel's state or address changes."""

TunnelState = Literal["off", "starting", "connecting", "connected", "backoff", "parked", "stopping"]


class TunnelStatus(msgspec.Struct, frozen=True):
    """`active` from the start until the stop, also while it is being brought back; `url` is None while it has none.

    `error` says what is in the way of one that is not connected.
    """

    active: bool
    url: str | None
    state: TunnelState
    error: str | None = None


class GetTunnelStatus(Message[TunnelStatus], to=KEEPER):
    """Whether the daemon can be reached from outside, and at which address."""


class StartTunnel(Message[TunnelStatus], to=KEEPER):
    """Make the daemon reachable from outside; whoever comes, from this machine too, then needs a credential.

    The address is another one each time, unless `cloudflared_token` is set. One that cannot be had is not tried again,
    and `error` says why; one that was had and is lost is. It lasts until the stop, or the daemon's end.
    """


class StopTunnel(Message[TunnelStatus], to=KEEPER):
    """Close the tunnel; when this is answered, its process has ended."""

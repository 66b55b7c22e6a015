"""What the channels' actors are asked and what they answer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from ...runtime import Done, Message
from ...storage.pairings import Pairing

KEEPER = "channels/keeper"
ADAPTERS = "channels/adapters"

NOTIFICATION = "notification"
"""The event by which something else than a channel may have put something into an outbox."""

ChannelName = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
ChannelState = Literal["off", "starting", "connected", "silent", "backoff", "parked", "stopping"]


class ChannelStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a channel is. It runs while its present life has heard from the platform a short time ago.

    `backoff` means that it is tried again in a moment, `parked` that it failed too often, or only a person can mend it,
    and that it is looked at now and then. `last_ok_in` and `last_ok_out` are when a round trip, and a delivery, last
    worked in the present life.
    """

    configured: bool
    running: bool
    autostart: bool
    restarts: int
    state: ChannelState
    incarnation: int
    mode: str | msgspec.UnsetType = msgspec.UNSET
    last_error: str | msgspec.UnsetType = msgspec.UNSET
    last_ok_in: datetime | msgspec.UnsetType = msgspec.UNSET
    last_ok_out: datetime | msgspec.UnsetType = msgspec.UNSET


class GetChannelsStatus(Message[dict[str, ChannelStatus]], to=KEEPER):
    """How each channel is, by name."""


class GetChannelStatus(Message[ChannelStatus], to=KEEPER):
    """How one channel is."""

    channel: ChannelName


class SaveChannel(Message[Done], to=KEEPER):
    """Change a channel's settings, named with or without its prefix; null puts one back to its default.

    `autostart` is one of them. What changes is in force at once.
    """

    channel: ChannelName
    config: dict[str, object]


class ChannelToggled(msgspec.Struct, frozen=True):
    """`running` says that it works already; a channel that was just started may need a moment."""

    channel: str
    configured: bool
    running: bool


class ToggleChannel(Message[ChannelToggled], to=KEEPER):
    """Start or stop a channel, until the daemon's next start; `autostart` says what happens then."""

    channel: ChannelName
    action: Literal["start", "stop"]


class PairingCode(msgspec.Struct, frozen=True):
    """A code that is good once, until `expires_at`; `hint` says what to do with it."""

    channel: str
    code: str
    expires_at: datetime
    hint: str


class MakePairingCode(Message[PairingCode], to=KEEPER):
    """Make a code by which somebody shows on a platform that they may talk there."""

    channel: ChannelName


class ListChannelPairings(Message[list[Pairing]], to=KEEPER):
    """List who is paired."""


class Unpair(Message[Done], to=KEEPER):
    """Forget somebody who was paired."""

    channel: ChannelName
    sender: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class GetChannelProblems(Message[list[str]], to=KEEPER):
    """Say what is wrong with what was to be delivered."""

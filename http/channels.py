"""Channels: how each chat platform is, its settings and its switch, and who may talk there."""

from __future__ import annotations

import msgspec

from ..actors.channels.protocol import (
    GetChannelsStatus,
    GetChannelStatus,
    ListChannelPairings,
    MakePairingCode,
    SaveChannel,
    ToggleChannel,
    Unpair,
)
from ..storage.pairings import Pairing
from .call import Call
from .route import delete, get, post


class PairingList(msgspec.Struct, frozen=True):
    pairings: list[Pairing]


class TelegramStatus(msgspec.Struct, frozen=True):
    """`user_id` is who may talk to the bot, if it is one."""

    configured: bool
    user_id: str | None


class TelegramPairing(msgspec.Struct, frozen=True):
    paired: bool
    user_id: str | None


async def list_pairings(call: Call) -> PairingList:
    """List who has been paired on which channel."""
    return PairingList(await call.ask(ListChannelPairings()))


async def get_telegram_status(call: Call) -> TelegramStatus:
    """Whether Telegram is set up, and for whom."""
    status = await call.ask(GetChannelStatus(channel="telegram"))
    return TelegramStatus(status.configured, await _telegram_user(call))


async def get_telegram_pairing(call: Call) -> TelegramPairing:
    """Whether somebody may talk to the Telegram bot."""
    user_id = await _telegram_user(call)
    return TelegramPairing(user_id is not None, user_id)


async def _telegram_user(call: Call) -> str | None:
    """Whoever the settings name; else who was paired first."""
    named = call.live.current.allowed_user_id
    if named is not None:
        return str(named)
    pairings = await call.ask(ListChannelPairings())
    return next((pairing.sender for pairing in pairings if pairing.channel == "telegram"), None)


SCOPE = "channels"
ROUTES = [
    get("/channels/status", GetChannelsStatus, scope=SCOPE),
    post("/channels/save", SaveChannel, scope=SCOPE),
    post("/channels/toggle", ToggleChannel, scope=SCOPE),
    get("/channels/pairings", list_pairings, scope=SCOPE),
    post("/channels/pairings", MakePairingCode, scope=SCOPE),
    delete("/channels/pairings/{channel}/{sender}", Unpair, scope=SCOPE),
    get("/telegram/status", get_telegram_status, scope=SCOPE),
    get("/telegram/pairing-status", get_telegram_pairing, scope=SCOPE),
]

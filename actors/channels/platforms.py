"""The chat platforms there are: what each is called, what it needs to be set up, and what speaks to it.

To add one, write its class (see chat_platform.py) and name it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from ...config.settings import SETTINGS, Settings
from ...runtime.errors import NotBuilt
from .chat_platform import Platform

if TYPE_CHECKING:
    from ..settings import LiveSettings

GUEST_SCOPES = frozenset({"chat"})
"""Of whoever may talk only because everybody may there: what they say is outside content, too."""


@dataclass(frozen=True)
class PlatformInfo:
    """One platform. `needs` are the settings without which it is not configured; `speaker` is its `module:Class`.

    `people` are the settings that name who may talk; where that is empty, everybody may if `is_open`. `places` names
    the chats that are served. These three are read with every message, so a change of them disturbs nothing.
    """

    name: str
    title: str
    prefix: str
    needs: tuple[str, ...]
    speaker: str = ""
    extra: tuple[str, ...] = ()
    people: str = ""
    is_open: bool = False
    places: str = ""
    mode: str = ""

    @property
    def settings(self) -> tuple[str, ...]:
        """Its settings, by name."""
        return tuple(name for name in SETTINGS if name.startswith(f"{self.prefix}_") or name in self.extra)

    def is_configured(self, settings: Settings) -> bool:
        return all(getattr(settings, name) for name in self.needs)

    def connection(self, settings: Settings) -> tuple[object, ...]:
        """All that its connection hangs on: with another of it, it has to be made anew."""
        read_live = (self.people, self.places)
        return tuple(getattr(settings, name) for name in self.settings if name not in read_live)

    def setting_named(self, name: str) -> str | None:
        """The setting that is meant by a name with or without the platform's prefix."""
        for candidate in (name, f"{self.prefix}_{name}", name.removeprefix(f"{self.prefix}_")):
            if candidate in self.settings:
                return candidate
        return None

    def open(self, live: LiveSettings) -> Platform:
        """Make what speaks to it. Imports its module, so not to be called before it is needed.

        Raises:
            NeedsOperator: a setting is missing.
            NotBuilt: nothing speaks to it yet.
        """
        module, _, name = self.speaker.partition(":")
        if not module:
            raise NotBuilt(f"the channel {self.name} is not built yet")
        speaker: type[Platform] = getattr(import_module(f".{module}", __package__), name)
        return speaker(live)  # pyright: ignore[reportCallIssue] - each takes the settings; a protocol cannot say so


PLATFORMS: Mapping[str, PlatformInfo] = {
    info.name: info
    for info in (
        PlatformInfo(
            "discord",
            "Discord",
            "discord",
            needs=("discord_bot_token",),
            speaker="discord:Discord",
            people="discord_allowed_user_ids",
            is_open=True,
        ),
        PlatformInfo(
            "slack",
            "Slack",
            "slack",
            needs=("slack_bot_token", "slack_app_token"),
            speaker="slack:Slack",
            is_open=True,
            places="slack_allowed_channel_ids",
        ),
        PlatformInfo(
            "whatsapp",
            "WhatsApp",
            "whatsapp",
            needs=("whatsapp_access_token", "whatsapp_phone_number_id"),
            people="whatsapp_allowed_phone_numbers",
            is_open=True,
            mode="whatsapp_mode",
        ),
        PlatformInfo(
            "telegram",
            "Telegram",
            "telegram",
            needs=("telegram_bot_token",),
            speaker="telegram:Telegram",
            extra=("allowed_user_id",),
            people="allowed_user_id",
        ),
        PlatformInfo(
            "signal",
            "Signal",
            "signal",
            needs=("signal_phone_number",),
            people="signal_allowed_phone_numbers",
            is_open=True,
        ),
        PlatformInfo(
            "matrix",
            "Matrix",
            "matrix",
            needs=("matrix_homeserver", "matrix_user_id", "matrix_access_token"),
            is_open=True,
            places="matrix_allowed_room_ids",
        ),
        PlatformInfo("teams", "Microsoft Teams", "teams", needs=("teams_app_id", "teams_app_password"), is_open=True),
        PlatformInfo(
            "google_chat",
            "Google Chat",
            "gchat",
            needs=("gchat_service_account_key",),
            is_open=True,
            places="gchat_allowed_space_ids",
            mode="gchat_mode",
        ),
    )
}

PLATFORM_SETTINGS = frozenset(name for info in PLATFORMS.values() for name in info.settings)
"""Each of them says who is heard: by name, or as whoever speaks for the platform itself (a token, an address)."""

ALIASES: Mapping[str, str] = {"gchat": "google_chat"}


def notice_chats(settings: Settings) -> list[tuple[str, str]]:
    """The chats to which notices go, each as its channel and its own name; none where notices are switched off."""
    named = (one.split(":", 1) for one in settings.notification_channels if settings.notifications_enabled)
    return list(dict.fromkeys((info.name, chat) for name, chat in named if (info := platform_named(name))))


def platform_named(name: str) -> PlatformInfo | None:
    return PLATFORMS.get(ALIASES.get(name, name))

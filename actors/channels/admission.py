"""Who may talk to the agent over a channel, and what the agent may do for them."""

from __future__ import annotations

import hashlib
import re
from typing import cast

from ...config.settings import Settings
from ...runtime import Principal
from ...storage.inbox import Inbound, Standing
from .chat_platform import Heard
from .platforms import GUEST_SCOPES, PlatformInfo

CODE_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
CODE_LENGTH = 10

_CODE = re.compile(
    rf"(?:/(?:start|pair)(?:@\w+)?\s+)?([{CODE_ALPHABET}]{{5}})-?([{CODE_ALPHABET}]{{5}})", re.IGNORECASE
)
_NOT_IN_SESSION_ID = re.compile(r"[^A-Za-z0-9._-]")
SESSION_PART_CHARS = 40


def standing_of(info: PlatformInfo, settings: Settings, heard: Heard) -> Standing:
    """What somebody is by the settings alone; who is paired is trusted besides."""
    named = _names(settings, info.people)
    if heard.sender in named:
        return "trusted"
    places = _names(settings, info.places)
    is_served = not places or heard.chat in places or heard.is_direct
    return "guest" if info.is_open and not named and is_served else "stranger"


def principal_of(inbound: Inbound, settings: Settings) -> Principal:
    """On whose behalf the agent acts for a message."""
    scopes = frozenset(settings.channel_scopes) if inbound.is_trusted else GUEST_SCOPES
    return Principal(f"{inbound.channel}:{inbound.sender}", scopes)


def code_in(text: str) -> str | None:
    """The pairing code that a message is, as it was given out."""
    found = _CODE.fullmatch(text.strip())
    return None if found is None else f"{found[1]}{found[2]}".upper()


def digest_of(code: str) -> str:
    """By what a code is known: who reads the database must not be able to use it."""
    return hashlib.sha256(code.encode()).hexdigest()


def session_base(channel: str, chat: str, thread: str) -> str:
    """The id of the first session of a chat; of long or odd names a digest tells them apart."""
    return ":".join([channel, *(_part(name) for name in (chat, thread) if name)])


def _part(name: str) -> str:
    plain = _NOT_IN_SESSION_ID.sub("_", name)
    if plain == name and len(plain) <= SESSION_PART_CHARS:
        return plain
    return f"{plain[:SESSION_PART_CHARS]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _names(settings: Settings, setting: str) -> frozenset[str]:
    """What a setting lists, or the one thing that it names."""
    value = cast("tuple[object, ...] | object | None", getattr(settings, setting) if setting else None)
    values = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)
    return frozenset(str(one) for one in values if one not in (None, ""))

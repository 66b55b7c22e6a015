"""Who may use a home of PocketPaw 0.4, what its agent is connected to, and what it is told about itself."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec

from ..access.scopes import SCOPES
from ..identity import LIMIT_BYTES
from ..mcp.configuration import ServerConfig
from .old_files import Remark, Unreadable, read_bytes, read_entries, read_json, read_time

IDENTITY_FILES = {
    "identity_file": "IDENTITY.md",
    "soul_file": "SOUL.md",
    "style_file": "STYLE.md",
    "instructions_file": "INSTRUCTIONS.md",
    "user_file": "USER.md",
}
"""By the field of `ChangeIdentity`."""

ITS_OWN_TEXTS = {
    "fb71a58b4e212de5c0f28a40c2234a8bf6ed29c3d67285ee584c2999a2170ae5",
    "982dce3e3242907c53f8c4624d6c5d8114b323efd10f095386642e5c434413a5",
    "5cc6b4fa774568e274ccb83cd1c4742cc00cb8acb94578ce22a3da102c4b13e3",
    "363b334c6029e33635b85df511dc30392a76240b837bccdf70b2429b4d889788",
    "436611700e8977d8e4ee5516b931bc5ed5f57782d21dd27a67b1106f3e48994c",
}
"""SHA-256 of the texts that PocketPaw 0.4.18 puts there itself: they tell of tools that are others here."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


class OldKey(msgspec.Struct, frozen=True):
    """An API key; `key_hash` is the SHA-256 of the whole of it, as here."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,100}$")]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    key_hash: str
    prefix: Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,20}$")]
    scopes: list[str]
    created_at: str
    last_used_at: str | None = None
    expires_at: str | None = None
    revoked: bool = False

    def times(self) -> tuple[datetime, datetime | None, datetime | None]:
        """When it was made, last used, and ends."""
        used, ends = self.last_used_at, self.expires_at
        return read_time(self.created_at), read_time(used) if used else None, read_time(ends) if ends else None


class _Servers(msgspec.Struct, frozen=True):
    servers: list[msgspec.Raw] = []


class _OAuth(msgspec.Struct, frozen=True):
    name: str
    oauth: bool = False


def read_identity(home: Path, left: list[Remark]) -> dict[str, str]:
    """The texts that somebody has written, by their fields."""
    texts: dict[str, str] = {}
    for field, name in IDENTITY_FILES.items():
        try:
            data = read_bytes(home / "identity" / name)
        except Unreadable as error:
            left.append(Remark(name, str(error)))
            continue
        if data is None:
            continue
        if hashlib.sha256(data).hexdigest() in ITS_OWN_TEXTS:
            left.append(Remark(name, "nobody has changed it: it is PocketPaw 0.4's own text"))
        elif len(data) > LIMIT_BYTES:
            left.append(Remark(name, f"it has more than the {LIMIT_BYTES // 1024} KiB that a model reads of it"))
        else:
            texts[field] = data.decode(errors="replace")
    return texts


def read_servers(home: Path, left: list[Remark]) -> Iterator[ServerConfig]:
    """Yield the MCP servers. Raises: Unreadable."""
    found = read_json(home / "mcp_servers.json", _Servers) or _Servers()
    yield from read_entries(found.servers, ServerConfig, left)
    logged_in = (entry.name for entry in read_entries(found.servers, _OAuth, []) if entry.oauth)
    left.extend(Remark(name, "its login is not taken: log in to it anew") for name in logged_in)


def read_keys(home: Path, left: list[Remark]) -> Iterator[OldKey]:
    """Yield the API keys that still open something. Raises: Unreadable."""
    raw = read_json(home / "api_keys.json", list[msgspec.Raw]) or []
    for key in read_entries(raw, OldKey, left):
        reason = _ended(key)
        if reason:
            left.append(Remark(key.name, reason))
        else:
            yield key


def _ended(key: OldKey) -> str:
    """Why a key is not taken; empty if it is."""
    if key.revoked:
        return "it has been revoked"
    if unknown := [scope for scope in key.scopes if scope not in SCOPES]:
        return f"its scope {unknown[0]!r} is not known here"
    if not _DIGEST.fullmatch(key.key_hash):
        return "it is not kept as a SHA-256"
    try:
        _, _, ends = key.times()
    except ValueError:
        return "its times cannot be read"
    return "it has expired" if ends is not None and ends <= datetime.now(UTC) else ""

"""What of a gateway session outlives its connection, and the daemon: enough to resume it, or to see what was missed.

It may lag behind: what is heard twice for that has the same key. Without it, all begins anew and nothing breaks.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
import structlog
import trio

from ...config.private_file import write_private
from ..models.wire_error import UNREADABLE

log = structlog.get_logger()


Snowflake = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,20}$")]
"""Discord's ids; those of messages are in the order of time."""

RESUMABLE_S = 300.0
"""Discord keeps a session without a connection for a few minutes (discord.com/developers/docs/events/gateway)."""

KNOWN_CHANNELS = 500
"""Of how many channels it is remembered what was seen last: those where something was said latest."""


class KnownChannel(msgspec.Struct):
    """A channel from which something was heard."""

    latest: Snowflake
    """The id of the latest message seen there."""
    guild_id: str | None = None
    gap_after: Snowflake | None = None
    """Set while messages after this one may have been missed."""


class Session(msgspec.Struct):
    """Discord replays what follows `seq` to whoever resumes the session `id`.

    Invariant: every event up to `seq` has been heard, and so is on disk.
    """

    id: str = ""
    seq: int | None = None
    resume_url: str = ""
    alive_at: float = 0.0
    """When it was last known to live, in seconds since 1970."""
    user_id: str = ""
    role_ids: set[str] = msgspec.field(default_factory=set[str])
    """The bot's own roles: one bears its name, and people mention that one by mistake."""
    channels: dict[str, KnownChannel] = msgspec.field(default_factory=dict[str, KnownChannel])

    @property
    def is_resumable(self) -> bool:
        return bool(self.id) and abs(time.time() - self.alive_at) < RESUMABLE_S

    @property
    def gaps(self) -> list[tuple[str, KnownChannel]]:
        """The channels in which something may have been missed."""
        return [(channel_id, known) for channel_id, known in self.channels.items() if known.gap_after is not None]

    def begin(self, session_id: str, resume_url: str, user_id: str) -> None:
        """A new session has begun; what was said before it is in none."""
        if user_id != self.user_id:
            self.channels.clear()
            self.role_ids.clear()
        self.id, self.seq, self.resume_url, self.user_id = session_id, None, resume_url, user_id
        for known in self.channels.values():
            known.gap_after = known.gap_after or known.latest

    def forget(self) -> None:
        """It cannot be resumed any more."""
        self.id, self.seq, self.resume_url = "", None, ""

    def advance(self, seq: int | None) -> None:
        """The event `seq` has been heard."""
        self.alive_at = time.time()
        if seq is not None:
            self.seq = max(seq, self.seq or 0)

    def note(self, channel_id: str, message_id: str, guild_id: str | None, *, is_heard: bool) -> bool:
        """Remember what was seen last in a channel, if something was ever heard from there; whether that is new."""
        known = self.channels.pop(channel_id, None)
        is_new = known is None
        if known is None:
            if not is_heard:
                return False
            known = KnownChannel(message_id, guild_id)
        elif int(message_id) > int(known.latest):
            known.latest = message_id
        self.channels[channel_id] = known  # the last of them is the most recent one
        while len(self.channels) > KNOWN_CHANNELS:
            del self.channels[next(iter(self.channels))]
        return is_new


class SessionFile:
    """Keeps a session in a file, for the next incarnation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written = b""

    async def load(self) -> Session:
        """Read the session; a new one if there is none or it cannot be read, which costs what was missed meanwhile."""
        try:
            return msgspec.json.decode(await trio.to_thread.run_sync(self.path.read_bytes), type=Session)
        except FileNotFoundError:
            return Session()
        except (OSError, *UNREADABLE) as error:
            log.warning("the Discord session cannot be resumed", file=str(self.path), reason=str(error))
            return Session()

    async def save(self, session: Session) -> None:
        """Write the session. That this fails costs the resumption only, so it is said and nothing more."""
        data = msgspec.json.encode(session)
        if data == self._written:
            return
        try:
            await trio.to_thread.run_sync(self._write, data)
            self._written = data
        except OSError as error:
            log.warning("the Discord session is not kept", file=str(self.path), reason=str(error))

    def _write(self, data: bytes) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self.path, data)

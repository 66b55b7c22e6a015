"""What the agent can know of the daemon that it lives in: the time, earlier conversations, how it is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec

from ...runtime.errors import InvalidInput
from ...storage.search import SearchSessions
from ..health import GetHealth
from .protocol import Execute, ToolOutput
from .toolbox import Arguments, Toolbox, tool

SESSIONS = "sessions"
"""Says that others may have a part in what was found: who wrote in a session, and what was read there."""


class CurrentTime(Arguments, frozen=True):
    time_zone: Annotated[
        str, msgspec.Meta(description="Such as Europe/Berlin or UTC; by default this machine's", max_length=64)
    ] = ""


class SearchSessionsArguments(Arguments, frozen=True):
    query: Annotated[
        str, msgspec.Meta(description="Words that were all said in one message", min_length=1, max_length=1_000)
    ]
    limit: Annotated[int, msgspec.Meta(description="How many sessions, at most", ge=1, le=50)] = 10


class DaemonHealth(Arguments, frozen=True):
    """Nothing."""


class DaemonTools(Toolbox):
    """Tells of nothing but the daemon's own."""

    @tool("read", "chat")
    async def current_time(self, arguments: CurrentTime, call: Execute) -> str:
        """The date, the day of the week and the time now."""
        now = datetime.now(UTC).astimezone(_zone(arguments.time_zone))
        return f"{now:%A}, {now.isoformat(timespec='seconds')} ({now.tzname()})"

    @tool("read", "sessions", subject="query")
    async def search_sessions(self, arguments: SearchSessionsArguments, call: Execute) -> ToolOutput:
        """Search all conversations with the user, this one too, for messages that hold certain words."""
        found = await self.ask(SearchSessions(q=arguments.query, limit=arguments.limit))
        if not found.sessions:
            return ToolOutput("No message has all of these words. Fewer or other words may be found.")
        lines = (
            f"- {match.title} (session {match.id}, last active {match.last_activity:%Y-%m-%d}): "
            f"{match.match_role} said: {match.match}"
            for match in found.sessions
        )
        return ToolOutput("\n".join(lines), source=SESSIONS)

    @tool("read", "chat")
    async def daemon_health(self, arguments: DaemonHealth, call: Execute) -> str:
        """How this PocketPaw daemon is: what its health checks find wrong, and what to do about it."""
        health = await self.ask(GetHealth())
        lines = [f"{health.status}, by {health.check_count} checks."]
        lines += [f"- {issue.status}: {issue.message} To mend it: {issue.fix_hint}" for issue in health.issues]
        return "\n".join(lines)


def _zone(name: str) -> ZoneInfo | None:
    """The time zone of that name; None, which stands for this machine's, if it is empty."""
    if not name:
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; no name at all; the name of a folder
        raise InvalidInput(
            f"time_zone: there is no time zone {name!r}: expected a name such as Europe/Berlin or UTC"
        ) from None

"""What an MCP tool is called here: `mcp__<server>__<tool>`, in the characters that every model takes."""

from __future__ import annotations

import re
from hashlib import sha256

LONGEST = 64
_OTHERS = re.compile(r"[^A-Za-z0-9_-]")


def tool_name(server: str, tool: str) -> str:
    """Name a server's tool; whatever could be the name of another one gets a hash at its end."""
    plain = f"{_prefix(server)}{tool}"
    name = _OTHERS.sub("_", plain)
    is_ambiguous = "__" in server or server.endswith("_")
    if name == plain and len(name) <= LONGEST and not is_ambiguous:
        return name
    mark = sha256(f"{server}/{tool}".encode()).hexdigest()[:8]
    return f"{name[: LONGEST - len(mark) - 1]}_{mark}"


def may_be_of(server: str, name: str) -> bool:
    """Whether a tool of this name may be one of `server`'s."""
    return name.startswith(_prefix(server)[: LONGEST - 9])


def _prefix(server: str) -> str:
    return f"mcp__{server}__"

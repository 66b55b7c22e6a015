"""Security: what the agent may do, for whom, and with what from outside."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import cast

import msgspec
import trio

from ...config import Settings
from ...config.document import UnreadableFileError, read_document
from ..channels.platforms import PLATFORMS, PlatformInfo
from ..mcp.configuration import FILE
from .security_check import Premises, Seen, fine, security_check, setting, wrong

_WHOLE_SHELL = re.compile(r"(?:[^@()\s]+@)?(?:\*+|shell\*?|sh\*|s\*)(?:\(\**\))?")
"""A rule that lets every command through."""

RUNNERS = {"npx", "uvx", "bunx", "pipx"}
_VERSION = re.compile(r"^@?[^@\s]+(@|==)\d[^@\s]*$")


@security_check("Tools that run without asking")
async def tool_rules(premises: Premises) -> Seen:
    open_rules = [rule for rule in premises.live.current.tools_allow if _WHOLE_SHELL.fullmatch(rule)]
    if open_rules:
        return wrong(f"tools_allow has {', '.join(open_rules)}: every command runs without asking; narrow it down")
    return fine("no rule lets every command run without asking")


@security_check("Injected instructions", repair=setting(injection_scan_enabled=None))
async def injection_scan(premises: Premises) -> Seen:
    if premises.live.current.injection_scan_enabled:
        return fine("what comes from outside is searched for injected instructions")
    return wrong("what comes from outside is not searched for injected instructions (injection_scan_enabled)")


@security_check("Files that tools may reach")
async def file_jail(premises: Premises) -> Seen:
    path = premises.live.current.file_jail_path
    if PurePath(path) == PurePath("/"):
        return wrong("file_jail_path is /: tools and the API reach every file of this machine; name a folder")
    return fine(f"tools and the API reach files in {path}, less those that hold secrets")


@security_check("MCP servers that change by themselves")
async def mcp_versions(premises: Premises) -> Seen:
    try:
        servers = await trio.to_thread.run_sync(_servers, premises.live.home.root / FILE)
    except UnreadableFileError as error:
        return wrong(f"nobody can say which MCP servers there are: {error}")
    loose = [server.name for server in servers if server.enabled and not _is_pinned(server)]
    if loose:
        return wrong(
            f"each start of {', '.join(loose)} may fetch another version: name one in args (package@1.2.3, or ==1.2.3)"
        )
    return fine("no MCP server is fetched without a version")


class _Server(msgspec.Struct, frozen=True):
    """What of a server's entry says which program it is."""

    name: str
    command: str = ""
    args: list[str] = []
    enabled: bool = True


def _servers(path: Path) -> list[_Server]:
    """The servers in the file, without their secrets; what is no server is told by the health check."""
    entries = read_document(path).values.get("servers")
    servers: list[_Server] = []
    for entry in cast("list[object]", entries) if isinstance(entries, list) else []:
        try:
            servers.append(msgspec.convert(entry, _Server))
        except msgspec.ValidationError:
            continue
    return servers


def _is_pinned(server: _Server) -> bool:
    """Whether what a program that fetches packages is told to run has its version."""
    if PurePath(server.command).name not in RUNNERS:
        return True
    named = [argument for argument in server.args if not argument.startswith("-") and argument != "run"]
    return bool(named) and _VERSION.fullmatch(named[0]) is not None


@security_check("Channels")
async def channels(premises: Premises) -> Seen:
    settings = premises.live.current
    is_open = [info for info in PLATFORMS.values() if info.is_configured(settings) and _is_open(info, settings)]
    if is_open:
        names = ", ".join(info.people or info.places or info.name for info in is_open)
        return wrong(f"anybody may talk to the agent through {_titles(is_open)}: name those who may ({names})")
    return fine("no channel that is set up lets anybody talk to the agent")


def _is_open(info: PlatformInfo, settings: Settings) -> bool:
    return info.is_open and not any(getattr(settings, name) for name in (info.people, info.places) if name)


def _titles(infos: Iterable[PlatformInfo]) -> str:
    return ", ".join(info.title for info in infos)


CHECKS = (tool_rules, injection_scan, file_jail, mcp_versions, channels)

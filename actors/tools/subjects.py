"""What rules and grants are matched against: a path as the one that it leads to, an address in its plainest form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import trio

from ...runtime.errors import PocketPawError
from .jail import Jail
from .protocol import ToolInfo


async def subject_of(tool: ToolInfo, arguments: Mapping[str, object], jail: Jail) -> str:
    """The subject of a call, as the tool takes it where it was left out.

    Empty if the tool has none, or if it is no text: whoever executes the call says what is wrong with that.
    """
    if not tool.subject:
        return ""
    given = arguments[tool.subject] if tool.subject in arguments else _default(tool)
    if not isinstance(given, str):
        return ""
    if tool.subject == "path":
        return await trio.to_thread.run_sync(_real_path, jail, given)
    if tool.subject == "url":
        return await trio.to_thread.run_sync(_plain_address, given)
    return given


async def place_of(tool: ToolInfo, arguments: Mapping[str, object], jail: Jail) -> str:
    """The folder that a command names, if it is not the one where commands are run anyway."""
    folder = arguments.get("cwd")
    if tool.subject != "command" or not isinstance(folder, str):
        return ""
    real = await trio.to_thread.run_sync(_real_path, jail, folder)
    return "" if real == str(jail.root) else real


def _default(tool: ToolInfo) -> object:
    properties = tool.parameters.get("properties")
    about = cast("dict[str, object]", properties).get(tool.subject) if isinstance(properties, dict) else None
    return cast("dict[str, object]", about).get("default") if isinstance(about, dict) else None


def _real_path(jail: Jail, path: str) -> str:
    try:
        return str(jail.resolve(path))
    except PocketPawError:  # whoever executes it says so
        return path


def _plain_address(url: str) -> str:
    from .egress import parse  # here: an HTTP client is 6 MB that not everybody needs

    try:
        parsed = parse(url)
    except PocketPawError:  # whoever executes it says so
        return url
    return str(parsed.copy_with(raw_path=parsed.raw_path))

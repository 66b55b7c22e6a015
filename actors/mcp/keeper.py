"""The keeper of MCP servers: their configuration, the actor of each, and the one door to all their tools."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

import msgspec
import trio

from ...config import UnreadableFileError, VaultError
from ...config.logs import Redactor
from ...runtime import Actor, Child, Done, DynamicSupervisor, SupervisorNode, Terminated
from ...runtime.cell import Cell
from ...runtime.errors import ActorDied, AskTimeout, InvalidInput, NotFound, PocketPawError, Unavailable
from ...runtime.node import Node
from ..health import RecordProblem
from ..settings import LiveSettings, vault_closed
from ..tools.catalogue import Catalogue
from ..tools.protocol import Execute, ToolEvent, ToolInfo
from . import configuration
from .configuration import FILE, Entries, ServerConfig, Servers
from .naming import may_be_of
from .presets import PRESETS
from .protocol import (
    KEEPER,
    SERVERS,
    AddMcpServer,
    GetMcpProblems,
    GetMcpStatus,
    Installed,
    InstallMcpPreset,
    ListMcpPresets,
    ListMcpTools,
    OfferMcpTools,
    PresetView,
    RemoveMcpServer,
    ServerState,
    ServerStatus,
    Toggled,
    ToggleMcpServer,
    ToolSummary,
    Trial,
    TryMcpServer,
    WaitUntilConnected,
)
from .server import McpServer

TRIAL = "~"
"""Begins the name of an actor that is only tried; no configured server has such a name."""

LOOK_S = 10.0
"""That each enabled server has its actor is seen to this often: an operator may have restarted their supervisor."""

GRACE_S = 5.0
"""On top of a server's own limits, before whoever waits for it gives up."""

REFUSALS: tuple[type[PocketPawError], ...] = (ActorDied, AskTimeout, Unavailable)


class McpKeeper(Actor):
    """Answers from memory; servers are started and stopped in a task of its own, so that none keeps another waiting.

    Agents call a server's own actor while it is connected. While it is down they call the keeper, to be refused at
    once: the server's mailbox would keep them waiting until the next incarnation.
    """

    has_tasks = True
    concurrency = 10_000
    handler_timeout_s = None  # calls and trials have limits of their own

    def __init__(self, live: LiveSettings, catalogue: Catalogue) -> None:
        super().__init__()
        self._live = live
        self._catalogue = catalogue
        self._offered: dict[str, list[ToolInfo]] = {}
        self._redactor = Redactor(lambda: live.secrets)
        self._file = live.home.root / FILE
        self._servers = Servers({})
        self._unreadable = ""
        self._writing = trio.Lock()
        self._changed = trio.Event()

    async def on_start(self) -> None:
        try:
            self._adopt(await trio.to_thread.run_sync(configuration.load, self._file, self._live.vault))
        except (UnreadableFileError, OSError) as error:
            self._unreadable = f"{error}: no MCP server is started until that is corrected"
        for problem in self._problems():
            await self.tell(RecordProblem(source=self.path, message=problem))
        self.spawn(self._keep_in_step)

    # What agents use --------------------------------------------------------------------------------------------------

    async def list_mcp_tools(self, message: ListMcpTools) -> list[ToolInfo]:
        return [tool for name in self._servers.by_name for tool in self._tools(name)]

    async def terminated(self, word: Terminated) -> None:
        """A server's connection has ended: nobody shall wait in its mailbox for the next one."""
        self._offer()

    async def offer_mcp_tools(self, message: OfferMcpTools) -> Done:
        self._offer()
        return Done()

    def _offer(self) -> None:
        """Offer agents the tools of what is connected; and of what is expected back in a moment, at our own address."""
        before, self._offered = self._offered, {}
        for name, config in self._servers.by_name.items():
            status = self._status(config)
            if not config.enabled:
                continue
            if status.connected:
                self._offered[name] = self._tools(name)
                self.watch(f"{SERVERS}/{name}")
            elif status.state != "parked" and name in before:
                self._offered[name] = [msgspec.structs.replace(tool, address=KEEPER) for tool in before[name]]
        if self._offered != before:
            self._catalogue.replace_outside(tool for tools in self._offered.values() for tool in tools)

    async def execute(self, message: Execute) -> AsyncGenerator[ToolEvent]:
        """Refuse a call of a server that is down; pass it on if it is back already."""
        path = self._server_of(message.name)
        idle_s = self._live.current.mcp_call_timeout_s + GRACE_S
        async with self.stream(message, to=path, idle_timeout_s=idle_s) as events:
            async for event in events:
                yield event

    # What operators use -----------------------------------------------------------------------------------------------

    async def get_mcp_status(self, message: GetMcpStatus) -> dict[str, ServerStatus]:
        return {name: self._status(config) for name, config in self._servers.by_name.items()}

    async def get_mcp_problems(self, message: GetMcpProblems) -> list[str]:
        return self._problems()

    async def add_mcp_server(self, message: AddMcpServer) -> Done:
        await self._change(partial(configuration.put, config=message.config()))
        return Done()

    async def remove_mcp_server(self, message: RemoveMcpServer) -> Done:
        await self._change(lambda entries: entries.remove(_entry(entries, message.name)))
        return Done()

    async def toggle_mcp_server(self, message: ToggleMcpServer) -> Toggled:
        def toggle(entries: Entries) -> None:
            entry = _entry(entries, message.name)
            entry["enabled"] = entry.get("enabled") is False

        servers = await self._change(toggle)
        if message.name not in servers.by_name:
            raise InvalidInput(f"server {message.name} is not usable as it is configured: add it anew", field="name")
        return Toggled("ok", servers.by_name[message.name].enabled)

    async def try_mcp_server(self, message: TryMcpServer) -> Trial:
        known = self._servers.by_name.get(message.name)
        config = message.config()
        if known is not None:
            config = configuration.unmasked(config, known.env, known.headers)
        config.check()
        self._live.secrets |= frozenset(config.secrets())
        name = f"{TRIAL}{secrets.token_hex(4)}"
        node = await self._start(config, id=name, restart="temporary")
        try:
            return await self._outcome(node, config)
        finally:
            self.spawn(self._dismiss, name)

    async def list_mcp_presets(self, message: ListMcpPresets) -> list[PresetView]:
        return [preset.view(is_installed=id_ in self._servers.by_name) for id_, preset in PRESETS.items()]

    async def install_mcp_preset(self, message: InstallMcpPreset) -> Installed:
        preset = PRESETS.get(message.preset_id)
        if preset is None:
            raise NotFound(f"there is no preset {message.preset_id!r}: GET mcp/presets lists them")
        config = preset.config(message.env, message.extra_args)
        await self._change(partial(configuration.put, config=config))
        await self._bring_in_step()
        trial = await self._outcome(self.system.node(f"{SERVERS}/{config.name}"), config)
        return Installed("ok", trial.connected, trial.tools, trial.error)

    # The configuration ------------------------------------------------------------------------------------------------

    async def _change(self, edit: Callable[[Entries], None]) -> Servers:
        """Edit the file as it is now, so that what somebody wrote into it by hand is not lost."""
        async with self._writing:
            try:
                servers = await trio.to_thread.run_sync(configuration.change, self._file, self._live.vault, edit)
            except UnreadableFileError as error:
                raise Unavailable(f"nothing was saved, as {error}: correct that file first") from error
            except VaultError as error:
                raise vault_closed(error) from error
            except OSError as error:
                raise Unavailable(f"{self._file} could not be saved: {error.strerror}") from error
            self._adopt(servers)
            return servers

    def _adopt(self, servers: Servers) -> None:
        self._servers, self._unreadable = servers, ""
        hidden = frozenset(text for config in servers.by_name.values() for text in config.secrets())
        if not hidden <= self._live.secrets:
            self._live.secrets |= hidden
        self._offer()
        self._changed.set()

    def _problems(self) -> list[str]:
        unreadable = [self._unreadable] if self._unreadable else []
        return [*unreadable, *(f"{self._file}: {problem}" for problem in self._servers.problems)]

    # The servers' actors ----------------------------------------------------------------------------------------------

    async def _keep_in_step(self) -> None:
        while True:
            self._changed = trio.Event()
            await self._bring_in_step()
            with trio.move_on_after(LOOK_S if self._servers.by_name else float("inf")):
                await self._changed.wait()

    async def _bring_in_step(self) -> None:
        """Have an actor for each enabled server as it is configured now, and no other."""
        wanted = {name: config for name, config in self._servers.by_name.items() if config.enabled}
        present = {node.name: node for node in self._supervisor().which_children() if not node.name.startswith(TRIAL)}
        async with trio.open_nursery() as nursery:
            for name in wanted.keys() | present.keys():
                if name not in present or _config_of(present[name]) != wanted.get(name):
                    nursery.start_soon(self._renew, name, wanted.get(name), name in present)
        self._offer()

    async def _renew(self, name: str, config: ServerConfig | None, is_present: bool) -> None:
        if is_present:
            await self._dismiss(name)
        if config is not None:
            try:
                await self._start(config, id=name)
            except PocketPawError:
                pass  # another change was quicker, or all is being stopped: it is looked at again

    async def _start(self, config: ServerConfig, **options: Any) -> Node:
        supervisor = self._supervisor()
        assert isinstance(supervisor.spec, DynamicSupervisor)
        policy = {**supervisor.spec.child_options, **options}
        return await supervisor.start_child(Child(McpServer, config, self._live, **policy))

    async def _dismiss(self, name: str) -> None:
        try:
            await self._supervisor().terminate_child(name)
        except PocketPawError:
            pass  # it has gone by itself

    def _supervisor(self) -> SupervisorNode:
        node = self.system.node(SERVERS)
        assert isinstance(node, SupervisorNode)
        return node

    async def _outcome(self, node: Node, config: ServerConfig) -> Trial:
        """Wait until a server is connected, or has failed for the first time."""
        try:
            tools = await self.ask(WaitUntilConnected(), to=node.path, timeout_s=config.timeout + GRACE_S)
        except REFUSALS as error:
            return Trial(connected=False, error=self._redactor.text(node.last_error or error.detail), tools=[])
        return Trial(connected=True, error="", tools=[ToolSummary(tool.name, tool.description) for tool in tools])

    # What is there now ------------------------------------------------------------------------------------------------

    def _status(self, config: ServerConfig) -> ServerStatus:
        node, server = self._node(config.name), self._server(config.name)
        is_connected = server is not None and server.is_connected
        error = node.last_error if node is not None and not is_connected else None
        return ServerStatus(
            enabled=config.enabled,
            connected=is_connected,
            transport=config.transport,
            tool_count=len(self._tools(config.name)),
            error=self._redactor.text(error or ""),
            restarts=node.restarts if node is not None else 0,
            state=_state(node, server, config),
        )

    def _server_of(self, tool: str) -> str:
        """Where to call a tool.

        Raises:
            Unavailable: its server is not connected.
            NotFound: no server has such a tool.
        """
        for name in self._servers.by_name:
            server = self._server(name)
            if server is not None and server.has_tool(tool):
                return server.path
        candidates = [name for name in self._servers.by_name if may_be_of(name, tool)]
        if not candidates:
            raise NotFound(f"no MCP server has a tool {tool}")
        name = max(candidates, key=len)
        status = self._status(self._servers.by_name[name])
        if status.connected:
            raise NotFound(f"MCP server {name} has no tool {tool}")
        why = f" ({status.error})" if status.error else ""
        raise Unavailable(f"MCP server {name} cannot be used now, it is {status.state}{why}")

    def _tools(self, name: str) -> list[ToolInfo]:
        server = self._server(name)
        return server.tools if server is not None else []

    def _server(self, name: str) -> McpServer | None:
        """The actor that runs for a server, if it does."""
        node = self._node(name)
        if node is None or node.state != "running":
            return None
        return node.actor if isinstance(node.actor, McpServer) else None

    def _node(self, name: str) -> Cell | None:
        node = self.system.nodes.get(f"{SERVERS}/{name}")
        return node if isinstance(node, Cell) else None


def _state(node: Cell | None, server: McpServer | None, config: ServerConfig) -> ServerState:
    if node is None:
        return "starting" if config.enabled else "disabled"
    if server is not None:
        return "connected" if server.is_connected else "connecting"
    if node.state in ("parked", "stopping"):
        return node.state
    return "backoff" if node.state in ("crashed", "backoff", "stopped") else "starting"


def _config_of(node: Node) -> ServerConfig:
    assert isinstance(node, Cell)
    config, _ = node.spec.args
    return config


def _entry(entries: Entries, name: str) -> dict[str, object]:
    entry = configuration.find(entries, name)
    if entry is None:
        raise NotFound(f"there is no MCP server {name!r}")
    return entry

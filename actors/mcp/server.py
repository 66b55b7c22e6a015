"""One MCP server: an actor for as long as the connection lasts."""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, ClassVar, Protocol

import trio

from ...config import Settings
from ...runtime import Actor
from ...runtime.envelope import Envelope, current_envelope
from ...runtime.errors import PocketPawError, Unavailable
from ...runtime.message import encode
from ...runtime.reply import StreamReply
from ..tools.protocol import Execute, ToolEvent, ToolInfo, ToolOutput, ToolProgress
from .configuration import ServerConfig
from .protocol import (
    ListPrompts,
    ListResources,
    Offer,
    OfferMcpTools,
    ReadResource,
    WaitUntilConnected,
)

if TYPE_CHECKING:
    from .session import Session

QUIET_S = 30.0
"""A server that has nothing to do is asked for a sign of life this often."""

SETTLE_S = 0.2
"""Before its tools are listed anew: a server that changes them one by one says so as often."""

LEAVE_S = 3.0
"""To take leave of a server in good order; less than the child's time to stop."""


class SettingsSource(Protocol):
    @property
    def current(self) -> Settings: ...


class McpServer(Actor):
    """Connected from its start on. That the connection fails or ends is its end, and its supervisor starts it anew."""

    has_tasks: ClassVar[bool] = True
    proves_health: ClassVar[bool] = True
    concurrency = 1000
    handler_timeout_s = None  # calls have a limit of their own

    def __init__(self, config: ServerConfig, live: SettingsSource) -> None:
        super().__init__()
        self.config = config
        self._live = live
        self._session: Session | None = None
        self._connected = trio.Event()
        self._leaving = trio.Event()
        self._left = trio.Event()
        self._calls = 0

    @property
    def tools(self) -> list[ToolInfo]:
        """What it offers now; nothing unless it is connected."""
        return list(self._session.tools.values()) if self._session is not None and self.is_connected else []

    def has_tool(self, name: str) -> bool:
        return self._session is not None and self.is_connected and name in self._session.tools

    @property
    def is_connected(self) -> bool:
        return self._connected.is_set()

    async def on_start(self) -> None:
        self.spawn(self._live_session)

    async def on_stop(self) -> None:
        if self.is_connected:
            self._leaving.set()
            with trio.move_on_after(LEAVE_S):
                await self._left.wait()

    # What it is asked -------------------------------------------------------------------------------------------------

    async def execute(self, message: Execute) -> AsyncGenerator[ToolEvent]:
        """Call a tool. Progress goes into the answer from beside this handler, which waits for the result meanwhile."""
        session = self._require_session()
        progress = _Progress(current_envelope.get())
        self._calls += 1
        try:
            timeout_s = self._live.current.mcp_call_timeout_s
            yield await session.call(message.name, message.arguments, timeout_s, progress)
        finally:
            self._calls -= 1

    async def wait_until_connected(self, message: WaitUntilConnected) -> list[ToolInfo]:
        await self._connected.wait()
        return self.tools

    async def list_resources(self, message: ListResources) -> list[Offer]:
        return await self._require_session().resources()

    async def read_resource(self, message: ReadResource) -> ToolOutput:
        return await self._require_session().read(message.uri)

    async def list_prompts(self, message: ListPrompts) -> list[Offer]:
        return await self._require_session().prompts()

    def _require_session(self) -> Session:
        if self._session is None or not self.is_connected:
            raise Unavailable(f"MCP server {self.config.name} is not connected yet")
        return self._session

    # Its tasks --------------------------------------------------------------------------------------------------------

    async def _live_session(self) -> None:
        """Enter the SDK's contexts, live in them, and leave them."""
        name = f"{__package__}.session"  # takes a second to import, the first time
        module = await trio.to_thread.run_sync(importlib.import_module, name, abandon_on_cancel=True)
        session: Session = module.Session(self.config, self.path)
        self._session = session
        await session.run(self._while_connected)
        self._left.set()

    async def _while_connected(self) -> None:
        self._connected.set()
        self.prove_health()
        await self._tell_keeper()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_in_touch)
            await self._leaving.wait()
            nursery.cancel_scope.cancel()

    async def _keep_in_touch(self) -> None:
        """Follow changes of the tools; see from time to time that a quiet server is not a dead one."""
        session = self._require_session()
        while True:
            with trio.move_on_after(QUIET_S):
                await session.changed.wait()
                await trio.sleep(SETTLE_S)
            if session.changed.is_set():
                session.changed = trio.Event()
                await session.refresh()
                await self._tell_keeper()
            elif self._calls == 0:
                await session.ping()

    async def _tell_keeper(self) -> None:
        try:
            await self.tell(OfferMcpTools())
        except PocketPawError:
            pass  # it is down, and looks for itself when it is back


class _Progress:
    """Puts what a server says of a call that it works on into the call's answer; what nobody reads in time is lost."""

    def __init__(self, envelope: Envelope | None) -> None:
        self._reply = envelope.reply if envelope is not None else None

    async def __call__(self, progress: ToolProgress) -> None:
        if isinstance(self._reply, StreamReply):
            with trio.CancelScope() as scope:
                scope.cancel()
                await self._reply.put(encode(progress))

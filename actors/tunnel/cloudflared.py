"""The tunnel at work: an actor for as long as cloudflared runs and is of use."""

from __future__ import annotations

from typing import ClassVar

import msgspec
import structlog
import trio

from ...config.logs import Redactor
from ...runtime import Actor, IgnoreStart
from ...runtime.errors import TransientFailure
from ..health import EVENTS, SystemEvent
from ..settings import LiveSettings
from .exposure import Exposure
from .output import Output
from .process import check_own_tunnel, find_program, obituary, run_cloudflared
from .protocol import STATUS_EVENT
from .readiness import is_ready

log = structlog.get_logger()

LAST_WORDS_S = 0.2
"""What it has started may hold its pipe open for longer than it lives."""

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 what is listened on, and where that is reached


class Limits(msgspec.Struct, frozen=True):
    """`start_s` is how long it may take to be given an address (cloudflared itself gives up asking after 15 s), and
    `settle_s` how long whoever opens it then waits for it to lead here. `unready_s` is the patience with one that leads
    nowhere: cloudflared tries again by itself, with the same address, and a new process has a new one. `leave_s` is how
    long it may take to end, less than the child's time to stop.
    """

    start_s: float = 30.0
    settle_s: float = 15.0
    poll_s: float = 5.0
    unready_poll_s: float = 0.5
    unready_s: float = 60.0
    leave_s: float = 2.0


DEFAULT_LIMITS = Limits()


class Cloudflared(Actor):
    """Runs from its start on. That the process ends, or leads nowhere for long, is its end; its supervisor starts it
    anew.
    """

    has_tasks: ClassVar[bool] = True
    proves_health: ClassVar[bool] = True

    def __init__(self, live: LiveSettings, exposure: Exposure, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__()
        self._live = live
        self._exposure = exposure
        self._limits = limits
        self._redactor = Redactor(lambda: live.secrets)
        self._output = Output()
        self._own_url: str | None = None
        self._process: trio.Process | None = None
        self._is_leaving = False
        self._has_left = trio.Event()
        self._has_address = trio.Event()
        self._ready = trio.Event()

    @property
    def url(self) -> str | None:
        """The address that the tunnel was given; one of the operator's own has the one that is set."""
        output = self._output
        return output.url or (self._own_url if output.metrics_port is not None else None)

    @property
    def is_connected(self) -> bool:
        return self._ready.is_set()

    async def on_start(self) -> None:
        if not self._exposure.is_wanted:
            raise IgnoreStart  # an operator's restart of the actor opens nothing
        settings = self._live.current
        check_own_tunnel(settings)
        self._own_url = settings.cloudflared_url if settings.cloudflared_token else None
        self.spawn(self._run, find_program(settings.cloudflared_path), self._target(), settings.cloudflared_token)

    async def on_stop(self) -> None:
        """Ask it to end; its task kills whatever is left."""
        self._is_leaving = True
        if self._process is not None:
            self._process.terminate()
            with trio.move_on_after(self._limits.leave_s):
                await self._has_left.wait()

    async def wait_until_up(self) -> None:
        """Wait until it has an address, and a while longer until that leads here; for the keeper's task.

        No message: an actor that is asked to stop waits for the messages in hand.
        """
        await self._has_address.wait()
        with trio.move_on_after(self._limits.settle_s):
            await self._ready.wait()

    # Its tasks --------------------------------------------------------------------------------------------------------

    async def _run(self, program: str, target: str, token: str) -> None:
        """Run the process from its start to its end."""
        with self._exposure.process():
            async with run_cloudflared(program, target, token) as process:
                self._process = process
                reason = self._redactor.text(await self._stay(process, target))
        self._has_left.set()
        if not self._is_leaving:
            self._ready = trio.Event()
            self._tell(f"The tunnel is down, and about to be started again: {reason}.")
            raise TransientFailure(reason)

    async def _stay(self, process: trio.Process, target: str) -> str:
        """Listen to it and look after it until it has ended or is of no use; returns why."""
        is_dry = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, process, is_dry)
            nursery.start_soon(_cancel_at_end, process, is_dry, nursery.cancel_scope)
            reason = await self._look_after(target)
            nursery.cancel_scope.cancel()
            return reason
        return obituary(process, self._output.last_words)

    async def _listen(self, process: trio.Process, is_dry: trio.Event) -> None:
        """Read what it prints for life, or it would block on a full pipe."""
        assert process.stdout is not None
        async for data in process.stdout:
            before = self.url
            self._output.feed(bytes(data))
            if self.url != before:
                log.info("the tunnel has an address", actor=self.path, url=self.url)
                self._tell(f"The tunnel's address is {self.url} now.")
            if self.url is not None and self._output.metrics_port is not None:
                self._has_address.set()
        is_dry.set()

    async def _look_after(self, target: str) -> str:
        """See that it has an address, and then again and again that this leads here; returns what is wrong."""
        limits = self._limits
        with trio.move_on_after(limits.start_s):
            await self._has_address.wait()
        port, ready_at = self._output.metrics_port, self.system.now()
        if port is None or self.url is None:
            return f"cloudflared was given no address within {limits.start_s:g} s"
        while self._target() == target:
            if await is_ready(port):
                ready_at = self.system.now()
                self._take_for_connected()
            elif self.system.now() - ready_at > limits.unready_s:
                return f"cloudflared had no connection for {limits.unready_s:g} s"
            elif self.is_connected:
                self._ready = trio.Event()
                self._tell("The tunnel has lost its connection.")
            await trio.sleep(limits.poll_s if self.is_connected else limits.unready_poll_s)
        return f"the daemon is not at {target} any more"

    def _take_for_connected(self) -> None:
        if not self.is_connected:
            self._ready.set()
            self.prove_health()
            self._tell(f"The tunnel is open: the daemon can be reached at {self.url}.")

    def _target(self) -> str:
        """Where the daemon is reached on this machine."""
        if self._live.served_at is None:
            raise TransientFailure("the daemon does not listen anywhere at present")
        host, port = self._live.served_at
        host = EVERYWHERE.get(host, host)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def _tell(self, text: str) -> None:
        """Publish what has become of the tunnel."""
        facts = {"active": True, "url": self.url, "connected": self.is_connected}
        self.publish(EVENTS, STATUS_EVENT, SystemEvent(STATUS_EVENT, text, facts))


async def _cancel_at_end(process: trio.Process, is_dry: trio.Event, scope: trio.CancelScope) -> None:
    """Cancel `scope` when the process has ended and its last words were read."""
    await process.wait()
    with trio.move_on_after(LAST_WORDS_S):
        await is_dry.wait()
    scope.cancel()

"""The actor that serves HTTP. Its restart binds the port anew, and touches no other actor."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import structlog
import trio

from ..actors.health import RecordProblem
from ..runtime import Actor
from ..runtime.errors import PocketPawError
from ..runtime.exits import describe
from .app import App
from .routes import ROUTES
from .server import Server
from .service import Limits
from .traffic import Answered, GetTraffic

if TYPE_CHECKING:
    from ..actors.settings import LiveSettings

log = structlog.get_logger()

GRACE_S = 3.0
"""For requests in hand when the daemon stops: less than the time that a child has to stop."""


def _no_one(url: str) -> None:
    """Takes the address where nobody wants it."""


class Http(Actor):
    """Serves on `web_host` and `web_port`; it is started when the port is open. `on_bound` is told each address.

    Raises:
        Unavailable: the port cannot be opened.
    """

    has_tasks: ClassVar[bool] = True

    def __init__(self, live: LiveSettings, on_bound: Callable[[str], None] = _no_one) -> None:
        super().__init__()
        self._live = live
        self._on_bound = on_bound
        self._ended = trio.Event()
        self.addresses: list[tuple[str, int]] = []

    async def on_start(self) -> None:
        settings = self._live.current
        self._app = App(self.system, self._live, ROUTES, self._report)
        self._server = Server(
            self._app,
            settings.web_host,
            settings.web_port,
            on_connection_error=self._report,
            limits=Limits(graceful_timeout_s=GRACE_S),
        )
        assert self._nursery is not None
        self.addresses = await self._nursery.start(self._serve)
        self._live.served_at = self.addresses[0]
        for host, port in self.addresses:
            self._on_bound(url_of(host, port))

    async def on_stop(self) -> None:
        self._app.end_streams()
        self._server.shutdown()
        await self._ended.wait()

    async def get_traffic(self, message: GetTraffic) -> list[Answered]:
        return self._app.traffic.answered()

    async def _serve(self, task_status: trio.TaskStatus[list[tuple[str, int]]]) -> None:
        try:
            await self._server.run(task_status=task_status)
        finally:
            self._ended.set()

    def _report(self, error: BaseException, trace_id: str = "") -> None:
        """Have the health engine log and keep a failure of one connection or request; where it cannot, it is logged."""
        problem = RecordProblem(
            source=self.path,
            message=f"a request failed: {describe(error)}",
            traceback="".join(traceback.format_exception(error)),
            context={"request_id": trace_id} if trace_id else {},
        )
        try:
            self.system.try_tell(problem, trace_id=trace_id, sender=self.path)
        except PocketPawError as refusal:
            line = {"request_id": trace_id, "exception": problem.traceback, "not_kept": refusal.detail}
            log.error(problem.message, **line)  # noqa: TRY400 what is told is not the refusal


def url_of(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

"""What every connection of one server shares: the application, the limits, and where failures go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.logging import Logger
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework

from .transport import ClientDisconnected


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one client may take. Bodies are the application's to limit."""

    max_connections: int = 4096  # more wait in the kernel's backlog
    max_head_bytes: int = 32 * 1024
    head_timeout_s: float = 15.0  # from a request's first byte (or the connection's start) to the end of its head
    keep_alive_s: float = 120.0  # longer than proxies keep theirs (cloudflared: 90), so that they close first
    write_timeout_s: float = 60.0  # for a peer that takes nothing of what is sent
    graceful_timeout_s: float = 5.0  # for requests in hand when the server stops
    max_websocket_message_bytes: int = 1024 * 1024


class Service:
    """Built once per server; `report` gets what failed on a connection and must not raise."""

    def __init__(self, app: ASGIFramework, limits: Limits, report: Callable[[BaseException], None]) -> None:
        self.app = app
        self.wrapped_app = ASGIWrapper(app)  # as Hypercorn's classes take it
        self.limits = limits
        self._report = report
        self.failures = 0
        self.worker = WorkerContext(None)  # its `terminated` tells Hypercorn's classes to take no new work
        self.config = Config()
        self.config.logger_class = Silent
        self.config.include_server_header = False
        self.config.h2_max_header_list_size = limits.max_head_bytes
        self.config.websocket_max_message_size = limits.max_websocket_message_bytes

    def fail(self, error: BaseException) -> None:
        self.failures += 1
        self._report(error)

    def contain(self, error: BaseException) -> None:
        """Report what failed in `error`, and raise what of it is cancellation. That the peer left is no failure."""
        if isinstance(error, trio.Cancelled | GeneratorExit):
            raise error
        if isinstance(error, BaseExceptionGroup):
            self._contain_group(cast("BaseExceptionGroup[BaseException]", error))
        elif not isinstance(error, ClientDisconnected):
            self.fail(error)

    def _contain_group(self, group: BaseExceptionGroup[BaseException]) -> None:
        cancelled, failed = group.split(trio.Cancelled)
        failed = failed and failed.split(ClientDisconnected)[1]
        if failed is not None:
            self.fail(failed.exceptions[0] if len(failed.exceptions) == 1 else failed)
        if cancelled is not None:
            raise cancelled


class Silent(Logger):
    """Hypercorn's logger, writing nothing: the application logs requests, and failures are reported."""

    def __init__(self, config: Config) -> None:
        config.accesslog = config.errorlog = None
        super().__init__(config)

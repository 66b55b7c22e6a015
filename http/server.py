"""The HTTP server: it listens, accepts, and keeps one connection's failure that connection's own.

Hypercorn's own serving loop ends with the first exception of any connection that is no OSError; this one reports it and
goes on. Everything a `Server` runs lives in the nursery of its `run`.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import trio
from hypercorn.trio.lifespan import Lifespan
from hypercorn.typing import ASGIFramework

from ..runtime.errors import Unavailable
from .connection import Connection
from .service import Limits, Service

ACCEPT_PAUSE_S = 0.1
BACKLOG = 1024
# accept(2): errors of the connection that was about to be accepted, to be treated like "try again".
LOST_BEFORE_ACCEPT = {
    errno.ECONNABORTED,
    errno.EPERM,
    errno.EPROTO,
    errno.ENETDOWN,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ENETUNREACH,
}
OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
BIND_PROBLEMS = {
    errno.EADDRINUSE: "is in use",
    errno.EACCES: "may only be opened with more privileges",
    errno.EADDRNOTAVAIL: "cannot be opened: this machine has no such address",
}


@dataclass(frozen=True)
class ServerStatistics:
    """`failures` counts connections and requests that failed, `accept_failures` the times no connection could be
    accepted for want of descriptors or memory."""

    connections: int
    accepted: int
    failures: int
    accept_failures: int


class Server:
    def __init__(
        self,
        app: ASGIFramework,
        host: str,
        port: int,
        *,
        on_connection_error: Callable[[BaseException], None],
        limits: Limits | None = None,
    ) -> None:
        """`on_connection_error` is called in the trio loop with each failure of a connection, and must not raise."""
        self._host = host
        self._port = port
        self._limits = limits or Limits()
        self._service = Service(app, self._limits, on_connection_error)
        self._slots = trio.Semaphore(self._limits.max_connections)
        self._connections: set[Connection] = set()
        self._stopping = trio.Event()
        self._accepted = 0
        self._accept_failures = 0

    async def run(self, *, task_status: trio.TaskStatus[list[tuple[str, int]]] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, or until `shutdown`; started with the addresses it listens on.

        Cancelling ends all connections at once.

        Raises:
            Unavailable: the port cannot be opened; says why.
        """
        with ExitStack() as listening:
            listeners = [listening.enter_context(listener) for listener in await self._listen()]
            async with trio.open_nursery() as application:
                lifespan = Lifespan(self._service.wrapped_app, self._service.config, {})
                application.start_soon(lifespan.handle_lifespan)
                await lifespan.wait_for_startup()
                async with trio.open_nursery() as connections:
                    async with trio.open_nursery() as accepting:
                        for listener in listeners:
                            accepting.start_soon(self._accept_forever, listener, connections)
                        task_status.started([listener.getsockname()[:2] for listener in listeners])
                        await self._stopping.wait()
                        accepting.cancel_scope.cancel()
                    listening.close()
                    connections.cancel_scope.deadline = trio.current_time() + self._limits.graceful_timeout_s
                    await self._service.worker.terminated.set()
                    for connection in tuple(self._connections):
                        connection.drain()
                await lifespan.wait_for_shutdown()
                application.cancel_scope.cancel()

    def shutdown(self) -> None:
        """Stop accepting, end idle connections, and give the others `graceful_timeout_s`; `run` then returns."""
        self._stopping.set()

    def statistics(self) -> ServerStatistics:
        return ServerStatistics(len(self._connections), self._accepted, self._service.failures, self._accept_failures)

    async def _listen(self) -> list[socket.socket]:
        try:
            listeners = await trio.open_tcp_listeners(self._port, host=self._host, backlog=BACKLOG)
        except OSError as error:
            problem = BIND_PROBLEMS.get(error.errno or 0, f"cannot be opened: {error.strerror or error}")
            raise Unavailable(
                f"port {self._port} on {self._host} {problem}", host=self._host, port=self._port
            ) from error
        return [_plain_socket(listener) for listener in listeners]

    async def _accept_forever(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            await self._slots.acquire()
            nursery.start_soon(self._serve, await self._accept(listener))
            self._accepted += 1

    async def _accept(self, listener: socket.socket) -> socket.socket:
        is_reported = False
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(listener)
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    self._accept_failures += 1
                    if not is_reported:
                        self._service.fail(error)
                        is_reported = True
                    await trio.sleep(ACCEPT_PAUSE_S)  # until some connection ends
                elif error.errno in LOST_BEFORE_ACCEPT:
                    await trio.lowlevel.checkpoint()
                else:
                    raise
            else:
                sock.setblocking(False)
                return sock

    async def _serve(self, sock: socket.socket) -> None:
        try:
            with sock:
                async with trio.open_nursery() as nursery:
                    await self._connect(Connection(self._service, sock, nursery))
        except BaseException as error:  # noqa: BLE001 - contain() raises what is cancellation
            self._service.contain(error)
        finally:
            self._slots.release()

    async def _connect(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._stopping.is_set():
            connection.drain()
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)


def _plain_socket(listener: trio.SocketListener) -> socket.socket:
    """Take trio's listening socket as a plain one, and set what accepted sockets inherit."""
    sock = socket.socket(fileno=listener.socket.detach())
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock

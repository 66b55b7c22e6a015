"""One accepted socket: it is read on demand, and what is written queues while the peer reads slowly.

Everything here runs in the trio loop. The socket is non-blocking and belongs to the transport, which closes it.
"""

from __future__ import annotations

import socket

import trio

READ_BYTES = 64 * 1024
HIGH_WATER_BYTES = 64 * 1024  # a writer waits while more than this is queued …
LOW_WATER_BYTES = 16 * 1024  # … until no more than this is
LINGER_S = 2.0


class ClientDisconnected(OSError):
    """The peer is gone. ASGI's `send` raises it (ASGI specification 2.4: a subclass of OSError)."""


class Transport:
    """A connection's bytes. One task may read at a time; any number may write."""

    def __init__(self, sock: socket.socket, nursery: trio.Nursery, *, write_timeout_s: float) -> None:
        self._sock = sock
        self._nursery = nursery
        self._write_timeout_s = write_timeout_s
        # Invariant: a _flush task runs exactly while this is not empty and the transport is open.
        self._queued = bytearray()
        self._progress = trio.lowlevel.ParkingLot()
        self._is_closed = False

    async def read(self) -> bytes:
        """Wait for bytes; `b""` when the peer ended its side, the connection broke, or we closed it."""
        while not self._is_closed:
            try:
                await trio.lowlevel.wait_readable(self._sock)
                return self._sock.recv(READ_BYTES)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError):
                return b""
        return b""

    async def write(self, data: bytes) -> None:
        """Send, or queue behind what the peer has not taken yet; wait only while too much is queued.

        Not a checkpoint while the peer keeps up: whoever writes a lot without waiting for anything else has to yield.

        Raises:
            ClientDisconnected: the connection is broken, or the peer took nothing for the write time-out.
        """
        if self._is_closed:
            raise ClientDisconnected("the client has disconnected")
        if self._queued:
            self._queued += data
        else:
            sent = self._send_some(data)
            if sent == len(data):
                return
            self._queued += memoryview(data)[sent:]
            self._nursery.start_soon(self._flush)
        if len(self._queued) > HIGH_WATER_BYTES:
            await self._wait_until_queued(LOW_WATER_BYTES)

    async def drain(self) -> None:
        """Wait until everything written has left this process.

        Raises:
            ClientDisconnected: as `write`.
        """
        if self._queued:
            await self._wait_until_queued(0)

    async def linger(self, limit_s: float = LINGER_S) -> None:
        """End our side, then give the peer a moment to end its own.

        Closing a socket that holds unread bytes resets it, and the reset overtakes the response just written
        (RFC 9112, section 9.6).
        """
        await self.drain()
        self.end_writing()
        with trio.move_on_after(limit_s):
            while await self.read():
                pass

    def end_writing(self) -> None:
        """Tell the peer that nothing more comes; what is still queued is dropped."""
        self._queued.clear()
        if not self._is_closed:
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the peer was first

    def close(self) -> None:
        """Close at once and wake whoever waits here: readers get `b""`, writers `ClientDisconnected`."""
        if self._is_closed:
            return
        self._is_closed = True
        self._queued.clear()
        self._progress.unpark_all()
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()

    async def _wait_until_queued(self, size: int) -> None:
        while len(self._queued) > size:
            await self._progress.park()
        if self._is_closed:
            raise ClientDisconnected("the client has disconnected")

    async def _flush(self) -> None:
        while self._queued:
            with trio.move_on_after(self._write_timeout_s) as patience:
                try:
                    await trio.lowlevel.wait_writable(self._sock)
                except trio.ClosedResourceError:
                    return
            if patience.cancelled_caught:
                self.close()
                return
            try:
                del self._queued[: self._send_some(self._queued)]
            except ClientDisconnected:
                return  # closed: whoever waits to write has been woken with the same error
            self._progress.unpark_all()

    def _send_some(self, data: bytes | bytearray) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self.close()
            raise ClientDisconnected("the client has disconnected") from error

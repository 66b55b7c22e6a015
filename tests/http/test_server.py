"""The HTTP server over real sockets: each promise of `http/server.py` and the files beside it."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import cast

import h2.config
import h2.connection
import h2.events
import h11
import httpx2
import pytest
import trio
import trio_websocket
from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from pocketpaw.http.server import Server
from pocketpaw.http.service import Limits
from pocketpaw.http.transport import ClientDisconnected, Transport
from pocketpaw.runtime.errors import Unavailable
from trio.testing import wait_all_tasks_blocked

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
UPGRADE = (  # with the key of RFC 6455, section 1.3
    b"GET /ws HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)


# A server for an application written inside the test, and raw clients for it


@dataclass
class Serving:
    server: Server
    port: int
    nursery: trio.Nursery
    errors: list[BaseException] = field(default_factory=list[BaseException])

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def get(self, path: str = "/") -> httpx2.Response:
        async with httpx2.AsyncClient(trust_env=False) as client:
            return await client.get(f"http://127.0.0.1:{self.port}{path}")

    @asynccontextmanager
    async def websocket(self) -> AsyncGenerator[trio_websocket.WebSocketConnection, None]:
        async with trio_websocket.open_websocket_url(f"ws://127.0.0.1:{self.port}/ws") as websocket:
            try:
                yield websocket
            finally:
                await websocket.aclose()
                await abort(websocket)  # trio-websocket leaves the socket open when the server closed first


async def abort(websocket: trio_websocket.WebSocketConnection) -> None:
    """Drop the connection without a close handshake."""
    stream = cast("trio.SocketStream", websocket._stream)  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType] - it has no public way to vanish
    await stream.aclose()


@asynccontextmanager
async def serving(
    app: ASGIFramework, limits: Limits | None = None, host: str = "127.0.0.1"
) -> AsyncGenerator[Serving, None]:
    errors: list[BaseException] = []

    async def with_lifespan(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
        else:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})

    server = Server(with_lifespan, host, 0, on_connection_error=errors.append, limits=limits)
    async with trio.open_nursery() as nursery:
        addresses = cast("list[tuple[str, int]]", await nursery.start(server.run))
        yield Serving(server, addresses[0][1], nursery, errors)
        nursery.cancel_scope.cancel()


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> ASGISendEvent:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes = b"", *, more: bool = False) -> ASGISendEvent:
    return {"type": "http.response.body", "body": data, "more_body": more}


def answering(data: bytes = b"hello", *headers: tuple[bytes, bytes], status: int = 200) -> ASGIFramework:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await send(start(status, *headers))
        await send(body(data))

    return app


async def echo(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Echo a request's body, or a WebSocket's messages."""
    if scope["type"] == "websocket":
        await echo_messages(receive, send)
        return
    received = bytearray()
    while (event := await receive())["type"] == "http.request":
        received += event["body"]
        if not event["more_body"]:
            break
    await send(start())
    await send(body(bytes(received)))


async def echo_messages(receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    await receive()
    await send({"type": "websocket.accept", "subprotocol": None, "headers": []})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": event["bytes"], "text": event["text"]})


async def read_all(stream: trio.SocketStream) -> bytes:
    received = bytearray()
    with contextlib.suppress(trio.BrokenResourceError):
        while data := await stream.receive_some():
            received += data
    return bytes(received)


async def exchange(stream: trio.SocketStream, request: bytes = GET) -> tuple[int, dict[bytes, bytes], bytes]:
    """Send a request as it stands, and read its answer with h11's client half."""
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method=request.split(b" ", 1)[0], target="/", headers=[("host", "test")]))
    parser.send(h11.EndOfMessage())
    await stream.send_all(request)
    status, headers, received = 0, dict[bytes, bytes](), bytearray()
    while not isinstance(event := parser.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            parser.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Response):
            status, headers = event.status_code, dict(event.headers)
        elif isinstance(event, h11.Data):
            received += event.data
    return status, headers, bytes(received)


# Listening


async def test_port_0_is_reported_as_the_port_that_was_opened() -> None:
    async with serving(answering()) as served:
        assert served.port > 0
        assert (await served.get()).text == "hello"


async def test_a_busy_port_is_named() -> None:
    async with serving(answering()) as served:
        second = Server(answering(), "127.0.0.1", served.port, on_connection_error=served.errors.append)
        with pytest.raises(Unavailable, match=f"^port {served.port} on 127.0.0.1 is in use$"):
            await second.run()


async def test_an_address_of_another_machine_is_named() -> None:
    server = Server(answering(), "203.0.113.7", 0, on_connection_error=print)
    with pytest.raises(Unavailable, match=r"203\.0\.113\.7 cannot be opened"):
        await server.run()


async def test_a_port_whose_last_connections_are_in_time_wait_is_bound_again() -> None:
    async with serving(answering()) as served:
        async with await served.connect() as client:
            await client.send_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            await read_all(client)  # the server closed first: the time wait is on its port
        port = served.port
    again = Server(answering(), "127.0.0.1", port, on_connection_error=served.errors.append)
    async with trio.open_nursery() as nursery:
        assert await nursery.start(again.run) == [("127.0.0.1", port)]
        nursery.cancel_scope.cancel()


async def test_an_ipv6_literal_is_listened_on() -> None:
    async with serving(answering(), host="::1") as served, await trio.open_tcp_stream("::1", served.port) as client:
        assert (await exchange(client))[2] == b"hello"


# One request after another


async def test_requests_follow_each_other_on_one_connection() -> None:
    async with serving(echo) as served, await served.connect() as client:
        for text in (b"one", b"two", b""):
            request = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
            assert (await exchange(client, request))[2] == text
    assert served.server.statistics().accepted == 1


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        assert scope["type"] == "http"
        await send(start())
        await send(body(scope["path"].encode()))

    async with serving(app) as served, await served.connect() as client:
        requests = [b"GET /%d HTTP/1.1\r\nHost: test\r\n" % number for number in range(20)]
        await client.send_all(b"\r\n".join([*requests[:-1], requests[-1] + b"Connection: close\r\n"]) + b"\r\n")
        received = await read_all(client)
    assert [received.find(b"\r\n\r\n/%d" % number) > 0 for number in range(20)] == [True] * 20
    assert received.index(b"/3") < received.index(b"/4")


async def test_a_complete_response_is_one_segment() -> None:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await send(start(200, (b"content-length", b"5")))
        await send(body(b"hello", more=True))
        await send(body())

    async with serving(app) as served, await served.connect() as client:
        await client.send_all(GET)
        first = await client.receive_some()
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert first.endswith(b"\r\n\r\nhello")


async def test_a_stream_flushes_each_chunk() -> None:
    taken = trio.Event()

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await send(start())
        await send(body(b"first", more=True))
        await taken.wait()
        await send(body(b"second"))

    async with serving(app) as served, await served.connect() as client:
        await client.send_all(GET)
        assert (await client.receive_some()).endswith(b"5\r\nfirst\r\n")
        taken.set()
        assert await client.receive_some() == b"6\r\nsecond\r\n0\r\n\r\n"


async def test_a_stream_that_never_waits_lets_others_run() -> None:
    chunks_before_the_other = 0

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        nonlocal chunks_before_the_other
        other = trio.Event()
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                other.set()

            nursery.start_soon(run)
            await send(start())
            while not other.is_set() and chunks_before_the_other < 100:
                chunks_before_the_other += 1
                await send(body(b"chunk", more=True))
        await send(body())

    async with serving(app) as served:
        await served.get()
    assert chunks_before_the_other < 3


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
async def test_no_body_is_sent_where_none_may_be(method: bytes, status: int) -> None:
    async with serving(answering(b"", status=status)) as served, await served.connect() as client:
        request = method + b" / HTTP/1.1\r\nHost: test\r\n\r\n"
        for _ in range(2):
            got, headers, received = await exchange(client, request)
            assert (got, received) == (status, b"")
            assert b"content-length" not in headers
            assert b"transfer-encoding" not in headers


async def test_an_http_1_0_client_gets_a_stream_that_ends_with_the_connection() -> None:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await send(start())
        await send(body(b"one ", more=True))
        await send(body(b"two"))

    async with serving(app) as served, await served.connect() as client:
        await client.send_all(b"GET / HTTP/1.0\r\n\r\n")
        received = await read_all(client)
    assert b"chunked" not in received
    assert received.endswith(b"connection: close\r\n\r\none two")


async def test_a_client_that_expects_100_continue_is_told_when_the_body_is_wanted() -> None:
    async with serving(echo) as served, await served.connect() as client:
        await client.send_all(
            b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert await client.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send_all(b"ok")
        assert (await read_all(client)).endswith(b"\r\n\r\nok")


async def test_a_response_sent_before_a_large_body_was_read_arrives_whole() -> None:
    async with serving(answering(b"too large", status=413)) as served, await served.connect() as client:
        await client.send_all(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 500_000)
        assert (await read_all(client)).endswith(b"too large")


async def test_what_a_request_leaves_in_a_context_variable_is_not_seen_by_the_next() -> None:
    principal: ContextVar[str] = ContextVar("principal", default="nobody")

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        seen = principal.get()
        principal.set("alice")
        await send(start())
        await send(body(seen.encode()))

    async with serving(app) as served, await served.connect() as client:
        assert [(await exchange(client))[2] for _ in range(3)] == [b"nobody"] * 3
        last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        await client.send_all(GET + last)  # pipelined: no read comes between
        assert (await read_all(client)).count(b"nobody") == 2


@pytest.mark.parametrize(
    "header", [(b"x-a", b"1\r\nset-cookie: a=b"), (b"x\r\nx", b"1"), (b"x-a", b"\0"), (b"x a", b"1"), (b"", b"1")]
)
async def test_a_header_that_would_split_the_response_is_refused(header: tuple[bytes, bytes]) -> None:
    async with serving(answering(b"", header)) as served, await served.connect() as client:
        status, headers, _ = await exchange(client)
    assert (status, b"set-cookie" in headers) == (500, False)
    assert isinstance(served.errors[0], ValueError)


# Failures stay on their connection


class Stop(BaseException):
    """Neither an Exception nor a cancellation."""


@pytest.mark.parametrize("error", [RuntimeError("broken"), Stop(), ExceptionGroup("", [ValueError("broken")])])
async def test_a_failing_application_answers_500_and_no_other_connection_notices(error: BaseException) -> None:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        assert scope["type"] == "http"
        if scope["path"] == "/bad":
            raise error
        await answering()(scope, receive, send)

    async with serving(app) as served, await served.connect() as other:
        assert (await exchange(other))[0] == 200
        response = await served.get("/bad")
        assert response.status_code == 500
        assert response.json()["code"] == "internal_error"
        assert (await exchange(other))[0] == 200
    assert [type(failure) for failure in served.errors] in ([type(error)], [ValueError])


async def test_a_failure_half_way_cuts_the_response_short() -> None:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await send(start())
        await send(body(b"half", more=True))
        raise RuntimeError("broken")

    async with serving(app) as served:
        with pytest.raises(httpx2.RemoteProtocolError):
            await served.get()
    assert str(served.errors[0]) == "broken"


async def test_an_application_that_ends_without_an_answer_is_a_failure() -> None:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await trio.lowlevel.checkpoint()

    async with serving(app) as served:
        assert (await served.get()).status_code == 500
    assert "without completing" in str(served.errors[0])


@pytest.mark.parametrize("sent", [b"too long for it", b"short"])
async def test_a_body_that_belies_its_content_length_is_a_failure(sent: bytes) -> None:
    async with serving(answering(sent, (b"content-length", b"8"))) as served:
        assert (await served.get()).status_code == 500
    assert "content-length" in str(served.errors[0])


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\nHost: test\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"x" * 140_000, 431),
    ],
)
async def test_what_is_no_request_is_refused_in_json(request_: bytes, status: int) -> None:
    async with serving(echo) as served, await served.connect() as client:
        await client.send_all(request_)
        received = await read_all(client)
    assert received.startswith(b"HTTP/1.1 %d " % status)
    assert b'{"detail": "' in received
    assert served.errors == []


async def test_a_failure_of_the_protocol_itself_ends_its_connection_only() -> None:
    async with serving(answering()) as served, await served.connect() as other, await served.connect() as client:
        await client.send_all(
            b"GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n\r\n"
        )
        await read_all(client)
        assert (await exchange(other))[2] == b"hello"
    assert len(served.errors) == served.server.statistics().failures == 1


async def test_running_out_of_descriptors_is_reported_once_and_survived(autojump_clock: trio.abc.Clock) -> None:
    async with serving(answering()) as served:
        clients = [socket.socket() for _ in range(3)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        os.close(lowest_free := os.dup(0))
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            for client in clients:
                client.connect(("127.0.0.1", served.port))
            with trio.move_on_after(0.25):  # two pauses of the accept loop
                await trio.sleep_forever()
            assert served.server.statistics().accept_failures > 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (await served.get()).text == "hello"
        for client in clients:
            client.close()
    assert [cast("OSError", error).errno for error in served.errors] == [errno.EMFILE]


# Clients that go


async def test_a_client_that_goes_during_a_stream_is_heard_by_receive() -> None:
    heard: list[str] = []
    done = trio.Event()

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def listen() -> None:
            while (event := await receive())["type"] != "http.disconnect":
                pass
            heard.append(event["type"])
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await send(start())
            await send(body(b"first", more=True))
            await trio.sleep_forever()
        done.set()

    async with serving(app) as served:
        async with await served.connect() as client:
            await client.send_all(GET)
            await client.receive_some()
        with trio.fail_after(5):
            await done.wait()
    assert heard == ["http.disconnect"]
    assert served.errors == []


async def test_a_client_that_goes_is_noticed_by_an_application_that_only_sends() -> None:
    noticed: list[BaseException] = []
    done = trio.Event()

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def stream() -> None:
            await send(start())
            try:
                while True:
                    await send(body(b"tick", more=True))
            except OSError as error:
                noticed.append(error)
                done.set()
                raise

        async with trio.open_nursery() as nursery:  # which wraps the error in a group
            nursery.start_soon(stream)

    async with serving(app) as served:
        async with await served.connect() as client:
            await client.send_all(GET)
            await client.receive_some()
        with trio.fail_after(5):
            await done.wait()
        await wait_all_tasks_blocked()
    assert isinstance(noticed[0], ClientDisconnected)
    assert served.errors == []  # a client that leaves is no failure


async def test_receive_ends_when_the_response_is_complete() -> None:
    events: list[str] = []

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def listen() -> None:
            events.append((await receive())["type"])
            events.append((await receive())["type"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await wait_all_tasks_blocked()
            await answering()(scope, receive, send)

    async with serving(app) as served, await served.connect() as client:
        for number in (1, 2):
            assert (await exchange(client))[2] == b"hello"
            await wait_all_tasks_blocked()
            assert events == ["http.request", "http.disconnect"] * number


async def test_a_client_that_goes_wakes_a_send_that_waits_for_it() -> None:
    done = trio.Event()

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await send(start())
        with pytest.raises(ClientDisconnected):
            await send(body(b"x" * 20_000_000))
        done.set()

    async with serving(app) as served:
        async with await served.connect() as client:
            await client.send_all(GET)
            await client.receive_some()
            await wait_all_tasks_blocked()
            assert not done.is_set()
        with trio.fail_after(5):
            await done.wait()


async def test_a_client_that_only_ended_its_sending_side_still_gets_its_answer() -> None:
    async with serving(answering()) as served, await served.connect() as client:
        await client.send_all(GET)
        await client.send_eof()
        assert (await read_all(client)).endswith(b"hello")


async def test_a_websocket_client_that_goes_is_heard_by_receive_and_by_send() -> None:
    codes: list[int] = []
    done = trio.Event()

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": None, "headers": []})
        event = await receive()
        assert event["type"] == "websocket.disconnect"
        codes.append(event["code"])
        with pytest.raises(ClientDisconnected):
            await send({"type": "websocket.send", "bytes": None, "text": "late"})
        done.set()

    async with serving(app) as served:
        async with served.websocket() as websocket:
            await abort(websocket)
        with trio.fail_after(5):
            await done.wait()
    assert codes == [1006]
    assert served.errors == []


# Limits


async def test_a_head_that_never_ends_is_closed_however_it_dribbles(autojump_clock: trio.abc.Clock) -> None:
    async with serving(answering(), Limits(head_timeout_s=15)) as served, await served.connect() as client:
        began = trio.current_time()

        async def dribble() -> None:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await client.send_all(b"GET / HTTP/1.1\r\n")
                while True:
                    await client.send_all(b"x: y\r\n")
                    await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dribble)
            assert await read_all(client) == b""
            nursery.cancel_scope.cancel()
        assert 14.9 < trio.current_time() - began < 17


async def test_an_idle_connection_is_kept_alive_for_so_long(autojump_clock: trio.abc.Clock) -> None:
    async with serving(answering(), Limits(keep_alive_s=60)) as served, await served.connect() as client:
        for _ in range(3):
            assert (await exchange(client))[0] == 200
            await trio.sleep(59)
        began = trio.current_time()
        assert (await exchange(client))[0] == 200
        assert await client.receive_some() == b""
        assert trio.current_time() - began == pytest.approx(60, abs=0.1)


async def test_a_request_in_hand_has_no_deadline(autojump_clock: trio.abc.Clock) -> None:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await trio.sleep(10_000)
        await answering()(scope, receive, send)

    async with serving(app) as served, await served.connect() as client:
        assert (await exchange(client))[2] == b"hello"


async def test_a_peer_that_does_not_read_is_closed_after_the_write_timeout(autojump_clock: trio.abc.Clock) -> None:
    ended: list[float] = []

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            ended.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await send(start())
            with pytest.raises(ClientDisconnected):
                await send(body(b"x" * 20_000_000, more=True))
            ended.append(trio.current_time())

    async with serving(app, Limits(write_timeout_s=60)) as served, await served.connect() as client:
        await client.send_all(GET)
        began = trio.current_time()
        await trio.sleep(61)
        assert [at - began for at in ended] == [pytest.approx(60, abs=0.1)] * 2
        assert served.server.statistics().connections == 0
    assert served.errors == []


async def test_connections_beyond_the_limit_wait_for_one_to_end() -> None:
    async with serving(answering(), Limits(max_connections=2)) as served:
        first, second, third = [await served.connect() for _ in range(3)]
        for client in (first, second):
            await exchange(client)
        await third.send_all(GET)
        await wait_all_tasks_blocked()
        assert served.server.statistics().connections == 2
        await first.aclose()
        with trio.fail_after(5):
            assert (await third.receive_some()).endswith(b"hello")
        await second.aclose()
        await third.aclose()


async def test_what_queues_while_a_socket_is_slow_is_sent_joined() -> None:
    class CountingSocket(socket.socket):
        sends = 0

        def send(self, data: bytes | bytearray, flags: int = 0, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] - narrower than a Buffer is enough here
            self.sends += 1
            return super().send(data, flags)

    near, far = socket.socketpair()
    counting = CountingSocket(fileno=near.detach())
    counting.setblocking(False)
    far.setblocking(False)
    async with trio.open_nursery() as nursery:
        transport = Transport(counting, nursery, write_timeout_s=60)
        written = sends = 0
        while counting.sends > sends or not sends:
            sends = counting.sends
            await transport.write(b"x" * 4096)  # at once, until the peer's buffer is full
            written += 4096
        for _ in range(100):
            await transport.write(b"y" * 100)
        assert counting.sends == sends
        received = bytearray()
        while len(received) < written + 10_000:
            await trio.lowlevel.wait_readable(far)
            received += far.recv(1_000_000)
        assert received.endswith(b"xy" + b"y" * 9_999)
        assert counting.sends - sends <= 3
        transport.close()
    far.close()


# Stopping


async def test_shutdown_lets_a_request_finish_and_ends_the_idle() -> None:
    release = trio.Event()
    entered = trio.Event()

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        entered.set()
        await release.wait()
        await answering()(scope, receive, send)

    async with serving(app) as served, await served.connect() as busy, await served.connect() as idle:
        await busy.send_all(GET)
        await entered.wait()
        served.server.shutdown()
        assert await idle.receive_some() == b""
        with pytest.raises(OSError):
            await served.connect()
        release.set()
        received = await read_all(busy)
        assert b"connection: close" in received
        assert received.endswith(b"hello")


@pytest.mark.parametrize("version", ["http1", "http2"])
async def test_shutdown_does_not_wait_for_a_client_that_keeps_its_connection(version: str) -> None:
    release = trio.Event()
    entered = trio.Event()

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await send(start())
        await send(body(b"first", more=True))
        entered.set()
        await release.wait()
        await send(body())

    async with (
        serving(app) as served,
        httpx2.AsyncClient(http1=version == "http1", http2=version == "http2", trust_env=False) as client,
        client.stream("GET", f"http://127.0.0.1:{served.port}/") as response,
    ):
        await entered.wait()
        served.server.shutdown()
        await wait_all_tasks_blocked()
        release.set()
        with trio.fail_after(1):
            while served.nursery.child_tasks:  # noqa: ASYNC110 the server's own task sets no event
                await trio.sleep(0.01)
        assert await response.aread() == b"first"


async def test_shutdown_does_not_wait_longer_than_its_grace(autojump_clock: trio.abc.Clock) -> None:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await trio.sleep_forever()

    async with serving(app, Limits(graceful_timeout_s=3)) as served, await served.connect() as client:
        await client.send_all(GET)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        served.server.shutdown()
        assert await read_all(client) == b""
        assert trio.current_time() - began == pytest.approx(3, abs=0.1)
    assert served.errors == []


# WebSocket


async def test_a_websocket_echoes_text_and_bytes() -> None:
    async with serving(echo) as served, served.websocket() as websocket:
        for message in ("text", b"bytes", "ü" * 70_000):
            await websocket.send_message(message)
            assert await websocket.get_message() == message


async def test_a_websocket_agrees_to_no_compression() -> None:
    async with serving(echo) as served, await served.connect() as client:
        await client.send_all(UPGRADE)
        received = await client.receive_some()
    assert received.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in received
    assert b"permessage-deflate" not in received


async def test_a_message_over_the_limit_closes_with_1009() -> None:
    async with serving(echo, Limits(max_websocket_message_bytes=1000)) as served, served.websocket() as websocket:
        await websocket.send_message("x" * 1001)
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await websocket.get_message()
    assert closed.value.reason is not None
    assert closed.value.reason.code == 1009


@pytest.mark.parametrize(
    "frame", [b"\x8f\x80abcd", b"\x81\x82abcd\xff\xff", b"\x81\x01x"], ids=["opcode", "UTF-8", "mask"]
)
async def test_a_websocket_client_that_breaks_the_protocol_is_told_so(frame: bytes) -> None:
    async with serving(echo) as served, await served.connect() as client:
        await client.send_all(UPGRADE)
        await client.receive_some()
        await client.send_all(frame)
        assert await read_all(client) == b"\x88\x02\x03\xea"  # a close frame with 1002
    assert served.errors == []


async def test_a_websocket_may_be_refused_with_a_status() -> None:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 1000, "reason": None})

    async with serving(app) as served, await served.connect() as client:
        await client.send_all(UPGRADE)
        assert (await read_all(client)).startswith(b"HTTP/1.1 403 Forbidden\r\n")


async def test_a_websocket_application_that_fails_closes_with_1011() -> None:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": None, "headers": []})
        raise Stop

    async with serving(app) as served, served.websocket() as websocket:
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await websocket.get_message()
        assert (await served.get()).status_code == 500
    assert closed.value.reason is not None
    assert closed.value.reason.code == 1011
    assert isinstance(served.errors[0], Stop)


async def test_a_websocket_client_that_ignores_our_close_is_left_behind(autojump_clock: trio.abc.Clock) -> None:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": None, "headers": []})
        await send({"type": "websocket.close", "code": 1000, "reason": None})

    async with serving(app) as served, await served.connect() as client:
        await client.send_all(UPGRADE)
        await trio.sleep(10)
        assert served.server.statistics().connections == 0


async def test_a_websocket_client_that_ignores_a_1009_is_read_no_further() -> None:
    heard = trio.Event()

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": None, "headers": []})
        assert (await receive())["type"] == "websocket.disconnect"
        heard.set()

    async with serving(app, Limits(max_websocket_message_bytes=1000)) as served, await served.connect() as client:
        await client.send_all(UPGRADE)
        begun = b"\x01\xfe\x07\xd0\0\0\0\0" + b"x" * 2000  # a fragment of text, not the last
        await client.send_all(begun)
        with trio.fail_after(5):
            await heard.wait()


async def test_shutdown_tells_websockets_that_the_server_goes_away() -> None:
    async with serving(echo) as served, served.websocket() as websocket:
        served.server.shutdown()
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await websocket.get_message()
    assert closed.value.reason is not None
    assert closed.value.reason.code == 1001


# HTTP/2


async def test_http_2_by_prior_knowledge() -> None:
    async with (
        serving(echo) as served,
        httpx2.AsyncClient(http1=False, http2=True, trust_env=False) as client,
    ):
        url = f"http://127.0.0.1:{served.port}/"
        for content in (b"", b"hello", b"x" * 300_000):
            response = await client.post(url, content=content)
            assert (response.http_version, response.content) == ("HTTP/2", content)
    assert served.errors == []
    assert served.server.statistics().accepted == 1


async def test_http_2_by_upgrade() -> None:
    client_half = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    settings = cast("bytes", client_half.initiate_upgrade_connection())
    async with serving(answering()) as served, await served.connect() as client:
        await client.send_all(
            b"GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: " + settings + b"\r\n\r\n"
        )
        received = b""
        while b"\r\n\r\n" not in received:
            received += await client.receive_some()
        answer, _, frames = received.partition(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 ")
        await client.send_all(client_half.data_to_send())
        events = client_half.receive_data(frames)
        while not any(isinstance(event, h2.events.StreamEnded) for event in events):
            events += client_half.receive_data(await client.receive_some())
    assert b"".join(event.data for event in events if isinstance(event, h2.events.DataReceived)) == b"hello"


async def test_an_http_2_stream_whose_application_fails_half_way_is_reset() -> None:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        assert scope["type"] == "http"
        if scope["path"] == "/good":
            await answering()(scope, receive, send)
            return
        await send(start())
        await send(body(b"half", more=True))
        raise RuntimeError("broken")

    async with (
        serving(app) as served,
        httpx2.AsyncClient(http1=False, http2=True, trust_env=False) as client,
    ):
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get(f"http://127.0.0.1:{served.port}/")
        assert (await client.get(f"http://127.0.0.1:{served.port}/good")).text == "hello"
    assert [str(error) for error in served.errors] == ["broken"]
    assert served.server.statistics().accepted == 1


async def test_an_http_2_client_that_goes_is_heard_by_receive() -> None:
    done = trio.Event()

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await send(start())
        await send(body(b"first", more=True))
        while (await receive())["type"] != "http.disconnect":
            pass
        done.set()

    async with serving(app) as served:
        client_half = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        client_half.initiate_connection()
        headers = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "test")]
        client_half.send_headers(1, headers, end_stream=True)
        async with await served.connect() as client:
            await client.send_all(client_half.data_to_send())
            while b"first" not in await client.receive_some():
                pass
        with trio.fail_after(5):
            await done.wait()
    assert served.errors == []


async def test_an_http_2_body_that_goes_on_after_the_response_harms_nothing() -> None:
    client_half = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client_half.initiate_connection()
    headers = [(":method", "POST"), (":path", "/"), (":scheme", "http"), (":authority", "test")]

    async def answered(stream_id: int) -> bytes:
        received = b""
        await client.send_all(client_half.data_to_send())
        while True:
            for event in client_half.receive_data(await client.receive_some()):
                if isinstance(event, h2.events.DataReceived):
                    received += event.data
                elif isinstance(event, h2.events.StreamEnded) and event.stream_id == stream_id:
                    return received

    async with serving(answering()) as served, await served.connect() as client:
        client_half.send_headers(1, headers)
        assert await answered(1) == b"hello"
        client_half.send_data(1, b"late", end_stream=True)
        client_half.send_headers(3, headers, end_stream=True)
        assert await answered(3) == b"hello"
    assert served.errors == []

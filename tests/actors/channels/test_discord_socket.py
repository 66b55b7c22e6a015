"""The gateway's WebSocket on real sockets: TLS, and servers that are none."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pocketpaw.actors.channels import discord_socket
from pocketpaw.actors.channels.discord_gateway import SocketClosed
from pocketpaw.actors.channels.discord_socket import open_socket
from pocketpaw.runtime.errors import TransientFailure
from trio_websocket import wrap_server_stream

Serve = Callable[[trio.abc.Stream], Awaitable[None]]


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    """A server's context for 127.0.0.1, whose certificate is in `server.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "here")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = tmp_path / "server.pem"
    pem.write_bytes(key.private_bytes(*private) + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


@asynccontextmanager
async def serving(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncGenerator[str]:
    """Serve each connection so; gives the address. The block is bounded in time."""

    async def serve_one(tcp: trio.SocketStream) -> None:
        stream = tcp if tls is None else trio.SSLStream(tcp, tls, server_side=True, https_compatible=True)
        try:
            await serve(stream)
        except trio.BrokenResourceError:
            pass  # the client has gone: some tests are about that
        finally:
            await trio.aclose_forcefully(stream)

    with trio.fail_after(60.0):
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, serve_one, [listener])
            yield f"{'ws' if tls is None else 'wss'}://127.0.0.1:{listener.socket.getsockname()[1]}"
            nursery.cancel_scope.cancel()


async def echo(stream: trio.abc.Stream) -> None:
    """Say under which path one came, and repeat what is said, once."""
    async with trio.open_nursery() as nursery:
        request = await wrap_server_stream(nursery, stream)
        connection = await request.accept()
        await connection.send_message(request.path)
        await connection.send_message(await connection.get_message())
        await connection.aclose(4321, "done")


async def test_a_gateway_is_spoken_to_through_tls(
    tls: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
    async with serving(echo, tls) as url, open_socket(url) as socket:
        assert await socket.receive() == "/?v=10&encoding=json"
        await socket.send("hello")
        assert await socket.receive() == "hello"
        with pytest.raises(SocketClosed) as closed:
            await socket.receive()
    assert (closed.value.code, closed.value.reason) == (4321, "done")


async def test_a_certificate_that_nobody_vouches_for_is_not_accepted(tls: ssl.SSLContext) -> None:
    async with serving(echo, tls) as url:
        with pytest.raises(TransientFailure, match=r"127\.0\.0\.1 cannot be reached: .*(?i:certificate)"):
            async with open_socket(url):
                pytest.fail("connected")


async def test_the_address_for_resuming_keeps_its_path() -> None:
    async with serving(echo) as url, open_socket(f"{url}/resume/?v=9") as socket:
        assert await socket.receive() == "/resume/?v=10&encoding=json"


@pytest.mark.parametrize("url", ["", "https://there", "ws://", "ws://there:0", "ws://there:x", "ws://[::1", "there"])
async def test_what_is_no_address_of_a_gateway_is_a_failure(url: str) -> None:
    with pytest.raises(TransientFailure, match="address"):
        async with open_socket(url):
            pytest.fail("connected")


async def say_nothing(stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


async def test_a_server_that_never_answers_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discord_socket, "CONNECT_S", 0.1)
    async with serving(say_nothing) as url:
        with pytest.raises(TransientFailure, match="no connection"):
            async with open_socket(url):
                pytest.fail("connected")


async def test_a_server_that_refuses_says_its_status() -> None:
    async def refuse(stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            await request.reject(503, body=b"later")

    async with serving(refuse) as url:
        with pytest.raises(TransientFailure, match="503"):
            async with open_socket(url):
                pytest.fail("connected")


async def test_a_server_that_breaks_the_protocol_closes_the_socket() -> None:
    async def break_it(stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            await request.accept()
            await stream.send_all(b"\xff\xff no frame at all")
            await trio.sleep_forever()

    async with serving(break_it) as url, open_socket(url) as socket:
        with pytest.raises(SocketClosed):
            await socket.receive()
        with pytest.raises(SocketClosed):
            await socket.send("hello")


async def test_an_error_inside_the_block_comes_out_as_it_is() -> None:
    async with serving(echo) as url:
        with pytest.raises(LookupError, match="mine"):
            async with open_socket(url):
                raise LookupError("mine")

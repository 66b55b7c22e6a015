"""The one guard for whatever fetches what a model or a stranger named: the public web, and what the operator permits.

A name is resolved here, all its addresses are judged, and the connection goes to one that was judged: a DNS that
answers differently the next time changes nothing. Each redirect is judged anew. The proxies that the environment names
are not used, since they would resolve names by themselves.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from ipaddress import ip_address
from typing import cast

import httpcore2
import httpx2
import msgspec
import trio

from ...runtime.errors import Forbidden, InvalidInput, TimedOut, TooLarge, Unavailable
from ...runtime.exits import leaf
from .addresses import Address, is_public, own_networks, parse_address, parse_network

Resolve = Callable[[str], Awaitable[Sequence[Address]]]
Credentials = Sequence[tuple[bytes, bytes]]

WEB_PORTS = frozenset({80, 443, 8080, 8443})
"""Where the public web is; a host that the operator permits may be reached at any port."""
REDIRECTS = 5
URL_LIMIT = 8_000
CONNECT_S = 5.0
"""For each address of a host."""
WITHIN_S = 30.0
"""For all of a fetch, redirects included."""
LIMIT_BYTES = 5_000_000
"""Of a body, both as it arrives and as it is once decompressed. (Headers have httpcore2's limit of 100 KB.)"""

_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_NUMERIC_LABEL = re.compile(r"(\d+|0x[0-9a-f]*)$")
_REDIRECTS = (301, 302, 303, 307, 308)


class Fetched(msgspec.Struct, frozen=True):
    """A response in whole. `url` is where it came from in the end; header names are lower-case."""

    url: str
    status: int
    headers: dict[str, str]
    body: bytes


async def resolve(host: str) -> Sequence[Address]:
    """All addresses of `host`, in the order in which the system would try them; raises Unavailable."""
    try:
        found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(f"{host} has no address: {error.strerror or error}") from error
    return [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


class Egress:
    """Fetches by GET, keeping to the guard's rules; `permitted` gives what may be reached although it is private."""

    def __init__(self, permitted: Callable[[], Iterable[str]] = tuple, resolve: Resolve = resolve) -> None:
        self._permitted = permitted
        self._resolve = resolve
        self._tls: ssl.SSLContext | None = None

    async def fetch(
        self,
        url: str,
        *,
        accept: str = "*/*",
        credentials: Credentials = (),
        stays: bool = False,
        limit_bytes: int = LIMIT_BYTES,
        within_s: float = WITHIN_S,
    ) -> Fetched:
        """Get `url`, following up to five redirects; any status is an answer.

        Args:
            credentials: headers for the server that `url` names, and for no other that it redirects to.
            stays: whether a redirect to another host is refused, by an error that names it.

        Raises:
            InvalidInput: it is no web address.
            Forbidden: it leads where nobody permitted to go.
            TooLarge, TimedOut, Unavailable: it was tried.
        """
        target = first = parse(url)
        try:
            with trio.fail_after(within_s):
                for _ in range(REDIRECTS + 1):
                    sent = credentials if _origin(target) == _origin(first) else ()
                    fetched = await self._fetch_one(target, accept, sent, limit_bytes)
                    if fetched.status not in _REDIRECTS or "location" not in fetched.headers:
                        return fetched
                    target = _redirected(target, fetched.headers["location"], stays)
        except trio.TooSlowError:
            raise TimedOut(f"{target.host} did not answer in full within {within_s:g} s") from None
        raise Unavailable(f"{first.host} redirects more than {REDIRECTS} times")

    async def _fetch_one(self, url: httpx2.URL, accept: str, credentials: Credentials, limit_bytes: int) -> Fetched:
        addresses, is_permitted = await self._judge(url)
        headers = [
            (b"host", url.netloc),
            (b"accept", accept.encode()),
            (b"accept-encoding", b"gzip"),
            (b"user-agent", b"pocketpaw"),
            *credentials,
        ]
        if is_permitted:
            # So that a server on this machine which trusts local users, as this daemon does, takes us for none.
            headers.append((b"forwarded", b"for=_pocketpaw"))
        target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        request = httpcore2.Request(b"GET", target, headers=headers, extensions={"timeout": {"connect": CONNECT_S}})
        pinned = _Pinned(addresses)
        connection = httpcore2.AsyncHTTPConnection(
            target.origin, ssl_context=self._tls_for(url.scheme), network_backend=pinned
        )
        try:
            return await _read(await connection.handle_async_request(request), url, limit_bytes)
        except httpcore2.TimeoutException:
            raise TimedOut(f"{url.host}: no connection within {CONNECT_S:g} s") from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            raise Unavailable(f"{url.host}: {_reason(error)}") from error
        finally:
            pinned.close()

    async def _judge(self, url: httpx2.URL) -> tuple[Sequence[Address], bool]:
        """The addresses to connect to, and whether it is the operator who permits them; raises Forbidden."""
        host, permitted = url.raw_host.decode(), [entry.lower() for entry in self._permitted()]
        literal = parse_address(host)
        addresses = [literal] if literal is not None else await self._resolve(host)
        if host in permitted:
            return addresses, True
        networks, own = [network for network in map(parse_network, permitted) if network], own_networks()
        chosen = [any(address in network for network in networks) for address in addresses]
        for address, is_chosen in zip(addresses, chosen, strict=True):
            if not is_chosen and (not is_public(address) or any(address in network for network in own)):
                what = "is no public address" if address == literal else f"leads to {address}, no public address"
                raise Forbidden(f"{host} {what}; the setting web_fetch_private_hosts can permit it")
        if not all(chosen) and _port(url) not in WEB_PORTS:
            ports = ", ".join(map(str, sorted(WEB_PORTS)))
            raise Forbidden(f"{host}: port {_port(url)} is not one of the web's ({ports})")
        return addresses, all(chosen)

    def _tls_for(self, scheme: str) -> ssl.SSLContext | None:
        if scheme == "https" and self._tls is None:
            self._tls = httpx2.create_ssl_context()  # reads every certificate authority: 20 ms
        return self._tls


def parse(url: str) -> httpx2.URL:
    """Read a web address of a form that nobody could read otherwise; raises InvalidInput, or Forbidden for others."""
    try:
        parsed = httpx2.URL(url[: URL_LIMIT + 1])
    except httpx2.InvalidURL as error:
        raise InvalidInput(f"url: {_shown(url)} is no address: {error}") from None
    host = parsed.raw_host.decode()
    if len(url) > URL_LIMIT:
        raise InvalidInput(f"url: an address at {host} of {len(url):,} characters; {URL_LIMIT:,} are the limit")
    if not parsed.scheme:
        raise InvalidInput(f"url: {_shown(url)} begins with neither http:// nor https://")
    if parsed.scheme not in ("http", "https"):
        raise Forbidden(f"{_shown(url)}: only http and https are fetched, not {parsed.scheme[:20]}")
    if parsed.userinfo:
        raise Forbidden(f"{host}: an address with a user or a password in it is not fetched")
    if not 0 < _port(parsed) < 65_536:
        raise InvalidInput(f"url: {host} has no port {_port(parsed)}")
    if parse_address(host) is None:
        host = host.removesuffix(".")
        if not _HOST.fullmatch(host):
            raise InvalidInput(f"url: {host[:100]!r} is no name of a host")
        if _NUMERIC_LABEL.match(host.rpartition(".")[2]):
            raise Forbidden(f"{host}: an IPv4 address is written as four decimal numbers")
        parsed = parsed.copy_with(host=host)
    return parsed.copy_with(fragment=None)


class _Pinned(httpcore2.AsyncNetworkBackend):
    """Connects to the first of `addresses` that answers, whatever name is asked for, and closes what it opened."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses
        self._tcp = cast("httpcore2.AsyncNetworkBackend", httpcore2.TrioBackend())
        self._stream: httpcore2.AsyncNetworkStream | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        failure: Exception = httpcore2.ConnectError("it has no address")
        for address in self._addresses:
            try:
                self._stream = await self._tcp.connect_tcp(str(address), port, timeout, local_address, socket_options)
                return self._stream
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    def close(self) -> None:
        """Close the connection at once; httpcore2 leaves one open that is cancelled while it shakes hands."""
        if self._stream is not None:
            self._stream.get_extra_info("socket").close()


class Body:
    """A body as it grows, decompressed on the way, so that a bomb is noticed before it goes off."""

    def __init__(self, host: str, encoding: str, limit_bytes: int) -> None:
        self.data = bytearray()
        self._host = host
        self._limit = limit_bytes
        self._arrived = 0
        if encoding not in ("", "identity", "gzip", "x-gzip"):
            raise Unavailable(f"{host} answers in the encoding {encoding[:40]!r}, which was not asked for")
        self._gzip = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS) if "gzip" in encoding else None

    def add(self, piece: bytes) -> None:
        self._arrived += len(piece)
        try:
            room = self._limit - len(self.data) + 1
            self.data += self._gzip.decompress(piece, room) if self._gzip is not None else piece
        except zlib.error as error:
            raise Unavailable(f"{self._host}: its gzip is damaged") from error
        if max(len(self.data), self._arrived) > self._limit:
            raise TooLarge(f"{self._host}: the answer is larger than {self._limit:,} bytes")

    def end(self) -> None:
        """Nothing more comes; raises Unavailable if something is missing."""
        if self._arrived and self._gzip is not None and not self._gzip.eof:
            raise Unavailable(f"{self._host}: its gzip breaks off before its end")


async def _read(response: httpcore2.Response, url: httpx2.URL, limit_bytes: int) -> Fetched:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
    body = Body(url.host, headers.get("content-encoding", "").strip().lower(), limit_bytes)
    if response.status not in _REDIRECTS:
        async with aclosing(response.aiter_stream()) as pieces:
            async for piece in pieces:
                body.add(piece)
        body.end()
    return Fetched(str(url), response.status, headers, bytes(body.data))


def _redirected(url: httpx2.URL, location: str, stays: bool) -> httpx2.URL:
    """Where a redirect from `url` leads, if it may be followed."""
    text = location.encode("latin-1").decode(errors="replace")  # of those who send more than ASCII, most send UTF-8
    try:
        target = parse(str(url.join(text)))
    except (InvalidInput, Forbidden, httpx2.InvalidURL, ValueError) as error:
        raise Forbidden(f"{url.host} redirects, but {error}") from None
    if url.scheme == "https" and target.scheme == "http":
        raise Forbidden(f"{url.host} redirects from https to http, to {target}")
    if stays and target.host.removeprefix("www.") != url.host.removeprefix("www."):
        raise Forbidden(f"{url.host} redirects to another host: {target} (fetch that if it is what you want)")
    return target


def _origin(url: httpx2.URL) -> tuple[bytes, bytes, int]:
    return url.raw_scheme, url.raw_host, _port(url)


def _port(url: httpx2.URL) -> int:
    return url.port if url.port is not None else {"http": 80, "https": 443}[url.scheme]


def _shown(url: str) -> str:
    """The beginning of what was given, without a password."""
    return repr(re.sub(r"//[^/?#]*@", "//…@", url)[:100])


def _reason(error: BaseException) -> str:
    """The first cause of a failed connection, in the words of the system or of TLS."""
    cause = leaf(error)
    if (deeper := cause.__cause__ or cause.__context__) is not None:
        return _reason(deeper)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {cause.verify_message}"
    if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) and cause.errno:
        return os.strerror(cause.errno)
    return str(cause) or type(cause).__name__

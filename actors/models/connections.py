"""HTTP connections to model servers, kept open between requests and shared by every backend.

On httpcore2, the transport under httpx2: a response of httpx2 2.16 that is left before its end leaves an async
generator (`AsyncResponseStream`'s) to the garbage collector, and its niceties cost a fifth of a short answer's time.
"""

from __future__ import annotations

import ssl
from types import TracebackType
from urllib.request import getproxies, proxy_bypass

import httpcore2
import httpx2

HTTP_ERRORS = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    httpcore2.UnsupportedProtocol,
)
HttpError = (
    httpcore2.TimeoutException
    | httpcore2.NetworkError
    | httpcore2.ProtocolError
    | httpcore2.ProxyError
    | httpcore2.UnsupportedProtocol
)

KEPT_IDLE = 16
"""Each idle connection is looked at with every request, so few are kept; those in use are not limited."""
KEPT_IDLE_S = 60.0


PROXIES = ("http", "https")


class Connections:
    """A pool for each proxy that the environment names (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`), and one
    for the way without.
    """

    def __init__(self) -> None:
        self._pools: dict[str, httpcore2.AsyncConnectionPool] = {}
        self._pool_of_origin: dict[str, httpcore2.AsyncConnectionPool] = {}
        self._tls: ssl.SSLContext | None = None

    async def __aenter__(self) -> Connections:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection, also those in use."""
        pools, self._pools = self._pools, {}
        self._pool_of_origin.clear()
        for pool in pools.values():
            await pool.aclose()

    async def send(self, request: httpcore2.Request) -> httpcore2.Response:
        """Send `request` and wait for the head of its response, which the caller closes.

        Raises: HTTP_ERRORS
        """
        url = request.url
        key = f"{url.scheme.decode()}://{url.host.decode()}:{url.port}"
        pool = self._pool_of_origin.get(key)
        if pool is None:
            pool = self._pool_of_origin[key] = self._pool_for(url.scheme.decode(), url.host.decode(), url.port)
        return await pool.handle_async_request(request)

    def _pool_for(self, scheme: str, host: str, port: int | None) -> httpcore2.AsyncConnectionPool:
        proxy = proxy_for(scheme, host, port)
        if proxy not in self._pools:
            if scheme == "https" and self._tls is None:
                self._tls = httpx2.create_ssl_context()  # reads every certificate authority: 20 ms
            self._pools[proxy] = _open_pool(proxy, self._tls)
        return self._pools[proxy]


def proxy_for(scheme: str, host: str, port: int | None) -> str:
    """Find the proxy for a server in the environment; empty for none, and always for this machine's own servers.

    Raises: httpcore2.ProxyError if it is of a kind that cannot be used, or has no address
    """
    is_local = host in ("localhost", "127.0.0.1", "::1")
    if is_local or proxy_bypass(f"{host}:{port}" if port else host):
        return ""
    proxies = getproxies()
    address = proxies.get(scheme) or proxies.get("all") or ""
    if not address:
        return ""
    address = address if "://" in address else f"http://{address}"
    try:
        kind = httpx2.URL(address).scheme
    except httpx2.InvalidURL as error:
        raise httpcore2.ProxyError(f"the environment names a proxy for {scheme} whose address is none") from error
    if kind not in PROXIES:
        raise httpcore2.ProxyError(f"the environment names a proxy for {scheme} of the kind {kind}, not http or https")
    return address


def _open_pool(proxy: str, tls: ssl.SSLContext | None) -> httpcore2.AsyncConnectionPool:
    return httpcore2.AsyncConnectionPool(
        ssl_context=tls,
        proxy=_parse_proxy(proxy) if proxy else None,
        max_connections=None,
        max_keepalive_connections=KEPT_IDLE,
        keepalive_expiry=KEPT_IDLE_S,
    )


def _parse_proxy(address: str) -> httpcore2.Proxy:
    url = httpx2.URL(address)
    target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=b"/")
    return httpcore2.Proxy(target, auth=(url.username, url.password) if url.userinfo else None)

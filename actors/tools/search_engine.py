"""The search engines that an operator can choose: what they are asked, and what they answer."""

from __future__ import annotations

import html
import re
from abc import ABC, abstractmethod
from contextlib import aclosing
from typing import ClassVar
from urllib.parse import urlencode

import httpcore2
import httpx2
import msgspec
import trio

from ...config import Settings
from ...runtime.errors import TimedOut, TooLarge, Unavailable
from ..models.connections import HTTP_ERRORS, Connections

SEARCH_S = 20.0
ANSWER_LIMIT_BYTES = 2_000_000
EXCERPT_LIMIT = 1_500
"""Characters of a title or an excerpt; twenty results of this length are as much as one answer holds."""

_TAG = re.compile(r"<[^<>]*>")


class Result(msgspec.Struct, frozen=True):
    """A page that was found."""

    title: str
    url: str
    excerpt: str
    age: str = ""

    def __str__(self) -> str:
        return "\n".join(part for part in (self.title or self.url, self.url, self.age, self.excerpt) if part)


class _SearxResult(msgspec.Struct, frozen=True):
    url: str
    title: str | None = None
    content: str | None = None
    publishedDate: str | None = None  # noqa: N815 SearXNG's name


class _SearxAnswer(msgspec.Struct, frozen=True):
    results: list[_SearxResult] = []


class _BraveResult(msgspec.Struct, frozen=True):
    url: str
    title: str | None = None
    description: str | None = None
    age: str | None = None


class _BraveWeb(msgspec.Struct, frozen=True):
    results: list[_BraveResult] = []


class _BraveAnswer(msgspec.Struct, frozen=True):
    web: _BraveWeb | None = None


class SearchEngine(ABC):
    """An engine at the address that the settings name, which may be a private one: it is the operator's."""

    path: ClassVar[str]

    def __init__(self, url: str, api_key: str) -> None:
        try:
            self._url = httpx2.URL(url.removesuffix(self.path))
        except httpx2.InvalidURL:
            raise Unavailable("the setting web_search_url is no address") from None
        self._api_key = api_key.encode()
        self.host = self._url.host

    async def find(self, connections: Connections, query: str, limit: int) -> list[Result]:
        """Search; raises Unavailable, TimedOut or TooLarge."""
        target = self._url.raw_path.rstrip(b"/") + f"{self.path}?{urlencode(self._parameters(query, limit))}".encode()
        url = httpcore2.URL(scheme=self._url.raw_scheme, host=self._url.raw_host, port=self._url.port, target=target)
        headers = [(b"host", self._url.netloc), (b"accept", b"application/json"), (b"user-agent", b"pocketpaw")]
        request = httpcore2.Request(b"GET", url, headers=[*headers, *self._credentials()])
        try:
            with trio.fail_after(SEARCH_S):
                status, body = await self._send(connections, request)
        except trio.TooSlowError:
            raise TimedOut(f"the search engine at {self.host} did not answer within {SEARCH_S:g} s") from None
        except HTTP_ERRORS as error:
            raise Unavailable(f"the search engine at {self.host} cannot be reached: {error}") from error
        if status != 200:
            raise Unavailable(f"the search engine at {self.host} answers with the status {status}{self._hint(status)}")
        try:
            return self._read(body)[:limit]
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unavailable(f"the search engine at {self.host} answers with something else: {error}") from error

    async def _send(self, connections: Connections, request: httpcore2.Request) -> tuple[int, bytes]:
        body = bytearray()
        response = await connections.send(request)
        try:
            async with aclosing(response.aiter_stream()) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) > ANSWER_LIMIT_BYTES:
                        raise TooLarge(f"{self.host}: the answer is larger than {ANSWER_LIMIT_BYTES:,} bytes")
        finally:
            await response.aclose()
        return response.status, bytes(body)

    @abstractmethod
    def _parameters(self, query: str, limit: int) -> dict[str, str]:
        """What is asked."""

    @abstractmethod
    def _credentials(self) -> list[tuple[bytes, bytes]]:
        """The headers by which the engine knows the operator."""

    @abstractmethod
    def _hint(self, status: int) -> str:
        """What may be wrong when it answers with `status`; empty if unknown."""

    @abstractmethod
    def _read(self, body: bytes) -> list[Result]:
        """What was found; raises msgspec.DecodeError."""


class SearXNG(SearchEngine):
    """https://docs.searxng.org/dev/search_api"""

    path: ClassVar[str] = "/search"

    def _parameters(self, query: str, limit: int) -> dict[str, str]:
        return {"q": query, "format": "json"}

    def _credentials(self) -> list[tuple[bytes, bytes]]:
        return [(b"authorization", b"Bearer " + self._api_key)] if self._api_key else []

    def _hint(self, status: int) -> str:
        return " (are `json` results allowed in its settings.yml, under search.formats?)" if status == 403 else ""

    def _read(self, body: bytes) -> list[Result]:
        results = msgspec.json.decode(body, type=_SearxAnswer).results
        return [Result(_plain(r.title), r.url, _plain(r.content), (r.publishedDate or "")[:10]) for r in results]


class Brave(SearchEngine):
    """https://api-dashboard.search.brave.com/api-reference/web/search/get"""

    path: ClassVar[str] = "/res/v1/web/search"

    def _parameters(self, query: str, limit: int) -> dict[str, str]:
        return {"q": query, "count": str(limit)}

    def _credentials(self) -> list[tuple[bytes, bytes]]:
        return [(b"x-subscription-token", self._api_key)]

    def _hint(self, status: int) -> str:
        return " (is the setting web_search_api_key right?)" if status in (401, 403, 422) else ""

    def _read(self, body: bytes) -> list[Result]:
        web = msgspec.json.decode(body, type=_BraveAnswer).web
        results = web.results if web is not None else []
        return [Result(_plain(r.title), r.url, _plain(r.description), r.age or "") for r in results]


def engine_of(settings: Settings) -> SearchEngine:
    """The engine that the settings name; raises Unavailable if they name none."""
    if not settings.web_search_url:
        raise Unavailable("there is no web search: the setting web_search_url names no search engine")
    engines = {"searxng": SearXNG, "brave": Brave}
    return engines[settings.web_search_kind](settings.web_search_url, settings.web_search_api_key)


def _plain(text: str | None) -> str:
    """An excerpt without the tags in which engines set off what was found, and no longer than one is."""
    return html.unescape(_TAG.sub("", (text or "")[: 2 * EXCERPT_LIMIT])).strip()[:EXCERPT_LIMIT]

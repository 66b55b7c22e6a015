"""The web, read for the agent: pages as Markdown, and searches by the operator's search engine."""

from __future__ import annotations

from collections import OrderedDict
from email.message import Message as MimeHeaders
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec

from ...config import Settings
from ...runtime import Message, ProcessActor
from ...runtime.errors import InvalidInput, Unavailable, UnsupportedMedia
from ..settings import LiveSettings
from .excerpts import OUTPUT_LIMIT
from .page_worker import READ_S, ReadPage
from .protocol import Execute, ToolInfo, ToolOutput
from .toolbox import Arguments, Toolbox, tool

if TYPE_CHECKING:
    from ..models.connections import Connections
    from .egress import Egress, Resolve

RESULTS_LIMIT = 20
"""As many as Brave gives at once."""

KEPT_PAGES = 8
"""For reading on in a long page, which would otherwise be fetched again for each part."""

_ACCEPT = "text/markdown, text/html;q=0.9, application/xhtml+xml;q=0.9, text/*;q=0.8, application/json;q=0.8, */*;q=0.1"
_HTML = ("text/html", "application/xhtml+xml")
_TEXT = ("application/json", "application/xml", "application/javascript", "application/yaml", "application/toml")


class WebFetch(Arguments, frozen=True):
    url: Annotated[str, msgspec.Meta(description="An address that begins with https:// or http://", min_length=1)]
    start: Annotated[
        int, msgspec.Meta(description="For reading on in a long page: the character to begin at", ge=0)
    ] = 0


class WebSearch(Arguments, frozen=True):
    query: Annotated[str, msgspec.Meta(description="What to look for", min_length=1, max_length=400)]
    limit: Annotated[int, msgspec.Meta(description="How many results, at most", ge=1, le=RESULTS_LIMIT)] = 8


class PageReader(ProcessActor):
    """Answers `ReadPage`; see page_worker.py."""

    worker: ClassVar[str] = "pocketpaw.actors.tools.page_worker:PageWorker"
    takes: ClassVar[tuple[type[Message[Any]], ...]] = (ReadPage,)


class Text(msgspec.Struct, frozen=True):
    """What there is to read at an address; `url` is where it was in the end."""

    url: str
    title: str
    text: str


class Web(Toolbox):
    """Reads the public web, behind the egress guard; the search engine is the operator's choice, and so is not."""

    def __init__(self, live: LiveSettings, resolve: Resolve | None = None) -> None:
        super().__init__()
        self._live = live
        self._resolve = resolve
        self._pages: OrderedDict[str, Text] = OrderedDict()
        self._connections: Connections | None = None

    @cached_property
    def _egress(self) -> Egress:
        from .egress import Egress, resolve  # here: an HTTP client is 6 MB that not everybody needs

        return Egress(lambda: self._live.current.web_fetch_private_hosts, self._resolve or resolve)

    @staticmethod
    def is_offered(info: ToolInfo, settings: Settings) -> bool:
        """Whether one of its tools works with these settings: without a search engine there is no search."""
        return info.name != "web_search" or bool(settings.web_search_url)

    async def on_stop(self) -> None:
        if self._connections is not None:
            await self._connections.aclose()

    @tool("egress", "admin", subject="url")
    async def web_fetch(self, arguments: WebFetch, call: Execute) -> ToolOutput:
        """Read a page or a text file on the web, as Markdown. Only what is public on the internet can be reached."""
        page = self._pages.get(arguments.url) if arguments.start else None
        if page is None:
            page = await self._read(arguments.url)
            self._keep(arguments.url, page)
        return ToolOutput(excerpt(page, arguments.start), source=f"web {page.url}")

    @tool("egress", "admin", subject="query")
    async def web_search(self, arguments: WebSearch, call: Execute) -> ToolOutput:
        """Search the web. Gives titles, addresses and excerpts; read a page itself with web_fetch."""
        from ..models.connections import Connections
        from .search_engine import engine_of

        engine = engine_of(self._live.current)
        self._connections = self._connections or Connections()
        results = await engine.find(self._connections, arguments.query, arguments.limit)
        text = "\n\n".join(f"{number}. {result}" for number, result in enumerate(results, 1))
        return ToolOutput(text or "Nothing was found.", source=f"web search at {engine.host}")

    async def _read(self, url: str) -> Text:
        fetched = await self._egress.fetch(url, accept=_ACCEPT, stays=True)
        if not 200 <= fetched.status < 300:
            raise Unavailable(f"{fetched.url} answers with the status {fetched.status}")
        kind, charset = content_type(fetched.headers.get("content-type", ""))
        if kind in _HTML:
            read = ReadPage(html=fetched.body, url=fetched.url, charset=charset)
            page = await self.ask(read, timeout_s=2 * READ_S)
            return Text(fetched.url, page.title, page.markdown)
        if kind.startswith("text/") or kind in _TEXT or kind.endswith(("+json", "+xml")):
            return Text(fetched.url, "", decode(fetched.body, charset))
        raise UnsupportedMedia(f"{fetched.url} is {kind or 'of no type that it names'}; only text and HTML are read")

    def _keep(self, url: str, page: Text) -> None:
        self._pages[url] = page
        self._pages.move_to_end(url)
        while len(self._pages) > KEPT_PAGES:
            self._pages.popitem(last=False)


def excerpt(page: Text, start: int) -> str:
    """As much of a page from `start` on as one answer holds, and how to get the rest."""
    total = len(page.text)
    if start and start >= total:
        raise InvalidInput(f"start: the page has {total:,} characters, so {start:,} is past its end")
    part = page.text[start : start + OUTPUT_LIMIT]
    end = start + len(part)
    head = [f"Title: {page.title}"] if page.title and not start else []
    head.append(f"Address: {page.url}")
    if len(part) < total:
        rest = f"; for more, call web_fetch with start={end}" if end < total else ""
        head.append(f"Characters {start} to {end} of {total}{rest}")
    return "\n".join([*head, "", part or "(The page holds no text.)"])


def content_type(header: str) -> tuple[str, str]:
    """The type in lower case and its charset, from a Content-Type header; empty where it does not say."""
    headers = MimeHeaders()
    headers["content-type"] = header
    return headers.get_content_type() if "/" in header else "", (headers.get_content_charset() or "")[:40]


def decode(body: bytes, charset: str) -> str:
    """Read text, whatever it says its charset is; without what no database or message could hold."""
    try:
        text = body.decode(charset or "utf-8-sig", errors="replace")
    except (LookupError, ValueError):  # no charset, or one of Python's own curiosities
        text = body.decode("utf-8-sig", errors="replace")
    return text.replace("\0", "").encode(errors="replace").decode()

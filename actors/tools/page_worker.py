"""HTML to Markdown, in a child process: reading a foreign page may take long, and must hold up nobody else."""

from __future__ import annotations

import re
import resource
import signal
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urljoin

import msgspec

from ...runtime.errors import TimedOut
from ...runtime.message import Message
from ...runtime.worker import Worker

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

READ_S = 30.0
"""For one page: a megabyte takes about 2.5 s."""
MEMORY_LIMIT_BYTES = 1_500_000_000
MAIN_CHARACTERS = 300
"""A page whose `<main>` holds less than this has its text elsewhere."""

_NOT_TEXT = ["script", "style", "noscript", "template", "svg", "canvas", "iframe", "object", "embed", "head"]
_LISTS, _ROW, _TABLE = ("ul", "ol", "menu"), ("tr", "table"), ("table",)
_TABLE_PARTS = ("thead", "tbody", "tfoot")
_ENDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "li": (("li",), _LISTS),
    "dt": (("dt", "dd"), ("dl",)),
    "dd": (("dt", "dd"), ("dl",)),
    "td": (("td", "th"), _ROW),
    "th": (("td", "th"), _ROW),
    "tr": (("tr",), _TABLE),
    **dict.fromkeys(_TABLE_PARTS, (_TABLE_PARTS, _TABLE)),
}
"""Which open elements the start of one ends, as their end tags are optional, and beyond which others it does not look.

https://html.spec.whatwg.org/multipage/syntax.html#optional-tags; Python's parser leaves that to us.
"""
_INVISIBLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_BLANK_LINES = re.compile(r"\n\s*\n\s*\n")


class Page(msgspec.Struct, frozen=True):
    """A page as text: what a person would see of it."""

    title: str
    markdown: str


class ReadPage(Message[Page], to="tools/page"):
    """Turn a page into Markdown, its links made whole by `url`."""

    html: bytes
    url: str
    charset: Annotated[str, msgspec.Meta(max_length=40)] = ""
    """What the server says of the bytes; empty leaves it to the page itself."""


class PageWorker(Worker):
    """Runs in the child. What it takes too long over is answered as such; what takes too much memory ends it."""

    def on_start(self) -> None:
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = MEMORY_LIMIT_BYTES if hard == resource.RLIM_INFINITY else min(hard, MEMORY_LIMIT_BYTES)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signal.signal(signal.SIGALRM, _give_up)
        for name in ("bs4", "markdownify"):  # before the time of the first page counts
            import_module(name)

    def read_page(self, message: ReadPage) -> Page:
        signal.setitimer(signal.ITIMER_REAL, READ_S)
        try:
            return to_markdown(message.html, message.url, message.charset)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def to_markdown(html: bytes, url: str, charset: str = "") -> Page:
    """Read a page; raises nothing because of what is in it."""
    soup = _parse(html, charset)
    title = " ".join(soup.title.get_text().split()) if soup.title is not None else ""
    _drop_what_nobody_sees(soup)
    _complete_links(soup, url)
    content = _content_of(soup)
    try:
        text = _convert(content)
    except (RecursionError, ValueError):  # elements nested a thousand deep, a list that begins at ²: text is still text
        text = content.get_text("\n", strip=True)
    return Page(_clean(title), _clean(_BLANK_LINES.sub("\n\n", text)))


def _clean(text: str) -> str:
    """Without what no database or message could hold."""
    return text.replace("\0", "").strip().encode(errors="replace").decode()


def _parse(html: bytes, charset: str) -> BeautifulSoup:
    from bs4 import BeautifulSoup
    from bs4.exceptions import ParserRejectedMarkup

    class Soup(BeautifulSoup):
        """Ends elements whose end tag is optional."""

        def handle_starttag(self, name: str, *args: Any, **options: Any) -> Tag | None:
            ended, beyond = _ENDS.get(name, ((), ()))
            for tag in reversed(self.tagStack if ended else ()):
                if tag.name in beyond:
                    break
                if tag.name in ended:
                    self.handle_endtag(tag.name)
                    break
            return super().handle_starttag(name, *args, **options)

    try:
        return Soup(html, "html.parser", from_encoding=charset or None)
    except ParserRejectedMarkup:  # at "<![ ", say, which to a browser begins a comment
        html = html.replace(b"<!", b"<?").replace(b"<\0!", b"<\0?")
        return Soup(html, "html.parser", from_encoding=charset or None)


def _convert(content: Tag) -> str:
    from markdownify import ATX, MarkdownConverter

    converter = MarkdownConverter(heading_style=ATX, bullets="-", escape_underscores=False, escape_asterisks=False)
    return converter.convert_soup(content)


def _drop_what_nobody_sees(soup: BeautifulSoup) -> None:
    """Hidden text is where orders to a model are hidden."""
    for tag in soup.find_all(_NOT_TEXT):
        tag.decompose()
    for tag in soup.find_all(lambda tag: tag.has_attr("hidden") or bool(_INVISIBLE.search(str(tag.get("style", ""))))):
        if not tag.decomposed:
            tag.decompose()


def _complete_links(soup: BeautifulSoup, url: str) -> None:
    for attribute in ("href", "src"):
        for tag in soup.select(f"[{attribute}]"):
            target = str(tag[attribute]).strip()
            if tag.name == "img" and target.startswith("data:"):
                tag.replace_with(str(tag.get("alt", "")))
            elif target.startswith(("data:", "javascript:")):
                del tag[attribute]
            else:
                tag[attribute] = _join(url, target)


def _join(url: str, target: str) -> str:
    try:
        return urljoin(url, target)
    except ValueError:  # brackets that are no IPv6 address
        return target


def _content_of(soup: BeautifulSoup) -> Tag:
    mains = soup.find_all("main")
    if len(mains) == 1 and len(mains[0].get_text(strip=True)) >= MAIN_CHARACTERS:
        return mains[0]
    return soup


def _give_up(_: int, __: FrameType | None) -> None:
    raise TimedOut(f"the page takes more than {READ_S:g} s to read")

"""Markdown as Telegram shows it: its HTML (https://core.telegram.org/bots/api#html-style), which knows few tags."""

from __future__ import annotations

from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

BULLET = "• "
RULE = "———"
LINKED = ("http://", "https://", "mailto:", "tg://")

_INLINE = {
    "strong_open": "<b>",
    "strong_close": "</b>",
    "em_open": "<i>",
    "em_close": "</i>",
    "s_open": "<s>",
    "s_close": "</s>",
    "softbreak": "\n",
    "hardbreak": "\n",
}


def to_html(markdown: str) -> str:
    """Render Markdown; what Telegram has no tag for becomes plain text."""
    return _Page(_parser().parse(markdown)).html()


def utf16_units(text: str) -> int:
    """The length of a text as Telegram counts it."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt  # 20 ms, for who has a channel

    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


class _Page:
    """Blocks, one after the other; those of a list stand closer together than paragraphs."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._out: list[str] = []
        self._lists: list[_List] = []  # those that are open
        self._quotes = 0
        self._is_at_item = False
        self._cells: list[str] | None = None

    def html(self) -> str:
        for token in self._tokens:
            self._block(token)
        return "".join(self._out).strip("\n")

    def _block(self, token: Token) -> None:
        match token.type:
            case "inline":
                self._inline_block(token)
            case "paragraph_open":
                self._gap(is_tight=token.hidden)
            case "heading_open":
                self._gap()
                self._out.append("<b>")
            case "heading_close":
                self._out.append("</b>")
            case "fence" | "code_block":
                self._code(token)
            case "hr":
                self._gap()
                self._out.append(RULE)
            case _:
                self._container(token)

    def _container(self, token: Token) -> None:
        match token.type:
            case "bullet_list_open":
                self._lists.append(_List(None))
            case "ordered_list_open":
                self._lists.append(_List(int(token.attrs.get("start", 1))))
            case "bullet_list_close" | "ordered_list_close":
                self._lists.pop()
            case "list_item_open":
                self._item()
            case "blockquote_open":
                self._quote(1)
            case "blockquote_close":
                self._quote(-1)
            case "table_open" | "table_close" | "tr_open" | "tr_close":
                self._table(token.type)
            case _:
                return  # it says nothing itself: the end of a paragraph, the head of a table

    def _gap(self, *, is_tight: bool = False) -> None:
        """Leave room before a block."""
        if self._is_at_item:
            self._is_at_item = False
        elif self._out and not self._out[-1].endswith(("<blockquote>", "\n")):
            self._out.append("\n" if is_tight or self._lists else "\n\n")

    def _inline_block(self, token: Token) -> None:
        text = _inline(token.children or [])
        if self._cells is not None:
            self._cells.append(text)
        else:
            self._out.append(text)

    def _item(self) -> None:
        current = self._lists[-1]
        is_near = current.has_items or len(self._lists) > 1
        if self._out:
            self._out.append("\n" if is_near else "\n\n")
        current.has_items = True
        number = "" if current.number is None else f"{current.number}. "
        self._out.append("  " * (len(self._lists) - 1) + (number or BULLET))
        if current.number is not None:
            current.number += 1
        self._is_at_item = True

    def _quote(self, by: int) -> None:
        """Telegram knows no quote within a quote, so only the outermost is one."""
        if by > 0:
            self._gap()
        self._quotes += by
        if self._quotes == max(by, 0):
            self._out.append("<blockquote>" if by > 0 else "</blockquote>")

    def _code(self, token: Token) -> None:
        self._gap()
        language = token.info.split(maxsplit=1)[0] if token.info.strip() else ""
        text = escape(token.content.rstrip("\n"), quote=False)
        if language:
            self._out.append(f'<pre><code class="language-{escape(language)}">{text}</code></pre>')
        else:
            self._out.append(f"<pre>{text}</pre>")

    def _table(self, event: str) -> None:
        """A row is a line; Telegram has no tables."""
        if event == "table_open":
            self._gap()
            self._is_at_item = True  # its first row needs no room of its own
        elif event == "tr_open":
            self._cells = []
        elif event == "tr_close":
            self._gap(is_tight=True)
            self._out.append(" | ".join(self._cells or []))
            self._cells = None


class _List:
    def __init__(self, number: int | None) -> None:
        self.number = number
        self.has_items = False


def _inline(tokens: list[Token]) -> str:
    out: list[str] = []
    is_linked = False
    for token in tokens:
        match token.type:
            case "text" | "text_special":
                out.append(escape(token.content, quote=False))
            case "code_inline":
                out.append(f"<code>{escape(token.content, quote=False)}</code>")
            case "link_open":
                address = str(token.attrs.get("href", ""))
                is_linked = address.startswith(LINKED)
                out.append(f'<a href="{escape(address)}">' if is_linked else "")
            case "link_close":
                out.append("</a>" if is_linked else "")
                is_linked = False
            case "image":
                out.append(escape(token.content or str(token.attrs.get("src", "")), quote=False))
            case _:
                out.append(_INLINE.get(token.type, escape(token.content, quote=False)))
    return "".join(out)

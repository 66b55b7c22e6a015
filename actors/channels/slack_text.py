"""Markdown as Slack's rich text, and Slack's own markup as plain text.

Rich text blocks, not mrkdwn and not the `markdown` block: their text is never read as markup. So nothing has to be
escaped, a star or an underscore stays one, and no text can ping `@channel`, which both others can be made to do. They
are what Slack's own composer writes. https://docs.slack.dev/reference/block-kit/blocks/rich-text-block
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token
    from markdown_it.tree import SyntaxTreeNode

LINKED = ("https://", "http://", "mailto:")
LINK_LIMIT = 3_000
DEEPEST_INDENT = 8

_MARKUP = re.compile(r"<([^<>\s][^<>\n]*)>")
_PERSON = re.compile(r"<@([A-Z0-9]+)(?:\|[^<>\n]*)?>")
_STYLES = {"strong": "bold", "em": "italic", "s": "strike"}
_CODE = ("fence", "code_block", "table")
_LISTS = ("bullet_list", "ordered_list")


class Style(msgspec.Struct, frozen=True, omit_defaults=True):
    bold: bool = False
    italic: bool = False
    strike: bool = False
    code: bool = False


class Text(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="text"):
    text: str
    style: Style | None = None


class Link(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="link"):
    url: str
    text: str
    style: Style | None = None


Span = Text | Link


class Section(msgspec.Struct, frozen=True, tag_field="type", tag="rich_text_section"):
    elements: list[Span]


class Listing(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="rich_text_list"):
    style: Literal["bullet", "ordered"]
    elements: list[Section]
    indent: int = 0
    offset: int = 0
    """How many numbers come before the first one."""


class Preformatted(msgspec.Struct, frozen=True, tag_field="type", tag="rich_text_preformatted"):
    elements: list[Text]


class Quote(msgspec.Struct, frozen=True, tag_field="type", tag="rich_text_quote"):
    elements: list[Span]


Part = Section | Listing | Preformatted | Quote


class RichText(msgspec.Struct, frozen=True, tag_field="type", tag="rich_text"):
    elements: list[Part]


def rich_text(markdown: str) -> RichText:
    """Write Markdown as one block; without elements if there is nothing to show."""
    from markdown_it.tree import SyntaxTreeNode

    writer = _Writer()
    for node in SyntaxTreeNode(_parser().parse(markdown)).children:
        writer.write(node)
    return RichText(writer.parts)


def length(block: RichText) -> int:
    """In characters, as it is sent."""
    return len(msgspec.json.encode(block).decode())


def plain(block: RichText) -> str:
    """Write a block as mere words: what notifications show, and what is sent if Slack refuses the block."""
    return "\n".join(line for part in block.elements for line in _lines(part)).strip()


def escape(text: str) -> str:
    """Write text so that Slack's markup shows it as it is. https://docs.slack.dev/messaging/formatting-message-text"""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def people_in(text: str) -> list[str]:
    """Who is mentioned in Slack's markup, by id."""
    return _PERSON.findall(text)


def without_mention(text: str, person: str) -> str:
    return re.sub(rf" ?<@{re.escape(person)}(?:\|[^<>\n]*)?>[:,]?", "", text).strip()


def read_markup(text: str, names: Mapping[str, str]) -> str:
    """Write Slack's markup as people see it; `names` are those of the people mentioned."""
    shown = _MARKUP.sub(lambda match: _seen(match[1], names), text)
    return shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _seen(inside: str, names: Mapping[str, str]) -> str:
    target, _, label = inside.partition("|")
    match target[0]:
        case "@":
            return f"@{names.get(target[1:]) or label or target[1:]}"
        case "#":
            return f"#{label or target[1:]}"
        case "!":
            return label or f"@{target[1:].partition('^')[0]}"
        case _:
            return f"{label} ({target})" if label and label not in target else target


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable(["table", "strikethrough"])


class _Writer:
    """Turns the tree of a Markdown text into the flat parts of a block."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self._after_heading = False

    def write(self, node: SyntaxTreeNode) -> None:
        if node.type in _LISTS:
            self._write_list(node, 0)
        elif node.type in _CODE:
            self._add(_code(node))
        elif node.type == "blockquote":
            self._add(Quote(_flat(node.children)))
        else:
            self._write_paragraph(_flat([node]))
        self._after_heading = node.type == "heading"

    def _write_paragraph(self, spans: list[Span]) -> None:
        last = self.parts[-1] if self.parts else None
        if isinstance(last, Section) and spans:  # Slack leaves no space between two sections
            gap = Text("\n" if self._after_heading else "\n\n")
            self.parts[-1] = Section(_merged([*last.elements, gap, *spans]))
        else:
            self._add(Section(spans))

    def _write_list(self, node: SyntaxTreeNode, indent: int) -> None:
        """Slack's lists hold lines only; whatever else an item has interrupts the list, which then goes on counting."""
        is_ordered = node.type == "ordered_list"
        number = int(node.attrs.get("start", 1)) - 1 if is_ordered else 0
        lines: list[Section] = []

        def close() -> None:
            if lines:
                style: Literal["bullet", "ordered"] = "ordered" if is_ordered else "bullet"
                offset = max(0, number - len(lines)) if is_ordered else 0
                self._add(Listing(style, lines.copy(), min(indent, DEEPEST_INDENT), offset))
                lines.clear()

        for item in node.children:
            own = next((at for at, child in enumerate(item.children) if child.type in (*_LISTS, *_CODE)), None)
            lines.append(Section(_flat(item.children[:own]) or [Text(" ")]))
            number += 1
            for child in item.children[own:] if own is not None else ():
                close()
                if child.type in _LISTS:
                    self._write_list(child, indent + 1)
                else:
                    self.write(child)
        close()

    def _add(self, part: Part) -> None:
        if part.elements:
            self.parts.append(part)


def _code(node: SyntaxTreeNode) -> Preformatted:
    text = _table(node) if node.type == "table" else node.content.rstrip("\n")
    return Preformatted([Text(text)] if text else [])


def _table(node: SyntaxTreeNode) -> str:
    rows = [[_words(_flat([cell])) for cell in row.children] for group in node.children for row in group.children]
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(len(rows[0]))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
    return "\n".join([lines[0], "-+-".join("-" * width for width in widths), *lines[1:]])


def _flat(nodes: Iterable[SyntaxTreeNode], margin: str = "") -> list[Span]:
    """Blocks as lines of text: what a quote, a list's item or a cell can hold."""
    spans: list[Span] = []
    for node in nodes:
        if spans:
            spans.append(Text("\n" + margin))
        spans += _line(node, margin)
    return _merged(spans)


def _line(node: SyntaxTreeNode, margin: str) -> list[Span]:
    match node.type:
        case "paragraph" | "heading" | "th" | "td":
            marks = ["bold"] if node.type == "heading" else []
            return [span for inline in node.children for span in _spans(_children(inline), marks)]
        case "bullet_list" | "ordered_list":
            first = int(node.attrs.get("start", 1))
            spans: list[Span] = []
            for number, item in enumerate(node.children, first):
                bullet = f"{number}. " if node.type == "ordered_list" else "• "
                start = f"\n{margin}{bullet}" if spans else bullet
                spans += [Text(start), *_flat(item.children, margin + "   ")]
            return spans
        case "blockquote":
            return _flat(node.children, margin)
        case "fence" | "code_block" | "table":
            return [Text(text.text, Style(code=True)) for text in _code(node).elements]
        case "hr":
            return [Text("———")]
        case _:
            return [Text(node.content.strip())]  # HTML, shown as it is


def _children(inline: SyntaxTreeNode) -> Sequence[Token]:
    return (inline.token.children if inline.token is not None else None) or ()


def _spans(tokens: Iterable[Token], marks: list[str]) -> list[Span]:
    spans: list[Span] = []
    url = ""
    for token in tokens:
        kind, _, edge = token.type.rpartition("_")
        if kind in _STYLES:
            marks = [*marks, _STYLES[kind]] if edge == "open" else [mark for mark in marks if mark != _STYLES[kind]]
        elif token.type == "link_open":
            url = str(token.attrs.get("href", ""))
        elif token.type == "link_close":
            if not _is_linked(url) and url not in _words(spans):
                spans.append(Text(f" ({url})"))
            url = ""
        elif token.type == "image":
            spans.append(_linked(url or str(token.attrs.get("src", "")), token.content or "image", _style(marks)))
        elif token.type in ("softbreak", "hardbreak"):
            spans.append(Text("\n"))
        elif token.type == "code_inline":
            spans.append(_linked(url, token.content, _style([*marks, "code"])))
        elif token.content:
            spans.append(_linked(url, token.content, _style(marks)))
    return spans


def _is_linked(url: str) -> bool:
    return url.lower().startswith(LINKED) and len(url) <= LINK_LIMIT


def _style(marks: Sequence[str]) -> Style | None:
    return Style(**dict.fromkeys(marks, True)) if marks else None


def _linked(url: str, text: str, style: Style | None) -> Span:
    return Link(url, text, style) if _is_linked(url) else Text(text, style)


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Join neighbours that look the same: each has its price in Slack's limit."""
    merged: list[Span] = []
    for span in spans:
        last = merged[-1] if merged else None
        if isinstance(last, Text) and isinstance(span, Text) and last.style == span.style:
            merged[-1] = Text(last.text + span.text, span.style)
        elif span.text:
            merged.append(span)
    return merged


def _words(spans: Iterable[Span]) -> str:
    return "".join(span.text for span in spans)


def _lines(part: Part) -> list[str]:
    if not isinstance(part, Listing):
        return [_words(part.elements)]
    margin = "   " * part.indent
    bullets = [f"{part.offset + at}. " if part.style == "ordered" else "• " for at in range(1, len(part.elements) + 1)]
    return [margin + bullet + _words(item.elements) for bullet, item in zip(bullets, part.elements, strict=True)]

"""Markdown as Slack's rich text, and Slack's markup as words."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pocketpaw.actors.channels.slack import Slack
from pocketpaw.actors.channels.slack_text import (
    Link,
    Listing,
    Preformatted,
    Quote,
    RichText,
    Section,
    Span,
    Style,
    Text,
    escape,
    length,
    people_in,
    plain,
    read_markup,
    rich_text,
    without_mention,
)
from pocketpaw.actors.channels.text_parts import split_text

BOLD, ITALIC, STRIKE, CODE = Style(bold=True), Style(italic=True), Style(strike=True), Style(code=True)
MARKDOWN = st.text(alphabet="ab *_~`#>-1.[](){}<>!@|\\&\n\t é😀", max_size=200)


def section(*spans: Span) -> Section:
    return Section(list(spans))


@pytest.mark.parametrize(
    ("markdown", "spans"),
    [
        ("**a** *b* _c_", [("a", BOLD), " ", ("b", ITALIC), " ", ("c", ITALIC)]),
        ("~~d~~ `e`", [("d", STRIKE), " ", ("e", CODE)]),
        ("**a *b***", [("a ", BOLD), ("b", Style(bold=True, italic=True))]),
        ("one\ntwo  \nthree", ["one\ntwo\nthree"]),
        ("one\n\ntwo", ["one\n\ntwo"]),
        ("# Big\n\nsmall", [("Big", BOLD), "\nsmall"]),
        (r"2 \* 3 * 4, snake_case_name, \_x\_", ["2 * 3 * 4, snake_case_name, _x_"]),
        ("a <b>c</b> &amp; &lt;", ["a <b>c</b> & <"]),
        ("<div>\nx\n</div>", ["<div>\nx\n</div>"]),
        ("<!channel> <@U1> @here <!subteam^S1>", ["<!channel> <@U1> @here <!subteam^S1>"]),
        ("[x](javascript:alert)", ["[x](javascript:alert)"]),
        ("[here](/docs)", ["here (/docs)"]),
        ("a\n\n---\n\nb", ["a\n\n———\n\nb"]),
    ],
)  # fmt: skip
def test_text_keeps_its_looks(markdown: str, spans: list[str | tuple[str, Style]]) -> None:
    expected = [Text(span) if isinstance(span, str) else Text(*span) for span in spans]
    assert rich_text(markdown) == RichText([section(*expected)])


def test_links_lead_where_they_say() -> None:
    block = rich_text("[a **b**](https://x.example/?q=1&r=2) <https://y.example> ![pic](https://z.example/p.png)")
    url = "https://x.example/?q=1&r=2"
    links = [Link(url, "a "), Link(url, "b", BOLD), Text(" "), Link("https://y.example", "https://y.example")]
    assert block == RichText([section(*links, Text(" "), Link("https://z.example/p.png", "pic"))])


def test_a_list_keeps_its_depth_and_goes_on_counting_after_what_interrupts_it() -> None:
    block = rich_text("3. three\n   - sub\n     - deep\n\n   ```py\n   code\n   ```\n4. four\n5. five")
    assert block.elements == [
        Listing("ordered", [section(Text("three"))], offset=2),
        Listing("bullet", [section(Text("sub"))], indent=1),
        Listing("bullet", [section(Text("deep"))], indent=2),
        Preformatted([Text("code")]),
        Listing("ordered", [section(Text("four")), section(Text("five"))], offset=3),
    ]


def test_a_quote_holds_what_it_can() -> None:
    block = rich_text("> **q**\n>\n> - a\n>   1. b\n>\n> > r\n>\n>     code")
    expected = [Text("q", BOLD), Text("\n• a\n   1. b\nr\n"), Text("code", CODE)]
    assert block == RichText([Quote(list(expected))])


def test_a_table_is_aligned() -> None:
    assert rich_text("| a | bb |\n|---|:-:|\n| `long` | **2** |").elements == [
        Preformatted([Text("a    | bb\n-----+---\nlong | 2")])
    ]


def test_the_wire_is_what_slack_documents() -> None:
    block = rich_text("a **b**\n\n1. [c](https://d.example)")
    assert msgspec.to_builtins(block) == {
        "type": "rich_text",
        "elements": [
            {
                "type": "rich_text_section",
                "elements": [
                    {"type": "text", "text": "a "},
                    {"type": "text", "text": "b", "style": {"bold": True}},
                ],
            },
            {
                "type": "rich_text_list",
                "style": "ordered",
                "elements": [
                    {
                        "type": "rich_text_section",
                        "elements": [{"type": "link", "url": "https://d.example", "text": "c"}],
                    }
                ],
            },
        ],
    }


@pytest.mark.parametrize("blank", ["", " \n", "[](https://a.example)"])
def test_nothing_to_show_is_no_block(blank: str) -> None:
    assert rich_text(blank).elements == []


def test_a_block_as_plain_words() -> None:
    block = rich_text("**a** [b](https://c.example)\n\n2. x\n3. y\n   - z\n\n> q")
    assert plain(block) == "a b\n2. x\n3. y\n   • z\nq"


@given(MARKDOWN)
def test_any_text_becomes_a_block_without_empty_texts_or_anything_that_pings(markdown: str) -> None:
    wire = msgspec.to_builtins(rich_text(markdown))
    stack = list(wire["elements"])
    while stack:
        element = stack.pop()
        if element["type"] in ("text", "link"):
            assert element["text"]
        else:
            assert element["type"].startswith("rich_text_")
            assert element["elements"]
            stack += element["elements"]


@given(MARKDOWN)
def test_no_letter_is_lost(markdown: str) -> None:
    shown = plain(rich_text(markdown.replace("[", "").replace("&", "").replace("<", "")))
    assert sorted(shown.replace("\n", "").count(letter) for letter in "aé😀") == sorted(
        markdown.count(letter) for letter in "aé😀"
    )


@given(st.lists(MARKDOWN, max_size=20).map("\n\n".join))
def test_the_parts_of_a_long_text_fit(markdown: str) -> None:
    for part in split_text(markdown, 1_000, lambda text: length(rich_text(text))):
        assert length(rich_text(part)) <= 1_000


def test_prose_of_an_ordinary_answer_is_one_message() -> None:
    answer = "\n\n".join(["A sentence of some **weight** about `it`. " * 4] * 12)
    assert len(answer) < length(rich_text(answer)) < Slack.text_limit


@pytest.mark.parametrize(
    ("markup", "words"),
    [
        ("a &lt;b&gt; &amp;amp; *c*", "a <b> &amp; *c*"),
        ("<@U1> <@U2|bob> <@U3>", "@Ann @bob @U3"),
        ("<#C1|general> <#C2|> <#C3>", "#general #C2 #C3"),
        ("<!here> <!subteam^S1|@team> <!date^1^{date}|today>", "@here @team today"),
        ("<https://a.example/?x=1&amp;y=2> <https://a.example|a.example>", "https://a.example/?x=1&y=2 https://a.example"),
        ("<https://a.example|this> <mailto:a@b.example|a@b.example>", "this (https://a.example) mailto:a@b.example"),
        ("a < b > c", "a < b > c"),
    ],
)  # fmt: skip
def test_slacks_markup_is_read_as_people_see_it(markup: str, words: str) -> None:
    assert read_markup(markup, {"U1": "Ann"}) == words


def test_what_is_escaped_reads_the_same() -> None:
    assert read_markup(escape("<!channel> & <@U1>"), {"U1": "Ann"}) == "<!channel> & <@U1>"


def test_mentions_are_found_and_the_bots_is_taken_out() -> None:
    text = "<@UBOT>: ask <@U1|ann>, <@UBOT|paw> please"
    assert people_in(text) == ["UBOT", "U1", "UBOT"]
    assert without_mention(text, "UBOT") == "ask <@U1|ann>, please"

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pocketpaw.actors.channels.telegram_text import to_html, utf16_units

from ...fakes.telegram_server import text_of_html


@pytest.mark.parametrize(
    ("markdown", "html"),
    [
        ("plain", "plain"),
        ("**bold**, *italic*, ~~gone~~, `co<de`", "<b>bold</b>, <i>italic</i>, <s>gone</s>, <code>co&lt;de</code>"),
        ("a < b & c > d", "a &lt; b &amp; c &gt; d"),
        ("<b>not html</b>", "&lt;b&gt;not html&lt;/b&gt;"),
        ("# Title\n\ntext", "<b>Title</b>\n\ntext"),
        ("one\ntwo\n\nthree", "one\ntwo\n\nthree"),
        ("- a\n- b", "• a\n• b"),
        ("text\n\n3. a\n4. b", "text\n\n3. a\n4. b"),
        ("- a\n  - b\n- c", "• a\n  • b\n• c"),
        ("```py\nif a < b:\n    pass\n```", '<pre><code class="language-py">if a &lt; b:\n    pass</code></pre>'),
        ("```\nx\n```\nafter", "<pre>x</pre>\n\nafter"),
        ("> quoted\n\nafter", "<blockquote>quoted</blockquote>\n\nafter"),
        ("> a\n>> b", "<blockquote>a\n\nb</blockquote>"),
        ('[text](https://e.org/?a=1&b="2")', '<a href="https://e.org/?a=1&amp;b=%222%22">text</a>'),
        ("[text](javascript:alert(1))", "[text](javascript:alert(1))"),
        ("[file](/etc/passwd)", "file"),
        ("![a picture](https://e.org/p.png)", "a picture"),
        ("a\n\n---\n\nb", "a\n\n———\n\nb"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "a | b\n1 | 2"),
    ],
)
def test_markdown_becomes_what_telegram_shows(markdown: str, html: str) -> None:
    assert to_html(markdown) == html


@given(st.text(st.characters(codec="utf-8"), max_size=80) | st.text("*_`~[]()<>#-|>!\n a1.\\", max_size=60))
def test_whatever_it_is_telegram_can_read_it(markdown: str) -> None:
    text_of_html(to_html(markdown))


def test_length_is_counted_as_telegram_does() -> None:
    assert [utf16_units(text) for text in ("abc", "é", "😀")] == [3, 1, 2]

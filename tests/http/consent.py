"""A person at a browser, as far as the daemon's pages need one: reads forms, fills them in, sends them."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2


class Form(HTMLParser):
    """The one form of a page: where it goes, and its hidden fields."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = given["action"]
        elif tag == "input":
            self.fields[given["name"]] = given["value"]


async def decide(
    browser: httpx2.AsyncClient, url: str, action: str = "allow", **changed: str | None
) -> httpx2.Response:
    """Open the consent page and press a button; `changed` fields are sent other than the page has them."""
    page = await browser.get(url)
    assert page.status_code == 200, page.text
    form = Form(page.text)
    fields: dict[str, Any] = {**form.fields, "action": action, **changed}
    sent = {name: value for name, value in fields.items() if value is not None}
    return await browser.post(urljoin(str(page.url), form.action), data=sent)


def answer_in(response: httpx2.Response) -> dict[str, str]:
    """What a redirect tells the program that it leads to."""
    assert response.status_code == 302, response.text
    query = parse_qs(urlsplit(response.headers["location"]).query, keep_blank_values=True, strict_parsing=True)
    return {name: value for name, (value,) in query.items()}

"""The daemon's own pages: plain HTML, without a script and without anything from elsewhere."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from html import escape

from quart import Response

STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 30rem; margin: 3rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.4rem; }
code { overflow-wrap: anywhere; }
button { font: inherit; padding: .5rem 1.2rem; margin-right: .5rem; }
"""
_STYLE_HASH = b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()


def page(title: str, body: str, *, status: int = 200, form_targets: str = "") -> Response:
    """Make a page of `body`, which is HTML. `form_targets` are further places, in CSP's terms, that its forms lead to.

    No other page may frame it. Under the daemon's `no-referrer` a browser would send a form's Origin as null, which
    nobody can trust, so the page asks for its own.
    """
    html = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="same-origin">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )
    policy = (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; frame-ancestors 'none'; "
        f"form-action 'self' {form_targets}"
    ).strip()
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": policy,
        "X-Frame-Options": "DENY",
        "Cache-Control": "no-store",
    }
    return Response(html, status, headers)


def hidden(**fields: str | None) -> str:
    """Write hidden inputs of a form; None is left out."""
    return "\n".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in fields.items()
        if value is not None
    )

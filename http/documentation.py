"""The API's documentation for browsers: Swagger UI and ReDoc, served by the daemon, without a CDN or an inline script.

Their files come with the package fastapi_offline, which is never imported (it would want fastapi).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path

import trio
from quart import Response

from ..runtime.errors import NotFound
from .health import daemon_version
from .openapi import document
from .route import JSON, PREFIXES, Handler, Route, get, no_content

DOCUMENT_URL = f"{PREFIXES[0]}/openapi.json"
HTML = "text/html; charset=utf-8"
SCRIPT = "text/javascript; charset=utf-8"
ASSETS = {
    "swagger-ui-bundle.js": SCRIPT,
    "swagger-ui.css": "text/css; charset=utf-8",
    "redoc.standalone.js": SCRIPT,
}
# Both libraries write style attributes; ReDoc searches in a worker that it makes of a blob.
POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; worker-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
PAGE_HEADERS = {"Content-Type": HTML, "Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
ASSET_HEADERS = {"Cache-Control": "public, max-age=86400"}

SWAGGER_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>PocketPaw API</title>
<link rel="stylesheet" href="/static/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/static/swagger-ui-bundle.js"></script>
<script src="/static/swagger-start.js"></script>
</body>
</html>
"""
SWAGGER_START = f"""SwaggerUIBundle({{
  url: "{DOCUMENT_URL}",
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
}});
"""
REDOC_PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>PocketPaw API</title>
</head>
<body>
<redoc spec-url="{DOCUMENT_URL}"></redoc>
<script src="/static/redoc.standalone.js"></script>
</body>
</html>
"""


async def swagger_ui() -> Response:
    """Browse and try the API."""
    return Response(SWAGGER_PAGE, 200, PAGE_HEADERS)


async def redoc() -> Response:
    """Read the API."""
    return Response(REDOC_PAGE, 200, PAGE_HEADERS)


async def swagger_start() -> Response:
    """The script that opens Swagger UI."""
    return Response(SWAGGER_START, 200, {"Content-Type": SCRIPT, **ASSET_HEADERS})


async def favicon() -> Response:
    """Browsers ask for one; there is none."""
    return no_content(ASSET_HEADERS)


def routes(described: Iterable[Route]) -> list[Route]:
    """The documentation's own routes; its document is of `described` and of these."""
    pages: list[Route] = []

    @cache
    def text() -> bytes:
        return document([*described, *pages], daemon_version())

    async def openapi() -> Response:
        """This document."""
        return Response(text(), 200, content_type=JSON)

    pages += [
        get("/openapi.json", openapi, is_exempt=True),
        get("/docs", swagger_ui, is_exempt=True, produces="text/html"),
        get("/redoc", redoc, is_exempt=True, produces="text/html"),
        get("/swagger", swagger_ui, is_exempt=True, at_root=True, produces="text/html"),
        get(
            "/favicon.ico", favicon, is_exempt=True, at_root=True, status=HTTPStatus.NO_CONTENT, produces="image/x-icon"
        ),
        get("/static/swagger-start.js", swagger_start, is_exempt=True, at_root=True, produces="text/javascript"),
    ]
    for name, content_type in ASSETS.items():
        media_type = content_type.partition(";")[0]
        page = get(f"/static/{name}", _asset(name, content_type), is_exempt=True, at_root=True, produces=media_type)
        pages.append(page)
    return pages


def _asset(name: str, content_type: str) -> Handler:
    async def asset() -> Response:
        """A file of the documentation pages."""
        content = await trio.to_thread.run_sync(_read, name)
        return Response(content, 200, {"Content-Type": content_type, **ASSET_HEADERS})

    return asset


def _read(name: str) -> bytes:
    found = find_spec("fastapi_offline")
    if found is None or found.origin is None:
        raise NotFound("the documentation's files are not installed: the package fastapi_offline is missing")
    return (Path(found.origin).parent / "static" / name).read_bytes()

"""Login by QR code: a code made here for another device, and the page that it leads to there.

The page waits for a click: programs that look at links for a preview must not use the code up, and no address alone
may log anybody in.
"""

from __future__ import annotations

import io
import socket
from http import HTTPStatus
from importlib import import_module
from typing import Annotated
from urllib.parse import urlencode

import msgspec
import trio
from quart import Response

from ..actors.access.guard import CreateLoginCode, LoginWithCode
from ..actors.access.locality import is_loopback_address, is_loopback_host
from ..actors.tunnel.protocol import GetTunnelStatus
from .address import base_url
from .auth import set_session
from .authentication import credential_of, facts
from .call import Call
from .forms import read_fields
from .pages import hidden, page
from .route import get, post

PNG = "image/png"
OUTSIDE = ("192.0.2.1", 9)  # https://www.rfc-editor.org/rfc/rfc5737: nobody's, and nothing is sent there

Code = Annotated[str, msgspec.Meta(max_length=100)]


class Scanned(msgspec.Struct, frozen=True):
    code: Code = ""


class Confirmed(msgspec.Struct, frozen=True):
    code: Code


async def qr_code(call: Call) -> Response:
    """Make a QR code that logs another device in: a link that works once, within a minute."""
    asked = facts(call.request.scope, bucket="auth", required=True)
    made = await call.ask(CreateLoginCode(credential=credential_of(asked)))
    link = f"{await _reachable(call)}/api/v1/auth/qr?{urlencode({'code': made.code})}"
    image = await trio.to_thread.run_sync(_png, link)
    return Response(image, 200, {"Content-Type": PNG, "Cache-Control": "no-store"})


async def login_page(message: Scanned) -> Response:
    """The page that a QR code leads to: a button that logs this browser in."""
    body = (
        "<p>This device will be able to do everything here until it is logged out.</p>\n"
        f'<form method="post" action="qr">\n{hidden(code=message.code)}\n<button>Log in</button>\n</form>'
    )
    return page("Log in to PocketPaw", body)


async def login_with_code(call: Call) -> Response:
    """Use the code up: this browser gets a session, kept in a cookie."""
    confirmed = await read_fields(call, Confirmed)
    session = await call.ask(LoginWithCode(code=confirmed.code))
    response = page("Logged in", "<p>This device is logged in to PocketPaw.</p>")
    set_session(call, response, session.session_token, session.expires_in_hours * 3600)
    return response


async def _reachable(call: Call) -> str:
    """The address for another device: the tunnel's where one is open; else the one in use, or where that is only this
    machine's own, its address in the network.
    """
    if call.live.is_tunnelled and (url := (await call.ask(GetTunnelStatus())).url):
        return url
    host = call.request.headers.get("Host", "")
    address = None if is_loopback_address(call.live.at_start.web_host) else _address_in_network()
    if address is None or not is_loopback_host(host):
        return base_url(call)
    server = call.request.scope["server"]
    return f"http://{address}:{server[1]}" if server else base_url(call)


def _address_in_network() -> str | None:
    """This machine's address on the way out; None if there is no way out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(OUTSIDE)
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _png(link: str) -> bytes:
    segno = import_module("segno")
    image = io.BytesIO()
    segno.make(link, error="m", micro=False).save(image, kind="png", scale=8, border=4)
    return image.getvalue()


ROUTES = [
    get("/qr", qr_code, scope="admin", bucket="auth", produces=PNG, audit="auth"),
    get("/auth/qr", login_page, is_exempt=True, produces="text/html"),
    post(
        "/auth/qr",
        login_with_code,
        is_exempt=True,
        bucket="auth",
        takes_form=True,
        described_as=[Confirmed],
        produces="text/html",
        responses={HTTPStatus.OK: ("Logged in; the cookie is set.", None)},
    ),
]

"""The programs that may ask for access by OAuth2, and where their answers may be sent.

A redirect URI has to be one of the client's, letter for letter; only the port of an address on this machine is free, as
a program cannot know which one it will get (https://www.rfc-editor.org/rfc/rfc8252#section-7.3).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...runtime.errors import BadRequest

LOOPBACK = re.compile(r"http://(localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?(/[!-~]*)?")


def check_redirect(clients: Iterable[str], client_id: str, redirect_uri: str) -> None:
    """See that a client is known and `redirect_uri` is one of its own. `clients` is the setting `oauth_clients`.

    Raises:
        BadRequest: it is not, so nothing may be sent there, not even an error.
    """
    registered = redirects_of(clients, client_id)
    if not registered:
        raise BadRequest(f"there is no OAuth client {client_id!r}: the setting oauth_clients names them all")
    if not any(_is_same(redirect_uri, one) for one in registered):
        raise BadRequest(f"redirect_uri is none of those that {client_id!r} is registered with")


def redirects_of(clients: Iterable[str], client_id: str) -> list[str]:
    """The redirect URIs of a client; none if it is not known."""
    listed = (client.split() for client in clients)
    return [uri for name, *uris in listed if name == client_id for uri in uris]


def _is_same(asked: str, registered: str) -> bool:
    if asked == registered:
        return True
    one, other = LOOPBACK.fullmatch(asked), LOOPBACK.fullmatch(registered)
    return one is not None and other is not None and _place(one) == _place(other)


def _place(match: re.Match[str]) -> tuple[str, str]:
    host, path = match.groups()
    return host, path or "/"

from __future__ import annotations

import pytest
from pocketpaw.actors.access.oauth_clients import check_redirect
from pocketpaw.config import SETTINGS, SettingError, Settings
from pocketpaw.runtime.errors import BadRequest

CLIENTS = (
    "desk app.example:/back http://localhost:1420/back http://localhost/ http://127.0.0.1/cb",
    "web https://app.example/callback?a=b",
)


@pytest.mark.parametrize(
    ("client", "uri"),
    [
        ("desk", "app.example:/back"),
        ("desk", "http://localhost:1420/back"),
        ("desk", "http://localhost:50000/back"),
        ("desk", "http://localhost/back"),
        ("desk", "http://localhost:50000"),
        ("desk", "http://localhost:50000/"),
        ("desk", "http://127.0.0.1:8/cb"),
        ("web", "https://app.example/callback?a=b"),
    ],
)
def test_a_registered_address_is_accepted_on_this_machine_at_any_port(client: str, uri: str) -> None:
    check_redirect(CLIENTS, client, uri)


@pytest.mark.parametrize(
    ("client", "uri"),
    [
        ("desk", "http://localhost:1420@evil.example/back"),
        ("desk", "http://localhost:1420/back#evil"),
        ("desk", "http://localhost:1420/back?evil"),
        ("desk", "http://localhost:1420/back/"),
        ("desk", "http://localhost:1420/../back"),
        ("desk", "http://localhost.evil.example/back"),
        ("desk", "http://localhost:port/back"),
        ("desk", "http://localhost:1420\\@evil.example/back"),
        ("desk", "http://evil.example\\.localhost/back"),
        ("desk", "http://localhost:1420/back\r\nX: y"),
        ("desk", "http://LOCALHOST:1420/back"),
        ("desk", "https://localhost:1420/back"),
        ("desk", "http://[::1]:1420/back"),
        ("desk", "http://127.0.0.1:1420/back"),
        ("desk", "app.example:/back/evil"),
        ("desk", "javascript:alert(1)"),
        ("desk", ""),
        ("desk", "https://app.example/callback?a=b"),
        ("web", "https://app.example:8443/callback?a=b"),
        ("web", "https://app.example/callback"),
        ("web", "https://app.example/callback?a=b&c=d"),
        ("web", "http://app.example/callback?a=b"),
        ("nobody", "http://localhost/"),
        ("", "http://localhost/"),
    ],
)
def test_any_other_address_is_refused(client: str, uri: str) -> None:
    with pytest.raises(BadRequest):
        check_redirect(CLIENTS, client, uri)


def test_the_desktop_client_is_there_from_the_start() -> None:
    clients = Settings().oauth_clients
    for uri in ("tauri://oauth-callback", "http://localhost:1420/oauth-callback", "http://localhost:54321"):
        check_redirect(clients, "pocketpaw-desktop", uri)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_can_be_set(client: str) -> None:
    assert SETTINGS["oauth_clients"].check([client]) == (client,)


@pytest.mark.parametrize(
    "client",
    [
        "app",
        "app http://app.example/",
        "app javascript:alert(1)",
        "app javascript:/x",
        "app https://a.example/#x",
        "app https://user@a.example/",
        "app //a.example",
        "app https://a.example;x",
        "a/b https://a.example/",
    ],
)
def test_an_address_that_is_not_safe_cannot_be_set(client: str) -> None:
    with pytest.raises(SettingError):
        SETTINGS["oauth_clients"].check([client])

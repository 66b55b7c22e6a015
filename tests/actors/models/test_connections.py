"""Which proxy a model server is reached through."""

from __future__ import annotations

import pytest
from pocketpaw.actors.models.connections import Connections, proxy_for
from pocketpaw.actors.models.errors import ModelUnreachable
from pocketpaw.actors.models.openai_compatible import OpenAICompatible
from pocketpaw.actors.models.protocol import ChatMessage, Finished, Generate
from pocketpaw.actors.models.server_backend import Limits

from ...fakes.model_server import fake_model_server

ONCE = Limits(retries=0)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example,.lan")


@pytest.mark.parametrize(
    ("scheme", "host", "expected"),
    [
        ("https", "api.openai.com", "http://proxy.example:3128"),
        ("http", "api.openai.com", ""),
        ("https", "inside.example", ""),
        ("https", "box.lan", ""),
        ("https", "127.0.0.1", ""),
    ],
)
def test_the_environment_names_the_proxy(scheme: str, host: str, expected: str) -> None:
    assert proxy_for(scheme, host, 443) == expected


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "ftp://127.0.0.1:1", "http://127.0.0.1:port"])
async def test_a_proxy_that_cannot_be_used_is_an_answer(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    async with Connections() as client:
        backend = OpenAICompatible(
            name="b", base_url="https://models.example/v1", model="m", client=client, limits=ONCE
        )
        with pytest.raises(ModelUnreachable, match="through the proxy"):
            async for _ in backend.generate(Generate(messages=(ChatMessage("user", "hi"),))):
                pass


async def test_a_request_goes_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake stands in for the proxy, and answers in the place of the server that is asked for."""
    async with fake_model_server() as proxy, Connections() as client:
        monkeypatch.setenv("HTTP_PROXY", proxy.base_url.removesuffix("/v1"))
        backend = OpenAICompatible(name="b", base_url="http://models.example/v1", model="m", client=client)
        request = Generate(messages=(ChatMessage("user", "hi"),))
        events = [event async for event in backend.generate(request)]
        assert Finished("stop") in events
        assert proxy.headers[-1]["host"] == "models.example"

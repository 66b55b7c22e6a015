"""A keep-alive HTTP client that costs little, with the loads that are not the harness's: chats, and timed requests."""

from __future__ import annotations

import http.client
import itertools
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import local

API = "/api/v1"
TOKEN = "11111111-2222-4333-8444-555555555555"  # the harness's, for homes that live for one run
TIMEOUT_S = 120.0

_addresses = (f"10.80.{high}.{low}" for high, low in itertools.product(range(256), range(256)))


class Client:
    """One connection to a server on loopback.

    With `many_addresses` each request says that it came from another client, for a server whose rate limit of one
    address cannot be turned off.
    """

    def __init__(self, port: int, *, many_addresses: bool = False) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        self._many_addresses = many_addresses

    def request(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        if self._many_addresses:
            headers["X-Forwarded-For"] = next(_addresses)
        self._connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def get(self, path: str) -> bytes:
        """GET below the API's prefix; anything but a 200 ends the measurement."""
        status, body = self.request("GET", API + path)
        if status != 200:
            raise RuntimeError(f"GET {path} answered {status}: {body[:200]!r}")
        return body

    def chat(self, content: str) -> None:
        """Have one blocking chat in a session of its own."""
        status, body = self.request("POST", f"{API}/chat", {"content": content})
        if status != 200:
            raise RuntimeError(f"a chat was answered with {status}: {body[:200]!r}")


def ms(work: Callable[[], object]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def chats_per_s(port: int, chats: int, concurrency: int) -> float:
    """Have so many chats over so many connections."""
    own = local()

    def one(number: int) -> None:
        if not hasattr(own, "client"):
            own.client = Client(port)
        own.client.chat(f"hello number {number}")

    with ThreadPoolExecutor(concurrency) as pool:
        took_ms = ms(lambda: list(pool.map(one, range(chats))))
    return chats / took_ms * 1000


def chat_overhead_ms(server: Client, model_port: int, chats: int) -> float:
    """How much longer a blocking chat takes than the same question put to the model, one at a time and in turn."""
    model = Client(model_port)
    question = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}
    through: list[float] = []
    direct: list[float] = []
    server.chat("the first one finds nothing warm")
    for number in range(chats):
        direct.append(ms(lambda: model.request("POST", "/v1/chat/completions", question)))
        through.append(ms(lambda number=number: server.chat(f"overhead {number}")))
    return statistics.median(through) - statistics.median(direct)

"""Streams that are cut anywhere and resumed equal uncut ones; a client that never reads is closed and slows nobody."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import asynccontextmanager
from statistics import quantiles
from typing import Any, NamedTuple, cast

import httpx2
import pytest
import trio
import trio_websocket

from ..fakes.model_server import Reply
from .conftest import MakeDaemon
from .daemon import Daemon, with_model_server
from .faults import wait_until
from .model_server_process import ModelServerProcess
from .tree import tree_of

CHUNKS = 6
TEXT = "one two three four five six "
SLOWLY = Reply(text=TEXT, chunks=CHUNKS, chunk_delay_s=0.03)
EVENTS = 2 + CHUNKS
"""stream_start, the chunks, stream_end."""
CHUNK_BYTES = 6144
OVER_ALL_BUFFERS = 1800
"""Chunks: more than the daemon buffers for a listener (1,024 events) and the kernel for a socket (4 MB) together."""
BEFORE_IT_BEGINS_S = 0.5
READERS = 9
PATIENCE_S = 60.0
EXTRA_MS = 50.0
TRY_AGAIN_LATER = 1013
SMALL_BUFFER_BYTES = 4096
MESSAGE_LIMIT_BYTES = 16 * 1024 * 1024
SETTINGS = {"api_rate_limit_per_key": "0", "ws_rate_limit_per_peer": "0"}

Json = dict[str, Any]


class Event(NamedTuple):
    seq: int
    name: str
    data: Json


class Told(NamedTuple):
    """What a stream says, however its chunks were joined."""

    names: list[str]
    text: str
    last: Json


def told(events: list[Event]) -> Told:
    names = [name for name, _ in itertools.groupby(event.name for event in events)]
    return Told(names, text_of(events), events[-1].data)


def text_of(events: list[Event]) -> str:
    return "".join(event.data["content"] for event in events if event.name == "chunk")


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServerProcess]:
    server = ModelServerProcess()
    server.answer_always(SLOWLY)
    yield server
    server.close()


@pytest.fixture(scope="module")
def daemon(model: ModelServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One for all of these tests: each has sessions of its own."""
    started = Daemon(tmp_path_factory.mktemp("resume"), settings={**with_model_server(model.base_url), **SETTINGS})
    started.start()
    try:
        yield started
    finally:
        started.close()


# Server-sent events ---------------------------------------------------------------------------------------------------


def read(response: httpx2.Response) -> Iterator[Event]:
    return events_of(response.iter_lines())


def events_of(lines: Iterable[str]) -> Iterator[Event]:
    seq, name = 0, ""
    for line in lines:
        word, _, rest = line.partition(": ")
        if word == "id":
            seq = int(rest)
        elif word == "event":
            name = rest
        elif word == "data":
            yield Event(seq, name, json.loads(rest))


def begin(http: httpx2.Client, session_id: str, cut_after: int | None = None) -> list[Event]:
    """Chat, and leave after so many events."""
    with http.stream("POST", "/api/v1/chat/stream", json={"content": "hi", "session_id": session_id}) as response:
        assert response.status_code == 200, response.read()
        return list(itertools.islice(read(response), cut_after))


def resume(http: httpx2.Client, session_id: str, last: int | None) -> list[Event]:
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with http.stream("GET", "/api/v1/chat/stream", params={"session_id": session_id}, headers=headers) as response:
        assert response.status_code in (200, 204), response.read()
        return list(read(response))


@pytest.mark.parametrize("meanwhile", ["it goes on", "it ends"])
def test_a_stream_cut_after_any_event_and_resumed_equals_an_uncut_one(daemon: Daemon, meanwhile: str) -> None:
    with daemon.http as http:
        name = meanwhile.replace(" ", "-")
        whole = told(begin(http, f"s-{name}"))
        assert whole.text == TEXT
        for cut in range(1, EVENTS + 1):
            session_id = f"s-{name}-{cut}"
            events = begin(http, session_id, cut)
            if meanwhile == "it ends":
                wait_until(lambda session_id=session_id: len(history(http, session_id)) == 2)
            events += resume(http, session_id, events[-1].seq)
            numbers = [event.seq for event in events]
            assert numbers == sorted(set(numbers)), cut
            again = told(events)
            assert (again.names, again.text) == (whole.names, TEXT), cut
            assert again.last == {**whole.last, "session_id": session_id}


def history(http: httpx2.Client, session_id: str) -> list[str]:
    return [message["content"] for message in http.get(f"/api/v1/sessions/{session_id}/history").json()]


def test_a_stream_cut_before_its_first_event_is_taken_up_from_its_start(daemon: Daemon) -> None:
    with daemon.http as http:
        begin(http, "s-1", 0)
        events = resume(http, "s-1", None)
        assert told(events).text == TEXT
        assert resume(http, "s-1", events[-1].seq) == []
        assert resume(http, "s-1", None) == []


def test_what_was_forgotten_with_its_agent_is_told_as_a_gap_and_the_history_has_it(
    make_daemon: MakeDaemon, model: ModelServerProcess
) -> None:
    daemon = make_daemon(settings={**with_model_server(model.base_url), **SETTINGS, "agent_idle_s": "1"})
    daemon.start()
    with daemon.http as http:
        cuts = {cut: begin(http, f"s-{cut}", cut)[-1].seq for cut in (1, 3, EVENTS - 1)}
        wait_until(lambda: all(len(history(http, f"s-{cut}")) == 2 for cut in cuts))
        wait_until(lambda: not tree_of(http).at("agents").children)
        for cut, last in cuts.items():
            (gap,) = resume(http, f"s-{cut}", last)
            assert gap.name == "gap"
            assert "read the history" in gap.data["detail"]
            assert history(http, f"s-{cut}") == ["hi", TEXT]


# WebSocket ------------------------------------------------------------------------------------------------------------


class Socket:
    def __init__(self, connection: trio_websocket.WebSocketConnection) -> None:
        self.connection = connection

    async def say(self, action: str, **more: str) -> None:
        await self.connection.send_message(json.dumps({"action": action, **more}))

    async def hear(self) -> Json:
        with trio.fail_after(30):
            return cast("Json", json.loads(await self.connection.get_message()))

    async def hear_events(self, most: int | None = None) -> list[Event]:
        """The turn's next events, up to its end, to `most`, or to the end of the connection."""
        events: list[Event] = []
        while (most is None or len(events) < most) and not (events and events[-1].name == "stream_end"):
            try:
                heard = await self.hear()
            except trio_websocket.ConnectionClosed:
                break
            if "event_id" in heard:
                events.append(Event(heard["event_id"], heard["type"], heard))
        return events

    @property
    def close_code(self) -> int:
        assert self.connection.closed is not None
        return self.connection.closed.code


@asynccontextmanager
async def connected(
    daemon: Daemon, receive_buffer_bytes: int | None = None, **query: str | int
) -> AsyncGenerator[Socket]:
    url = httpx2.URL(daemon.url)
    sock = trio.socket.socket()
    if receive_buffer_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    await sock.connect((url.host, url.port))
    async with trio.SocketStream(sock) as stream, trio.open_nursery() as nursery:
        resource = f"/ws?{httpx2.QueryParams(query)}"
        connection = await trio_websocket.wrap_client_stream(
            nursery, stream, url.netloc.decode(), resource, max_message_size=MESSAGE_LIMIT_BYTES
        )
        yield Socket(connection)
        nursery.cancel_scope.cancel()


async def test_a_websocket_cut_after_any_event_and_resumed_equals_an_uncut_one(daemon: Daemon) -> None:
    for cut in range(1, EVENTS):
        session_id = f"ws-{cut}"
        async with connected(daemon) as socket:
            await socket.say("chat", content="hi", session_id=session_id)
            events = await socket.hear_events(cut)
        if cut % 2:
            await trio.sleep(CHUNKS * SLOWLY.chunk_delay_s + 0.2)  # it has ended meanwhile
        async with connected(daemon, resume_session=session_id, last_event_id=events[-1].seq) as socket:
            assert (await socket.hear())["session_id"] == session_id
            assert (await socket.hear())["type"] == "session_history"
            events += await socket.hear_events()
        numbers = [event.seq for event in events]
        assert numbers == sorted(set(numbers)), cut
        again = told(events)
        assert (again.names, again.text) == (["stream_start", "chunk", "stream_end"], TEXT), cut


# Clients that do not read ---------------------------------------------------------------------------------------------


class Reader:
    """Takes a stream of events as bytes off a plain socket, so that nine of them cost little."""

    def __init__(self, daemon: Daemon, session_id: str, receive_buffer_bytes: int | None = None) -> None:
        self._url = httpx2.URL(daemon.url)
        self._session_id = session_id
        self._receive_buffer_bytes = receive_buffer_bytes
        self.received = bytearray()
        self.gaps_s: list[float] = []
        """Between one arrival and the next."""

    async def open(self, content: str | None = None) -> None:
        """Say something and follow the answer, or only follow."""
        sock = trio.socket.socket()
        if self._receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer_bytes)
        await sock.connect((self._url.host, self._url.port))
        self._stream = trio.SocketStream(sock)
        method = "GET" if content is None else "POST"
        body = b"" if content is None else json.dumps({"content": content, "session_id": self._session_id}).encode()
        head = (
            f"{method} /api/v1/chat/stream?session_id={self._session_id} HTTP/1.0\r\n"
            f"Host: {self._url.netloc.decode()}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        await self._stream.send_all(head.encode() + body)

    async def read(self) -> None:
        """Read to the end."""
        before = None
        with trio.fail_after(PATIENCE_S):
            while data := await self._stream.receive_some(1 << 20):
                now = time.perf_counter()
                self.received += data
                self.gaps_s += [] if before is None else [now - before]
                before = now
        await self._stream.aclose()

    def events(self) -> list[Event]:
        """What came whole."""
        whole = bytes(self.received).partition(b"\r\n\r\n")[2].rpartition(b"\n\n")[0]
        return list(events_of(whole.decode().split("\n")))


async def nine_read(daemon: Daemon, session_id: str, *slow: Reader) -> list[float]:
    """Have an answer written to nine who read it as it comes; the gaps between what came, of all of them."""
    readers = [Reader(daemon, session_id) for _ in range(READERS)]
    await readers[0].open("a long one")
    await trio.sleep(BEFORE_IT_BEGINS_S / 2)
    for reader in (*readers[1:], *slow):
        await reader.open()
    async with trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(reader.read)
    assert len({text_of(reader.events()) for reader in readers}) == 1
    return [gap_s for reader in readers for gap_s in reader.gaps_s]


def long_answer(chunks: int) -> Reply:
    text = "".join(f"{number:8}" + "." * (CHUNK_BYTES - 8) for number in range(chunks))
    return Reply(text=text, chunks=chunks, delay_s=BEFORE_IT_BEGINS_S, chunk_delay_s=0.002)


async def test_clients_that_do_not_read_are_cut_off_slow_nobody_and_can_come_back(
    daemon: Daemon, model: ModelServerProcess
) -> None:
    short, long = long_answer(300), long_answer(OVER_ALL_BUFFERS)
    model.script(short, long)
    alone = await nine_read(daemon, "s-alone")
    slow = Reader(daemon, "s-beside", SMALL_BUFFER_BYTES)
    async with connected(daemon, SMALL_BUFFER_BYTES) as socket:
        await socket.say("switch_session", session_id="s-beside")
        beside = await nine_read(daemon, "s-beside", slow)
        events = await socket.hear_events()
        assert socket.close_code == TRY_AGAIN_LATER
    assert long.text is not None
    assert long.text.startswith(text_of(events))
    async with connected(daemon, resume_session="s-beside", last_event_id=events[-1].seq) as socket:
        events += await socket.hear_events()
    assert text_of(events) == long.text
    await slow.read()
    events = slow.events()
    assert events[-1].name == "chunk", "its end was not told"
    with daemon.http as http:
        events += resume(http, "s-beside", events[-1].seq)
    assert text_of(events) == long.text
    p90, p99 = ([quantiles(gaps_s, n=100)[at] * 1e3 for gaps_s in (alone, beside)] for at in (89, 98))
    print(
        f"\nnine readers, between events: p90 {p90[0]:.1f} ms, p99 {p99[0]:.1f} ms alone; "
        f"p90 {p90[1]:.1f} ms, p99 {p99[1]:.1f} ms beside two that do not read"
    )
    assert p90[1] < p90[0] + EXTRA_MS

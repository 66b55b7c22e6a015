"""A Slack that speaks the true wire on loopback, Web API and Socket Mode, as badly as it is told.

    async with fake_slack() as slack:
        slack.api_url                                      # for the setting
        ts = slack.say("hello"), slack.say("<@UBOT> hi", channel="C1", copies=2)
        slack.drop(), slack.disconnect("refresh_requested")
        slack.answer("chat.postMessage", Answer(429, retry_after="2"), Answer(is_done=True, cuts=True))
        await slack.wait_for(lambda: slack.posted), slack.said_by_bot, slack.calls, slack.acknowledged

An event that is not acknowledged within `redeliver_after_s` comes again, `retry_attempt` counted. What breaks the
protocol goes to `violations`, which a test should find empty.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import parse_qsl

import msgspec
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, wrap_server_stream

from .model_server import Connection, json_response

Json = dict[str, object]

BOT_TOKEN, APP_TOKEN = "xoxb-fake-bot-token", "xapp-fake-app-token"
BOT, ANN = "UBOT", "UANN"
ACK_WITHIN_S = 3.0
TAKES_JSON = frozenset({"chat.postMessage", "chat.update", "assistant.threads.setStatus"})
CONNECTIONS_LIMIT = 10
SLOW_MACHINE_S = 60.0
"""Where time is real, an acknowledgement may be under way for so long."""


class Answer(msgspec.Struct, frozen=True):
    """How a call is answered: with Slack's `error`, an HTTP status, or (`cuts`) not at all; by default as it should be.

    `body`: with just that. `is_done`: and yet it is done. `delay_s`: and not at once.
    """

    status: int = 200
    error: str = ""
    needed: str = ""
    retry_after: str | None = None
    body: bytes | None = None
    cuts: bool = False
    is_done: bool = False
    delay_s: float = 0.0


class Call(msgspec.Struct, frozen=True):
    method: str
    arguments: Json


class Posted(msgspec.Struct, omit_defaults=True):
    """A message as Slack keeps it, whoever it is from."""

    ts: str
    channel: str
    user: str
    text: str
    thread_ts: str | None = None
    bot_id: str | None = None
    blocks: object = None
    metadata: object = None
    edits: int = 0


class _Pending:
    def __init__(self, link: WebSocketConnection) -> None:
        self.link = link
        self.sent_s = trio.current_time()
        self.over = trio.Event()
        self.is_acknowledged = False


class FakeSlack:
    def __init__(self, *, redeliver_after_s: float = ACK_WITHIN_S) -> None:
        self.redeliver_after_s = redeliver_after_s
        self.late_after_s = ACK_WITHIN_S + 0.5
        """An acknowledgement that comes later breaks the protocol."""
        self.api_port = 0
        self.link_port = 0
        self.bot_token, self.app_token = BOT_TOKEN, APP_TOKEN
        self.users: dict[str, str] = {ANN: "Ann"}
        self.files: dict[str, tuple[bytes, str]] = {}
        """Content and type by path. A type that is an address is a redirect to it."""
        self.withheld: set[str] = set()
        """Paths of files that are never sent; those that were asked for go to `awaited`."""
        self.awaited: list[str] = []
        self.messages: list[Posted] = []
        self.calls: list[Call] = []
        self.acknowledged: list[str] = []
        """Envelope ids."""
        self.delivered: list[Json] = []
        """Envelopes, repeats included."""
        self.violations: list[str] = []
        self.opened = 0
        """Links, ever."""
        self.most_links = 0
        self.links: list[WebSocketConnection] = []
        self.others_connected = 0
        self.skips_hello = False
        self.gives_address: str | None = None
        """Instead of a link's."""
        self.misfortune: Callable[[str], Answer | None] = lambda _: None
        """What befalls a call of a method that no answer is set for."""
        self._answers: defaultdict[str, deque[Answer]] = defaultdict(deque)
        self._tickets: set[str] = set()
        self._pending: dict[str, _Pending] = {}
        self._numbers = itertools.count(1)
        self._changed = trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery | None = None

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}/api"

    @property
    def posted(self) -> list[Posted]:
        return [message for message in self.messages if message.user == BOT]

    @property
    def said_by_bot(self) -> list[str]:
        return [message.text for message in self.posted]

    def calls_of(self, method: str) -> list[Json]:
        return [call.arguments for call in self.calls if call.method == method]

    def answer(self, method: str, *answers: Answer) -> None:
        """Answer the next calls of a method so, one each; then as Slack does."""
        self._answers[method].extend(answers)

    async def wait_for(self, condition: Callable[[], object]) -> None:
        while not condition():
            await self._changed.park()

    # What people do

    def say(
        self,
        text: str,
        *,
        channel: str = "D1",
        user: str = ANN,
        thread_ts: str | None = None,
        copies: int = 1,
        is_told: bool = True,
        **fields: object,
    ) -> str:
        """Say something; what names the bot in a channel comes both as `message` and as `app_mention`.

        Not `is_told`: Slack has given up delivering it.
        """
        ts = self.next_ts()
        self.messages.append(Posted(ts, channel, user, text, thread_ts))
        is_direct = channel.startswith("D")
        event: Json = {"type": "message", "channel": channel, "user": user, "text": text, "ts": ts, "event_ts": ts}
        event |= {"channel_type": "im" if is_direct else "channel", **({"thread_ts": thread_ts} if thread_ts else {})}
        event |= fields
        events = [event]
        if f"<@{BOT}>" in text and not is_direct:
            events.append(
                {name: value for name, value in event.items() if name != "channel_type"} | {"type": "app_mention"}
            )
        for each in events * copies if is_told else ():
            self.tell(each)
        return ts

    def tell(self, event: Json) -> None:
        """Deliver an event, until it is acknowledged."""
        self.send_envelope(
            "events_api",
            {
                "type": "event_callback",
                "team_id": "T1",
                "api_app_id": "A1",
                "event": event,
                "event_id": f"Ev{next(self._numbers)}",
                "event_time": 1_700_000_000,
                "authorizations": [{"team_id": "T1", "user_id": BOT, "is_bot": True}],
            },
        )

    def send_envelope(self, kind: str, payload: object) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._deliver, kind, payload)

    def next_ts(self) -> str:
        return f"{int(time.time())}.{next(self._numbers):06d}"

    # What goes wrong

    def drop(self) -> None:
        """Cut every link, without a word."""
        assert self._nursery is not None
        for link in self.links.copy():
            self._nursery.start_soon(_cut, link)

    def disconnect(self, reason: str) -> None:
        """Announce, on the newest link, that it is about to end."""
        assert self._nursery is not None
        frame: Json = {"type": "disconnect", "reason": reason, "debug_info": {"host": "applink-1"}}
        self._nursery.start_soon(_send, self.links[-1], frame)

    # Socket Mode

    def new_address(self) -> str:
        """The address of a link, good for one use."""
        ticket = f"t{next(self._numbers)}"
        self._tickets.add(ticket)
        return f"ws://127.0.0.1:{self.link_port}/link/?ticket={ticket}"

    async def serve_link(self, stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            await self.serve_request(request)
            nursery.cancel_scope.cancel()

    async def serve_request(self, request: WebSocketRequest) -> None:
        ticket = request.path.partition("ticket=")[2]
        if ticket not in self._tickets:
            self.violations.append(f"an address was used twice, or made up: {request.path}")
            await request.reject(403)
            return
        self._tickets.discard(ticket)
        link = await request.accept()
        self.links.append(link)
        self.opened += 1
        self.most_links = max(self.most_links, len(self.links))
        if len(self.links) > CONNECTIONS_LIMIT:
            self.violations.append("more than 10 connections")
        try:
            if not self.skips_hello:
                count = len(self.links) + self.others_connected
                debug = {"host": "applink-1", "build_number": 54, "approximate_connection_time": 3600}
                await _send(link, {"type": "hello", "num_connections": count, "debug_info": debug})
            self._changed.unpark_all()
            while True:
                self._note_acknowledgement(msgspec.json.decode(await link.get_message(), type=Json))
        except ConnectionClosed:
            pass  # the client has gone, or was cut off
        finally:
            self.links.remove(link)
            for pending in self._pending.values():
                if pending.link is link:
                    pending.over.set()
            self._changed.unpark_all()

    def _note_acknowledgement(self, frame: Json) -> None:
        envelope_id = str(frame.get("envelope_id"))
        pending = self._pending.pop(envelope_id, None)
        if pending is None:
            self.violations.append(f"nothing to acknowledge: {frame}")
            return
        if trio.current_time() - pending.sent_s > self.late_after_s:
            self.violations.append("acknowledged too late")
        pending.is_acknowledged = True
        pending.over.set()
        self.acknowledged.append(envelope_id)
        self._changed.unpark_all()

    async def _deliver(self, kind: str, payload: object) -> None:
        reason = ""
        for attempt in itertools.count():
            await self.wait_for(lambda: self.links)
            link = random.choice(self.links)  # Slack says not to count on any pattern
            envelope_id = f"env-{next(self._numbers)}"
            envelope: Json = {
                "envelope_id": envelope_id,
                "type": kind,
                "payload": payload,
                "accepts_response_payload": kind != "events_api",
                "retry_attempt": attempt,
                "retry_reason": reason,
            }
            pending = self._pending[envelope_id] = _Pending(link)
            self.delivered.append(envelope)
            await _send(link, envelope)
            with trio.move_on_after(self.redeliver_after_s):
                await pending.over.wait()
            if pending.is_acknowledged:
                return
            reason = "connection_closed" if pending.over.is_set() else "timeout"
            if pending.over.is_set():
                self._pending.pop(envelope_id, None)

    # The Web API

    async def serve_api(self, stream: trio.SocketStream) -> None:
        connection = Connection(stream)
        try:
            while (request := await connection.next_request()) is not None:
                verb, path, headers, body = request
                if path in self.withheld:
                    self.awaited.append(path)
                    await trio.sleep_forever()
                elif not path.startswith("/api/"):
                    await connection.send(self._file(path, headers))
                elif (answer := await self._answer(verb, path.removeprefix("/api/"), headers, body)) is not None:
                    await connection.send(answer)
                else:
                    break
        except trio.BrokenResourceError:
            pass  # the client has gone
        finally:
            await trio.aclose_forcefully(stream)

    async def _answer(self, verb: str, method: str, headers: dict[str, str], body: bytes) -> bytes | None:
        """None cuts the connection."""
        arguments = self._arguments(method, headers, body)
        self.calls.append(Call(method, arguments))
        self._changed.unpark_all()
        scripted = self._answers[method].popleft() if self._answers[method] else self.misfortune(method) or Answer()
        if scripted.is_done or scripted == Answer():
            result = self._do(verb, method, headers, arguments)
            self._changed.unpark_all()
            if scripted == Answer():
                return json_response(200, result)
        await trio.sleep(scripted.delay_s)
        if scripted.cuts:
            return None
        if scripted.body is not None:
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(scripted.body)}\r\n\r\n"
            return head.encode() + scripted.body
        if scripted.status >= 500:
            return json_response(scripted.status, "oops")
        refusal: Json = {"ok": False, "error": scripted.error or "ratelimited"}
        return json_response(
            scripted.status, refusal | ({"needed": scripted.needed} if scripted.needed else {}), scripted.retry_after
        )

    def _arguments(self, method: str, headers: dict[str, str], body: bytes) -> Json:
        kind = headers.get("content-type", "").partition(";")[0]
        if kind == "application/x-www-form-urlencoded":
            return dict(parse_qsl(body.decode(), strict_parsing=bool(body)))
        if kind == "application/json" and method in TAKES_JSON:
            return msgspec.json.decode(body, type=Json)
        self.violations.append(f"{method} does not take {kind}")
        return {}

    def _do(self, verb: str, method: str, headers: dict[str, str], arguments: Json) -> Json:
        token = self.app_token if method == "apps.connections.open" else self.bot_token
        if headers.get("authorization") != f"Bearer {token}":
            return {"ok": False, "error": "invalid_auth"}
        match verb, method:
            case "POST", "auth.test":
                return {"ok": True, "user_id": BOT, "bot_id": "B1", "team_id": "T1", "url": "https://t1.example/"}
            case "POST", "apps.connections.open":
                given = self.gives_address
                return {"ok": True, "url": self.new_address() if given is None else given}
            case "POST", "chat.postMessage":
                return self._post(arguments)
            case "POST", "chat.update":
                return self._update(arguments)
            case "POST", "conversations.history" | "conversations.replies":
                return self._history(arguments)
            case "POST", "users.conversations":
                chats = sorted({message.channel for message in self.messages})
                return {"ok": True, "channels": [{"id": chat} for chat in chats]}
            case "POST", "users.info":
                name = self.users.get(str(arguments.get("user")))
                found: Json = {"ok": True, "user": {"name": "x", "profile": {"display_name": name}}}
                return found if name else {"ok": False, "error": "user_not_found"}
            case "POST", "assistant.threads.setStatus":
                return {"ok": True}
            case _:
                return {"ok": False, "error": "unknown_method"}

    def _post(self, arguments: Json) -> Json:
        text = str(arguments.get("text") or "")
        if not text and not arguments.get("blocks"):
            return {"ok": False, "error": "no_text"}
        if len(msgspec.json.encode(arguments.get("blocks"))) > 13_000:
            return {"ok": False, "error": "msg_blocks_too_long"}
        thread = arguments.get("thread_ts")
        message = Posted(
            self.next_ts(),
            str(arguments["channel"]),
            BOT,
            text,
            str(thread) if thread else None,
            "B1",
            arguments.get("blocks"),
            arguments.get("metadata"),
        )
        self.messages.append(message)
        return {"ok": True, "channel": message.channel, "ts": message.ts, "message": message}

    def _update(self, arguments: Json) -> Json:
        for message in self.posted:
            if (message.channel, message.ts) == (arguments["channel"], arguments["ts"]):
                message.text, message.blocks = str(arguments["text"]), arguments.get("blocks")
                message.edits += 1
                return {"ok": True, "channel": message.channel, "ts": message.ts}
        return {"ok": False, "error": "message_not_found"}

    def _history(self, arguments: Json) -> Json:
        """The newest first in a channel; in a thread the oldest first, and always its root."""
        thread, limit = arguments.get("ts"), int(str(arguments.get("limit", 100)))
        oldest = float(str(arguments.get("oldest", 0)))
        inside = [message for message in self.messages if message.channel == arguments["channel"]]
        if thread is None:
            found = [message for message in reversed(inside) if message.thread_ts is None]
        else:
            found = [message for message in inside if thread in (message.ts, message.thread_ts)]
            if not found:
                return {"ok": False, "error": "thread_not_found"}
        found = [message for message in found if float(message.ts) > oldest or message.ts == thread]
        start = int(str(arguments.get("cursor") or 0))
        rest, found = found[start + limit :], found[start : start + limit]
        more: Json = {"response_metadata": {"next_cursor": str(start + limit)}} if rest else {}
        shown = [self._shown(message, bool(arguments.get("include_all_metadata"))) for message in found]
        return {"ok": True, "messages": shown, "has_more": bool(rest)} | more

    def _shown(self, message: Posted, with_metadata: bool) -> Json:
        shown = msgspec.to_builtins(message) | {"type": "message"}
        shown.pop("metadata", None) if not with_metadata else None
        replies = [reply for reply in self.messages if reply.thread_ts == message.ts]
        if replies:
            shown |= {"thread_ts": message.ts, "reply_count": len(replies), "latest_reply": replies[-1].ts}
            shown |= {"reply_users": sorted({reply.user for reply in replies})}
        return shown

    def _file(self, path: str, headers: dict[str, str]) -> bytes:
        content, kind = self.files.get(path, (b"", ""))
        if kind.startswith("http"):
            return f"HTTP/1.1 302 Found\r\nlocation: {kind}\r\ncontent-length: 0\r\n\r\n".encode()
        if not kind:
            return b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
        if headers.get("authorization") != f"Bearer {self.bot_token}":
            content, kind = b"<html>sign in</html>", "text/html; charset=utf-8"
        return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content


async def _send(link: WebSocketConnection, frame: Json) -> None:
    try:
        await link.send_message(msgspec.json.encode(frame).decode())
    except ConnectionClosed:
        pass  # whoever waits for an acknowledgement sees it


async def _cut(link: WebSocketConnection) -> None:
    await trio.aclose_forcefully(link._stream)  # pyright: ignore[reportPrivateUsage] - a cut is none of WebSocket's acts


@asynccontextmanager
async def fake_slack(*, redeliver_after_s: float = ACK_WITHIN_S) -> AsyncGenerator[FakeSlack]:
    """Serve on loopback until the block ends; then every connection is cut."""
    slack = FakeSlack(redeliver_after_s=redeliver_after_s)
    slack.late_after_s = SLOW_MACHINE_S
    async with trio.open_nursery() as nursery:
        slack._nursery = nursery  # pyright: ignore[reportPrivateUsage] - its own
        api = await nursery.start(partial(trio.serve_tcp, slack.serve_api, 0, host="127.0.0.1"))
        link = await nursery.start(partial(trio.serve_tcp, slack.serve_link, 0, host="127.0.0.1"))
        slack.api_port, slack.link_port = (each[0].socket.getsockname()[1] for each in (api, link))
        yield slack
        nursery.cancel_scope.cancel()

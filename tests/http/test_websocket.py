"""The WebSocket: who is let in, what may be said, what is told, and what becomes of clients that are slow or leave."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx2
import pytest
import trio
import trio_websocket
from pocketpaw.actors.agent import session_topic
from pocketpaw.runtime import Principal
from pocketpaw.runtime.errors import Unavailable

from .conftest import REPLY, Daemon, Serve, eventually

WHOLE = "".join(REPLY)
Json = dict[str, Any]


class Socket:
    """A connected client."""

    def __init__(self, connection: trio_websocket.WebSocketConnection) -> None:
        self.connection = connection

    async def say(self, **message: object) -> None:
        await self.connection.send_message(json.dumps(message))

    async def hear(self) -> Json:
        with trio.fail_after(5):
            return cast("Json", json.loads(await self.connection.get_message()))

    async def hear_until(self, type_: str) -> list[Json]:
        heard = [await self.hear()]
        while heard[-1]["type"] != type_:
            heard.append(await self.hear())
        return heard

    async def closed(self) -> tuple[int, str]:
        """Read to the end; the close frame's code and reason."""
        with trio.fail_after(5):
            while self.connection.closed is None:
                try:
                    await self.connection.get_message()
                except trio_websocket.ConnectionClosed:
                    break
        reason = self.connection.closed
        assert reason is not None
        return reason.code, reason.reason or ""


@asynccontextmanager
async def connect(
    daemon: Daemon, query: str = "", path: str = "/api/v1/ws", headers: dict[str, str] | None = None, **options: Any
) -> AsyncGenerator[Socket]:
    url = f"ws://127.0.0.1:{daemon.port}{path}?{query}"
    extra = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    async with trio_websocket.open_websocket_url(url, extra_headers=extra, **options) as connection:
        try:
            yield Socket(connection)
        finally:
            await connection.aclose()
            await vanish(connection)  # trio-websocket leaves the socket open when the server closed first


async def vanish(connection: trio_websocket.WebSocketConnection) -> None:
    stream = cast("trio.SocketStream", connection._stream)  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType] - it has no public way
    await stream.aclose()


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AQIDBAUGBwgJCgsMDQ4PEA==",
}


async def refused(
    daemon: Daemon, query: str = "", path: str = "/api/v1/ws", headers: dict[str, str] | None = None
) -> httpx2.Response:
    """The HTTP response that a handshake gets instead. (trio-websocket leaves the socket open when it is refused.)"""
    async with daemon.client() as client:
        return await client.get(f"{path}?{query}", headers={**UPGRADE, **(headers or {})})


def text_of(heard: list[Json]) -> str:
    return "".join(message["content"] for message in heard if message["type"] == "chunk")


STRANGER = {"X-Forwarded-For": "203.0.113.9"}


@pytest.mark.parametrize("path", ["/ws", "/v1/ws", "/api/v1/ws"])
@pytest.mark.parametrize(
    "message",
    [{"action": "chat", "content": "hi"}, {"action": "message", "message": "hi"}, {"type": "message", "content": "hi"}],
)
async def test_a_chat_on_any_path_in_any_form(serve: Serve, path: str, message: Json) -> None:
    async with serve() as daemon, connect(daemon, path=path) as client:
        hello = await client.hear()
        assert set(hello) == {"type", "session_id", "id", "version"}
        assert hello["type"] == "connection_info"
        await client.say(**message)
        heard = await client.hear_until("stream_end")
        assert heard[0]["type"] == "stream_start"
        assert {one["session_id"] for one in heard} == {hello["session_id"]}
        assert text_of(heard) == WHOLE
        assert heard[-1]["usage"]["total_tokens"] == 12
        numbers = [one["event_id"] for one in heard]
        assert numbers == sorted(set(numbers))


async def test_every_way_to_bring_a_credential(serve: Serve) -> None:
    async with serve() as daemon:
        token = daemon.live.access_token
        ways: tuple[Json, ...] = (
            {"query": f"token={token}"},
            {"headers": {**STRANGER, "Authorization": f"Bearer {token}"}},
            {"headers": STRANGER, "subprotocols": [token]},
        )
        for options in ways:
            async with connect(daemon, **options) as client:
                assert (await client.hear())["type"] == "connection_info"
                assert client.connection.subprotocol == (token if "subprotocols" in options else None)


@pytest.mark.parametrize(
    "options",
    [
        {"headers": STRANGER},
        {"query": "token=wrong"},
        {"headers": {**STRANGER, "Authorization": "Bearer wrong"}},
        {"headers": STRANGER, "subprotocols": ["wrong"]},
    ],
)
async def test_without_a_credential_it_is_closed_4401(serve: Serve, options: Json) -> None:
    async with serve() as daemon, connect(daemon, **options) as client:
        code, reason = await client.closed()
        assert code == 4401
        assert reason


async def test_without_the_scope_it_is_closed_4403(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketpaw.actors.access.guard.MASTER", Principal("narrow", frozenset({"sessions"})))
    async with serve() as daemon, connect(daemon, f"token={daemon.live.access_token}") as client:
        assert await client.closed() == (4403, "Missing required scope: chat")


async def test_a_foreign_page_is_refused_before_the_handshake(serve: Serve) -> None:
    async with serve() as daemon:
        for origin in ("https://evil.example", "null"):
            for query in ("", f"token={daemon.live.access_token}"):
                answer = await refused(daemon, query=query, headers={"Origin": origin})
                assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        async with connect(daemon, headers={"Origin": f"http://127.0.0.1:{daemon.port}"}) as client:
            assert (await client.hear())["type"] == "connection_info"


async def test_there_is_no_websocket_elsewhere(serve: Serve) -> None:
    async with serve() as daemon:
        for path in ("/api/ws", "/ws/", "/api/v1/chat", "/"):
            answer = await refused(daemon, path=path)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_connecting_too_often_is_refused(serve: Serve) -> None:
    async with serve(ws_rate_limit_per_peer=6) as daemon:
        async with connect(daemon) as client:
            await client.hear()
        answer = await refused(daemon)
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_requests")
        assert int(answer.headers["retry-after"]) >= 1


async def test_the_handshake_has_the_request_id(serve: Serve) -> None:
    async with serve() as daemon, connect(daemon, headers={"X-Request-ID": "req-1"}) as client:
        assert (b"x-request-id", b"req-1") in client.connection.handshake_headers
        answer = await refused(daemon, path="/nowhere", headers={"X-Request-ID": "req-2"})
        assert answer.headers["x-request-id"] == "req-2"


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        ("this is not json", "invalid_input", "JSON"),
        ("[]", "invalid_input", "object"),
        ("7", "invalid_input", "object"),
        ("{}", "bad_request", "action"),
        ('{"action": "nosuch"}', "bad_request", "nosuch"),
        ('{"action": 7}', "invalid_input", "action"),
        ('{"action": "chat"}', "invalid_input", "content"),
        ('{"action": "chat", "content": ""}', "invalid_input", "content"),
        ('{"action": "chat", "content": "hi", "session_id": "a b"}', "invalid_input", "session_id"),
        ('{"action": "chat", "content": "hi", "media": [1]}', "invalid_input", "media"),
        ('{"action": "switch_session"}', "invalid_input", "session_id"),
        ('{"action": "stop"}', "not_found", "nothing"),
        ('{"type": "subscribe", "channels": ["everything"]}', "invalid_input", "everything"),
        (b"\xff\xfe", "invalid_input", "JSON"),
        ("[" * 100_000, "invalid_input", ""),
    ],
)
async def test_what_cannot_be_done_is_said_and_the_socket_stays(
    serve: Serve, text: str | bytes, code: str, named: str
) -> None:
    async with serve() as daemon, connect(daemon) as client:
        await client.hear()
        await client.connection.send_message(text)
        error = await client.hear()
        assert (error["type"], error["code"]) == ("error", code)
        assert named in error["detail"]
        await client.say(action="ping")
        assert await client.hear() == {"type": "pong"}


@pytest.mark.parametrize("action", ["approve_plan", "reject_plan"])
async def test_a_plan_that_is_not_there_is_not_decided(serve: Serve, action: str) -> None:
    async with serve() as daemon, connect(daemon) as client:
        session_id = (await client.hear())["session_id"]
        verb = action.partition("_")[0]
        for said, named in (({}, session_id), ({"session_key": "websocket:s-1"}, "s-1"), ({"session_key": "x"}, "x")):
            await client.say(action=action, **said)
            detail = f"there is no plan to {verb} in session {named}"
            assert await client.hear() == {"type": "error", "detail": detail, "code": "not_found"}


async def test_a_message_over_one_mebibyte_closes_1009(serve: Serve) -> None:
    async with serve() as daemon, connect(daemon) as client:
        await client.hear()
        await client.connection.send_message(json.dumps({"action": "chat", "content": "x" * 1024 * 1024}))
        assert (await client.closed())[0] == 1009


async def test_sessions_are_made_and_switched(serve: Serve) -> None:
    async with serve() as daemon, connect(daemon) as client:
        first = (await client.hear())["session_id"]
        await client.say(action="chat", content="one")
        await client.hear_until("stream_end")
        await client.say(action="new_session")
        made = await client.hear()
        assert (made["type"], made["session_id"] != first) == ("new_session", True)
        await client.say(action="chat", content="two")
        assert (await client.hear_until("stream_end"))[-1]["session_id"] == made["session_id"]
        await client.say(action="switch_session", session_id=first)
        history = await client.hear()
        assert (history["type"], history["session_id"]) == ("session_history", first)
        assert [message["content"] for message in history["messages"]] == ["one", WHOLE]
        await client.say(action="chat", content="three")
        assert {one["session_id"] for one in await client.hear_until("stream_end")} == {first}
        await client.say(action="switch_session", session_id="nosuch")
        assert (await client.hear())["messages"] == []


async def test_two_sessions_at_once_on_one_socket(serve: Serve) -> None:
    async with serve() as daemon, connect(daemon) as client:
        await client.hear()
        await client.say(action="chat", content="a", session_id="a")
        await client.say(action="chat", content="b", session_id="b")
        heard = await client.hear_until("stream_end")
        heard += await client.hear_until("stream_end")
        for session_id in ("a", "b"):
            assert text_of([one for one in heard if one["session_id"] == session_id]) == WHOLE


async def test_a_stop_ends_the_answer(serve: Serve) -> None:
    async with serve() as daemon, connect(daemon) as client:
        gate = daemon.model.hold()
        await client.hear()
        await client.say(action="chat", content="hi")
        await client.hear_until("stream_start")
        gate.release()
        await client.hear_until("chunk")
        await client.say(action="stop")
        end = (await client.hear_until("stream_end"))[-1]
        assert end["usage"] == {}


async def test_a_model_that_fails_is_an_error_before_the_end(serve: Serve) -> None:
    async with serve() as daemon, connect(daemon) as client:
        daemon.model.fails = Unavailable("the model server answered 500")
        await client.hear()
        await client.say(action="chat", content="hi")
        error, end = (await client.hear_until("stream_end"))[-2:]
        assert (error["type"], error["detail"]) == ("error", "the model server answered 500")
        assert end["type"] == "stream_end"


async def test_a_session_is_resumed_where_it_was_left(serve: Serve) -> None:
    async with serve() as daemon:
        gate = daemon.model.hold()
        async with connect(daemon) as client:
            session_id = (await client.hear())["session_id"]
            await client.say(action="chat", content="hi")
            await client.hear_until("stream_start")
            gate.release()
            (first,) = await client.hear_until("chunk")
        gate.release()
        async with connect(daemon, f"resume_session={session_id}&last_event_id={first['event_id']}") as client:
            hello, history = await client.hear(), await client.hear()
            assert hello["session_id"] == history["session_id"] == session_id
            assert [message["content"] for message in history["messages"]] == ["hi"]
            for _ in REPLY:
                gate.release()
            rest = await client.hear_until("stream_end")
            assert text_of([first, *rest]) == WHOLE
            assert rest[0]["type"] == "chunk"
        async with connect(daemon, f"resume_session={session_id}") as client:
            await client.hear()
            assert len((await client.hear())["messages"]) == 2


async def test_resuming_without_a_number_shows_the_running_turn_from_its_start(serve: Serve) -> None:
    async with serve() as daemon, connect(daemon) as first:
        session_id = (await first.hear())["session_id"]
        await first.say(action="chat", content="earlier")
        await first.hear_until("stream_end")
        gate = daemon.model.hold()
        await first.say(action="chat", content="hi")
        gate.release()
        await first.hear_until("chunk")
        async with connect(daemon, f"resume_session={session_id}") as second:
            await second.hear_until("session_history")
            for _ in REPLY:
                gate.release()
            heard = await second.hear_until("stream_end")
            assert (heard[0]["type"], text_of(heard)) == ("stream_start", WHOLE)


async def test_lost_events_are_told(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as rest:
        session_id = (await rest.post("/api/v1/chat", json={"content": "hi"})).json()["session_id"]
        async with connect(daemon, f"resume_session={session_id}&last_event_id=1") as client:
            assert [(await client.hear())["type"] for _ in range(3)] == ["connection_info", "session_history", "gap"]


@pytest.mark.parametrize("session_id", ["nosuch", "a%20b", ""])
async def test_resuming_what_is_not_there_begins_anew(serve: Serve, session_id: str) -> None:
    async with serve() as daemon, connect(daemon, f"resume_session={session_id}&last_event_id=x") as client:
        assert (await client.hear())["session_id"] not in {"nosuch", "a b", ""}
        await client.say(action="ping")
        assert await client.hear() == {"type": "pong"}


async def test_channels_are_told_once_subscribed(serve: Serve) -> None:
    async with serve() as daemon, connect(daemon) as client:
        session_id = (await client.hear())["session_id"]
        await client.say(type="subscribe", channels=["agent.status", "agent.message"])
        assert await client.hear() == {"type": "subscribed", "channels": ["agent.message", "agent.status"]}
        await client.say(type="message", content="hi", agentId=session_id)
        heard = await client.hear_until("agent.message")
        assert heard[-1]["content"] == WHOLE
        assert heard[-1]["agentId"] == session_id
        states = [one["state"] for one in heard if one["type"] == "agent.status"]
        assert "thinking" in states
        await client.say(type="unsubscribe", channels=["agent.status", "agent.message"])
        await client.hear_until("subscribed")
        await client.say(action="chat", content="again")
        heard = await client.hear_until("stream_end")
        assert not [one for one in heard if one["type"].startswith("agent.")]


async def test_everybody_is_told_of_health_and_notifications(serve: Serve) -> None:
    async with serve() as daemon, connect(daemon) as one, connect(daemon) as other:
        for client in (one, other):
            await client.hear()
        metadata = {"status": "degraded"}
        for name in ("ignored", "notification", "health_update"):
            event = {"event_type": name, "content": "tea is ready", "metadata": metadata}
            daemon.system.bus.publish("events", name, event)
        for client in (one, other):
            assert (await client.hear_until("notification"))[-1]["content"] == "tea is ready"
            assert (await client.hear_until("health_update"))[-1]["data"] == metadata


async def test_a_client_that_reads_too_slowly_is_closed_1013_and_slows_nobody(serve: Serve) -> None:
    async with serve() as daemon, connect(daemon) as client:
        session_id = (await client.hear())["session_id"]
        await client.say(action="chat", content="hi")
        await client.hear_until("stream_end")
        event = {"session_id": session_id, "turn_id": "t-1", "tool": "t", "output": "x" * 8192}
        for _ in range(4):  # trio-websocket reads one message ahead, then leaves the rest to the kernel
            for _ in range(800):
                daemon.system.bus.publish(session_topic(session_id), "tool_result", event)
            await trio.sleep(0.05)
        async with connect(daemon) as other:
            await other.hear()
            await other.say(action="ping")
            assert await other.hear() == {"type": "pong"}
        code, reason = await client.closed()
        assert code == 1013
        assert "resume_session" in reason


async def test_whoever_leaves_is_forgotten(serve: Serve) -> None:
    async with serve() as daemon:
        async with connect(daemon) as client:
            session_id = (await client.hear())["session_id"]
            await client.say(action="chat", content="hi")
            await client.hear_until("stream_end")
            assert daemon.system.bus.has_listeners(session_topic(session_id))
            await vanish(client.connection)

        async def is_alone() -> bool:
            return not daemon.system.bus.has_listeners(session_topic(session_id))

        await eventually(is_alone)


async def test_what_nobody_expected_closes_1011_and_is_recorded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("broken inside")

    async with serve() as daemon, daemon.client() as rest, connect(daemon) as client:
        await client.hear()
        monkeypatch.setattr("pocketpaw.http.conversation._read", fail)
        await client.say(action="ping")
        code, reason = await client.closed()
        assert code == 1011
        assert "broken" not in reason

        async def is_recorded() -> bool:
            errors = (await rest.get("/api/v1/health/errors")).json()
            return any("broken inside" in error["message"] for error in errors)

        await eventually(is_recorded)


async def test_many_clients_cost_little(serve: Serve) -> None:
    """The bound is on tasks, which is what a client costs most of."""
    clients = 50
    async with serve() as daemon, trio.open_nursery() as nursery:
        before = trio.lowlevel.current_statistics().tasks_living

        async def stay(task_status: trio.TaskStatus[None]) -> None:
            async with connect(daemon) as client:
                await client.hear()
                task_status.started()
                await trio.sleep_forever()

        for _ in range(clients):
            await nursery.start(stay)
        tasks = trio.lowlevel.current_statistics().tasks_living - before
        assert tasks <= clients * 5, "the test's own task, the client's reader, and ours: connection, reader, events"
        nursery.cancel_scope.cancel()

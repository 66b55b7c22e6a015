"""Chat over REST: answers and streams, cut and resumed; clients that go away, repeat themselves, or do not read."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlencode

import pytest
import trio
from pocketpaw.actors.agent import session_topic
from pocketpaw.http.turns import replay, running_turn
from pocketpaw.runtime import Bus
from pocketpaw.runtime.errors import Unavailable

from .conftest import REPLY, Daemon, Serve, eventually
from .sse_client import EventStream, Frame, open_events

WHOLE = "".join(REPLY)
SPENT = {
    "input_tokens": 7, "output_tokens": 5, "total_tokens": 12, "model": "scripted", "backend": "fake", "cost_usd": 0.0,
}  # fmt: skip


@asynccontextmanager
async def stream(
    daemon: Daemon, content: str = "hi", *, method: str = "POST", headers: dict[str, str] | None = None, **more: str
) -> AsyncGenerator[EventStream]:
    """Chat, or with GET attach to the session's turn; the events as they come."""
    query = f"?{urlencode(more)}" if method == "GET" else ""
    message = {"content": content, **more} if method == "POST" else None
    async with open_events(daemon.port, f"/api/v1/chat/stream{query}", message, headers) as events:
        assert events.status == 200
        assert events.headers["content-type"].startswith("text/event-stream")
        assert (events.headers["cache-control"], events.headers["x-accel-buffering"]) == ("no-cache", "no")
        yield events


def text_of(frames: list[Frame]) -> str:
    return "".join(frame.data["content"] for frame in frames if frame.name == "chunk")


def listeners(daemon: Daemon, session_id: str) -> bool:
    return daemon.system.bus.has_listeners(session_topic(session_id))


async def test_a_whole_answer(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        said = (await client.post("/api/v1/chat", json={"content": "hi"})).json()
        assert said == {"session_id": said["session_id"], "content": WHOLE, "usage": SPENT}
        assert said["session_id"].startswith("s-")
        again = await client.post("/api/chat", json={"content": "more", "session_id": said["session_id"], "media": []})
        assert again.json()["session_id"] == said["session_id"]


async def test_a_stream_has_the_contracts_events_and_fields_and_each_a_number(serve: Serve) -> None:
    async with serve() as daemon:
        daemon.model.thinks = "hm"
        async with stream(daemon, session_id="mine") as frames:
            got = await frames.rest()
        assert (got[0].name, got[0].data) == ("stream_start", {"session_id": "mine"})
        assert {"content": "hm"} in [frame.data for frame in got if frame.name == "thinking"]
        chunks = [frame for frame in got if frame.name == "chunk"]
        assert all(set(chunk.data) == {"content", "type"} for chunk in chunks)
        assert text_of(got) == WHOLE
        assert (got[-1].name, got[-1].data) == ("stream_end", {"session_id": "mine", "usage": SPENT})
        numbers = [int(frame.id) for frame in got]
        assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("session_id", ["", "with space", "a/b", "ü", "x" * 129, "line\n"])
async def test_a_session_id_that_cannot_be_one_is_refused(serve: Serve, session_id: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        for path in ("/api/v1/chat", "/api/v1/chat/stream"):
            refused = await client.post(path, json={"content": "hi", "session_id": session_id})
            assert refused.status_code == 422
            assert refused.json()["detail"][0]["loc"] == ["body", "session_id"]


async def test_chunks_that_wait_for_a_slow_socket_come_joined(serve: Serve) -> None:
    async with serve() as daemon:
        async with stream(daemon) as frames:
            got = await frames.rest()
        assert len([frame for frame in got if frame.name == "chunk"]) < len(REPLY)
        gate = daemon.model.hold()
        async with stream(daemon) as frames:
            pieces: list[str] = []
            async for frame in frames:
                gate.release()
                pieces += [frame.data["content"]] if frame.name == "chunk" else []
        assert tuple(pieces) == REPLY


@pytest.mark.parametrize("ended", [False, True], ids=["while it runs", "when it has ended"])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("cut", range(1, 8))
async def test_a_stream_that_was_cut_and_resumed_equals_an_uncut_one(
    serve: Serve, cut: int, method: str, *, ended: bool
) -> None:
    async with serve() as daemon, daemon.client() as client:
        gate = daemon.model.hold()
        async with stream(daemon, session_id="s-1") as frames:
            first: list[Frame] = []
            async for frame in frames:
                first.append(frame)
                if len(first) == cut:
                    break
                gate.release()
        for _ in range(10):
            gate.release()

        async def is_kept() -> bool:
            return len((await client.get("/api/v1/sessions/s-1/history")).json()) == 2

        if ended:
            await eventually(is_kept)
        headers = {"Last-Event-ID": first[-1].id}
        if first[-1].name == "stream_end":
            over = await client.get("/api/v1/chat/stream", params={"session_id": "s-1"}, headers=headers)
            assert (over.status_code, over.content) == (204, b"")
            return
        async with stream(daemon, "never said", method=method, headers=headers, session_id="s-1") as frames:
            rest = await frames.rest()
        both = first + rest
        assert [both[0].name, both[-1].name] == ["stream_start", "stream_end"]
        assert text_of(both) == WHOLE
        numbers = [int(frame.id) for frame in both]
        assert numbers == sorted(set(numbers))
        assert daemon.model.asked == ["hi"]


async def test_resuming_needs_no_content(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        daemon.model.hold()
        async with stream(daemon, session_id="s-1") as frames:
            first = await anext(frames)
        headers = {"Last-Event-ID": first.id}
        daemon.model.gate = None
        await client.post("/api/v1/chat/stop", params={"session_id": "s-1"})
        for request in ({"json": {"session_id": "s-1"}}, {"params": {"session_id": "s-1"}}):
            resumed = await client.post("/api/v1/chat/stream", headers=headers, **request)  # pyright: ignore[reportArgumentType] - one of them
            assert "event: stream_end" in resumed.text
        refused = await client.post("/api/v1/chat/stream", headers=headers)
        assert refused.status_code == 422


async def test_an_empty_number_is_none(serve: Serve) -> None:
    async with serve() as daemon, stream(daemon, headers={"Last-Event-ID": ""}) as frames:
        assert text_of(await frames.rest()) == WHOLE


@pytest.mark.parametrize(
    ("told", "running"),
    [
        ("start chunk end start chunk", "start chunk"),
        ("start chunk start thinking chunk", "start thinking chunk"),
        ("start chunk end", ""),
        ("chunk chunk", "chunk chunk"),
    ],
)
async def test_a_turn_is_shown_from_its_latest_start(told: str, running: str) -> None:
    """An agent that died midway began it anew: what was said before is void."""
    bus, names = Bus(), {"start": "stream_start", "end": "stream_end"}
    for name in told.split():
        bus.publish("topic", names.get(name, name), {})
    past = await replay(bus, "topic", 0)
    past.subscription.close()
    assert [event.name for event in running_turn(past.events)] == [names.get(name, name) for name in running.split()]


async def test_attaching_without_a_number_shows_the_running_turn_from_its_start(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        await client.post("/api/v1/chat", json={"content": "earlier", "session_id": "s-1"})
        nothing = await client.get("/api/v1/chat/stream", params={"session_id": "s-1"})
        assert nothing.status_code == 204
        gate = daemon.model.hold()
        async with stream(daemon, session_id="s-1") as frames:
            await anext(frames)
            gate.release()
            await anext(frames)
        async with stream(daemon, method="GET", session_id="s-1") as frames:
            start, chunk = await anext(frames), await anext(frames)
            assert (start.name, chunk.data["content"]) == ("stream_start", REPLY[0])
            for _ in REPLY:
                gate.release()
            got = await frames.rest()
        assert text_of([chunk, *got]) == WHOLE


async def test_what_is_no_longer_kept_is_told_as_a_gap(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        gate = daemon.model.hold()
        async with stream(daemon, session_id="s-1") as frames:
            first = await anext(frames)
            gate.release()
            await anext(frames)
        daemon.system.bus.forget(session_topic("s-1"))
        headers = {"Last-Event-ID": first.id}
        async with stream(daemon, method="GET", headers=headers, session_id="s-1") as frames:
            assert (await anext(frames)).name == "gap"
            for _ in REPLY:
                gate.release()
            got = await frames.rest()
        assert got[-1].name == "stream_end"
        over = await client.get("/api/v1/chat/stream", params={"session_id": "s-1"}, headers={"Last-Event-ID": "1"})
        assert over.text.startswith("event: gap\n")


async def test_a_second_message_waits_and_its_stream_has_only_its_own_events(serve: Serve) -> None:
    async with serve() as daemon, trio.open_nursery() as nursery:
        gate = daemon.model.hold()
        answers: dict[str, list[Frame]] = {}

        async def say(content: str, task_status: trio.TaskStatus[None]) -> None:
            async with stream(daemon, content, session_id="s-1") as frames:
                task_status.started()
                answers[content] = await frames.rest()

        await nursery.start(say, "first")
        await nursery.start(say, "second")
        for _ in range(2 * len(REPLY)):
            gate.release()
    assert text_of(answers["first"]) == text_of(answers["second"]) == WHOLE
    for got in answers.values():
        assert [frame.name for frame in got].count("stream_start") == 1
    assert int(answers["first"][-1].id) < int(answers["second"][0].id)


@pytest.mark.parametrize("path", ["/api/v1/chat", "/api/v1/chat/stream"])
async def test_a_client_that_goes_away_does_not_stop_the_turn(serve: Serve, path: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        gate = daemon.model.hold()
        with trio.move_on_after(5) as patience:
            async with trio.open_nursery() as nursery:

                async def leave_when_heard() -> None:
                    await eventually(is_heard)
                    nursery.cancel_scope.cancel()

                async def is_heard() -> bool:
                    return bool(daemon.model.asked)

                nursery.start_soon(leave_when_heard)
                async with daemon.client() as leaver:
                    await leaver.post(path, json={"content": "hi", "session_id": "s-1"})
        assert not patience.cancelled_caught

        async def is_alone() -> bool:
            return not listeners(daemon, "s-1")

        await eventually(is_alone)
        for _ in REPLY:
            gate.release()

        async def is_kept() -> bool:
            history = (await client.get("/api/v1/sessions/s-1/history")).json()
            return [message["content"] for message in history] == ["hi", WHOLE]

        await eventually(is_kept)


async def test_a_stop_keeps_what_there_is(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        gate = daemon.model.hold()
        async with stream(daemon, session_id="s-1") as frames:
            await anext(frames)
            gate.release()
            assert (await anext(frames)).data["content"] == REPLY[0]
            stopped = await client.post("/api/v1/chat/stop", params={"session_id": "s-1"})
            assert stopped.json() == {"status": "ok", "session_id": "s-1"}
            (end,) = await frames.rest()
        assert (end.name, end.data) == ("stream_end", {"session_id": "s-1", "usage": {}})
        history = (await client.get("/api/v1/sessions/s-1/history")).json()
        assert (history[1]["content"], history[1]["metadata"]["stopped"]) == (REPLY[0], True)
        idle = await client.post("/api/v1/chat/stop", json={"session_id": "s-1"})
        assert (idle.status_code, idle.json()["code"]) == (404, "not_found")
        unnamed = await client.post("/api/v1/chat/stop")
        assert unnamed.json()["detail"][0]["loc"] == ["query", "session_id"]


async def test_a_model_that_fails_is_an_error_and_no_content(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        daemon.model.fails = Unavailable("the model server answered 500")
        failed = await client.post("/api/v1/chat", json={"content": "hi"})
        assert (failed.status_code, failed.json()["code"]) == (503, "unavailable")
        assert failed.json()["detail"] == "the model server answered 500"
        async with stream(daemon) as frames:
            got = await frames.rest()
        assert [frame.name for frame in got[-2:]] == ["error", "stream_end"]
        assert got[-2].data == {"detail": "the model server answered 500"}


async def test_a_reply_that_takes_too_long_is_504_with_the_session_and_lands_in_the_history(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketpaw.http.chat.REPLY_LIMIT_S", 0.3)
    async with serve() as daemon, daemon.client() as client:
        gate = daemon.model.hold()
        late = await client.post("/api/v1/chat", json={"content": "hi"})
        assert (late.status_code, late.json()["code"]) == (504, "timed_out")
        session_id = late.json()["session_id"]
        for _ in REPLY:
            gate.release()

        async def is_kept() -> bool:
            return len((await client.get(f"/api/v1/sessions/{session_id}/history")).json()) == 2

        await eventually(is_kept)


async def test_silence_is_filled_with_comments(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketpaw.http.sse.KEEP_ALIVE_S", 0.05)
    async with serve() as daemon:
        gate = daemon.model.hold()
        async with stream(daemon) as frames:
            assert (await anext(frames)).name == "stream_start"
            assert [(await anext(frames)).id for _ in range(3)] == ["keep-alive"] * 3
            for _ in REPLY:
                gate.release()
            assert text_of(await frames.rest()) == WHOLE


@pytest.mark.parametrize("named", [True, False])
async def test_a_repeated_key_gets_the_first_result(serve: Serve, *, named: bool) -> None:
    async with serve() as daemon, daemon.client() as client:
        message = {"content": "hi", **({"session_id": "s-1"} if named else {})}
        headers = {"Idempotency-Key": "key-1"}
        first = await client.post("/api/v1/chat", json=message, headers=headers)
        again = await client.post("/api/v1/chat", json=message, headers=headers)
        assert first.json() == again.json()
        async with stream(daemon, headers=headers, **({"session_id": "s-1"} if named else {})) as frames:
            got = await frames.rest()
        assert (text_of(got), got[-1].data["usage"]) == (WHOLE, SPENT)
        assert got[0].data == {"session_id": first.json()["session_id"]}
        assert daemon.model.asked == ["hi"]
        other = await client.post("/api/v1/chat", json={**message, "content": "else"}, headers=headers)
        assert other.status_code == 409
        refused = await client.post("/api/v1/chat", json=message, headers={"Idempotency-Key": "k" * 256})
        assert refused.json()["detail"][0]["loc"] == ["header", "Idempotency-Key"]


async def test_a_key_that_is_repeated_while_the_answer_is_written_joins_it(serve: Serve) -> None:
    async with serve() as daemon:
        gate = daemon.model.hold()
        headers = {"Idempotency-Key": "key-1"}
        async with stream(daemon, headers=headers) as frames:
            first = [await anext(frames)]
            gate.release()
            first.append(await anext(frames))
        async with stream(daemon, headers=headers) as frames:
            again = [await anext(frames), await anext(frames)]
            assert again == first
            for _ in REPLY:
                gate.release()
            assert text_of([*again, *await frames.rest()]) == WHOLE
        assert daemon.model.asked == ["hi"]


async def test_a_client_that_does_not_read_is_cut_off_and_slows_nobody(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:
        daemon.model.hold()
        with socket.socket() as deaf, daemon.system.bus.subscribe(session_topic("s-1")) as events:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", daemon.port))
            body = json.dumps({"content": "hi", "session_id": "s-1"})
            deaf.sendall(
                f"POST /api/v1/chat/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            start = (await anext(events)).data()
            events.close()
            result = {"session_id": "s-1", "turn_id": start["turn_id"], "tool": "t", "output": "x" * 8192}
            for _ in range(4):
                for _ in range(800):
                    daemon.system.bus.publish(session_topic("s-1"), "tool_result", result)
                await trio.sleep(0.05)  # the listener takes what it can
            assert not listeners(daemon, "s-1")
            daemon.model.gate = None
            with trio.fail_after(5):
                said = await client.post("/api/v1/chat", json={"content": "other", "session_id": "s-2"})
            assert said.json()["content"] == WHOLE


async def test_system_events_are_streamed(serve: Serve) -> None:
    async with serve() as daemon:
        path = "/api/v1/events/stream"
        event: dict[str, object] = {"event_type": "notification", "content": "tea", "metadata": {}}
        async with open_events(daemon.port, f"{path}?topics=notification,other") as frames:
            assert (await anext(frames)).data == {"status": "ok"}
            daemon.system.bus.publish("events", "ignored", {**event, "event_type": "ignored"})
            daemon.system.bus.publish("events", "notification", event)
            got = await anext(frames)
        assert (got.name, got.data) == ("notification", event)
        daemon.system.bus.publish("events", "notification", {**event, "content": "more tea"})
        async with open_events(daemon.port, path, headers={"Last-Event-ID": got.id}) as frames:
            await anext(frames)
            assert (await anext(frames)).data["content"] == "more tea"


async def test_changes_of_the_agents_status_are_streamed(serve: Serve) -> None:
    async with serve() as daemon, open_events(daemon.port, "/api/v1/agent/status/stream") as frames:
        first = await anext(frames)
        assert (first.name, first.data["global"]["active_sessions"]) == ("status", 0)
        daemon.model.hold()
        async with stream(daemon, session_id="s-1"):
            with trio.fail_after(5):
                while not (await anext(frames)).data["global"]["active_sessions"]:
                    pass

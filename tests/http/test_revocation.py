"""What was let in for longer than a request: it ends when the credential does that it came with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio_websocket

from .conftest import Daemon, Serve
from .sse_client import open_events
from .test_websocket import Socket, connect

CLOSED = (4401, "the credential has been revoked")


async def make_key(daemon: Daemon, *scopes: str) -> tuple[str, str]:
    async with daemon.client() as client:
        body = {"name": "k", "scopes": scopes or ("admin",)}
        made = (await client.post("/api/v1/auth/api-keys", json=body)).json()
        return made["id"], made["key"]


async def revoke(daemon: Daemon, key_id: str) -> None:
    async with daemon.client() as client:
        assert (await client.delete(f"/api/v1/auth/api-keys/{key_id}")).status_code == 200


async def is_open(socket: Socket) -> bool:
    try:
        await socket.say(action="ping")
        await socket.hear_until("pong")
    except trio_websocket.ConnectionClosed:
        return False
    return True


async def test_a_socket_is_closed_when_its_key_is_revoked_and_others_are_not(serve: Serve) -> None:
    async with serve() as daemon:
        (one_id, one), (_, other) = await make_key(daemon, "chat"), await make_key(daemon, "chat")
        async with (
            connect(daemon, f"token={one}") as mine,
            connect(daemon, f"token={other}") as theirs,
            connect(daemon) as local,
        ):
            assert await is_open(mine)
            await revoke(daemon, one_id)
            assert await mine.closed() == CLOSED
            assert await is_open(theirs)
            assert await is_open(local)


async def logout(daemon: Daemon, session: str) -> None:
    async with daemon.stranger(session) as client:
        await client.post("/api/v1/auth/logout")


async def regenerate(daemon: Daemon, _: str) -> None:
    async with daemon.client() as client:
        await client.post("/api/v1/token/regenerate")


@pytest.mark.parametrize("end", [logout, regenerate])
async def test_a_socket_ends_with_its_session(serve: Serve, end: Callable[[Daemon, str], Awaitable[None]]) -> None:
    async with serve() as daemon, daemon.client() as client:
        session = (await client.post("/api/v1/auth/session")).json()["session_token"]
        other = (await client.post("/api/v1/auth/session")).json()["session_token"]
        _, key = await make_key(daemon, "chat")
        headers = {"Cookie": f"pocketpaw_session={session}", "X-Real-IP": "203.0.113.9"}
        async with (
            connect(daemon, headers=headers) as mine,
            connect(daemon, f"token={other}") as another,
            connect(daemon, f"token={daemon.live.access_token}") as master,
            connect(daemon, f"token={key}") as kept,
        ):
            assert await is_open(mine)
            await end(daemon, session)
            assert await mine.closed() == CLOSED
            assert await is_open(kept)
            assert [await is_open(one) for one in (another, master)] == [end is logout] * 2


async def test_an_endless_stream_ends_with_its_key(serve: Serve) -> None:
    async with serve() as daemon:
        key_id, key = await make_key(daemon)
        headers = {"Authorization": f"Bearer {key}"}
        async with open_events(daemon.port, "/api/v1/events/stream", headers=headers) as events:
            assert (await anext(events)).name == "connected"
            await revoke(daemon, key_id)
            with trio.fail_after(5):
                await events.rest()

"""The contract's WebSocket, on the real daemon: every action, told as it is written and as PocketPaw was seen to."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from typing import Any, cast

import pytest
import trio
from pocketpaw.http.websocket import PATHS
from trio_websocket import WebSocketConnection, open_websocket_url

from ..contract.conversation import BESIDES, SAYINGS, TOLD_OTHERWISE
from ..contract.generate import load
from ..contract.shapes import Shape, differences, merged, shape_of
from ..contract.world import World, world_in

Json = dict[str, Any]

DOCUMENTS, RECORDINGS = load()
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_in(tmp_path_factory.mktemp("socket")) as furnished:
        yield furnished


@asynccontextmanager
async def connected(world: World, path: str = "/api/v1/ws", query: str = "") -> AsyncGenerator[WebSocketConnection]:
    url = f"{world.daemon.url.replace('http', 'ws', 1)}{path}?token={world.token}{query}"
    with trio.fail_after(PATIENCE_S):
        async with open_websocket_url(url, max_message_size=2**24) as socket:
            yield socket


async def hear(socket: WebSocketConnection, last: str) -> dict[str, Shape]:
    """What is told up to the first message of a type; the shapes by type."""
    told: dict[str, Shape] = {}
    type_ = ""
    while type_ != last:
        message = cast("Json", json.loads(await socket.get_message()))
        type_ = message["type"]
        told[type_] = merged(told[type_], shape_of(message)) if type_ in told else shape_of(message)
        assert type_ != "error", message
    return told


def others(action: str, told: Mapping[str, Shape]) -> list[str]:
    """Where that is not what PocketPaw was seen to tell then."""
    found: list[str] = []
    for type_, shape in RECORDINGS.socket.get(action, {}).items():
        if type_ in told:
            found += [f"{action} {type_}{one}" for one in differences(cast("Shape", shape), told[type_])]
        else:
            found.append(f"{action} {type_}: is missing")
    return found


def check(action: str, told: Mapping[str, Shape]) -> None:
    found = others(action, told)
    known = [pattern for pattern in TOLD_OTHERWISE if pattern.partition(" ")[0] == action]
    assert [one for one in found if not any(fnmatchcase(one, pattern) for pattern in known)] == []
    assert [pattern for pattern in known if not any(fnmatchcase(one, pattern) for one in found)] == []


def test_every_action_of_the_documents_is_tried() -> None:
    assert SAYINGS.keys() == set(DOCUMENTS.actions)
    assert RECORDINGS.socket.keys() - SAYINGS.keys() == BESIDES.keys()


@pytest.mark.parametrize("action", SAYINGS)
async def test_an_action_is_answered(world: World, action: str) -> None:
    saying = SAYINGS[action]
    fields = saying.fields(world) if callable(saying.fields) else saying.fields
    kind, _, name = action.rpartition(":")
    query = f"&resume_session={fields['session_id']}" if saying.follows else ""
    async with connected(world, query=query) as socket:
        await hear(socket, "connection_info")
        await socket.send_message(json.dumps({kind or "action": name, **fields}))
        check(action, await hear(socket, saying.told))


@pytest.mark.parametrize("path", PATHS)
async def test_the_paths_are_alike(world: World, path: str) -> None:
    async with connected(world, path, f"&resume_session={world.session()}") as socket:
        check("connect", await hear(socket, "session_history"))

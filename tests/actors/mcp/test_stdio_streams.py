"""The streams over a server's pipes."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import mcp_types
import pytest
import trio
from mcp.shared.message import SessionMessage
from pocketpaw.actors.mcp import stdio_streams
from pocketpaw.actors.mcp.link import Link
from pocketpaw.actors.mcp.stdio_streams import MessagesIn, MessagesOut

COUNT = 40


def message(number: int, size: int = 10_000) -> SessionMessage:
    params = {"text": "x" * size}
    return SessionMessage(mcp_types.JSONRPCRequest(jsonrpc="2.0", id=number, method="m", params=params))


@asynccontextmanager
async def pipe() -> AsyncGenerator[tuple[trio.lowlevel.FdStream, trio.lowlevel.FdStream]]:
    read_end, write_end = os.pipe()
    async with trio.lowlevel.FdStream(read_end) as reader, trio.lowlevel.FdStream(write_end) as writer:
        yield reader, writer


async def nothing() -> None:
    await trio.lowlevel.checkpoint()


async def test_what_a_pipe_has_no_room_for_comes_later_whole_and_in_order() -> None:
    async with pipe() as (reader, writer), trio.open_nursery() as nursery:
        link = Link()
        outgoing, incoming = MessagesOut(writer.fileno(), link), MessagesIn(reader, link, nothing)
        nursery.start_soon(outgoing.pump)
        for number in range(COUNT):
            await outgoing.send(message(number))  # never waits, though nobody reads yet
        received = [await incoming.receive() for _ in range(COUNT)]
        assert list(map(id_of, received)) == list(range(COUNT))
        nursery.cancel_scope.cancel()


async def test_a_server_that_reads_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio_streams, "MESSAGE_LIMIT_BYTES", 100_000)
    async with pipe() as (_, writer):
        link = Link()
        outgoing = MessagesOut(writer.fileno(), link)
        for number in range(COUNT):
            await outgoing.send(message(number))
    assert link.ended.is_set()
    assert str(link.reason()) == "it does not read what it is sent"


async def test_messages_are_found_however_their_bytes_come() -> None:
    async with pipe() as (reader, writer), trio.open_nursery() as nursery:
        incoming = MessagesIn(reader, Link(), nothing)
        text = b'noise\n{"jsonrpc":"2.0","id":1,"result":{}}\n\n{broken\n{"jsonrpc":"2.0","id":2,"result":{}}\n{"half"'

        async def write() -> None:
            for byte in text:
                await writer.send_all(bytes([byte]))
            await writer.aclose()

        nursery.start_soon(write)
        found = [id_of(item) async for item in incoming]
    assert found == [1, 2]


def id_of(item: object) -> object:
    assert isinstance(item, SessionMessage)
    assert isinstance(item.message, mcp_types.JSONRPCRequest | mcp_types.JSONRPCResponse)
    return item.message.id

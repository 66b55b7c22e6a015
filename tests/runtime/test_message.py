"""Messages, their addresses, their handlers' forms, the errors that cross boundaries, and frames."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import msgspec
import pytest
from pocketpaw.runtime import Actor, Done, Message, StreamMessage, Worker
from pocketpaw.runtime.errors import NotFound, PocketPawError, TooManyRequests
from pocketpaw.runtime.frames import FrameReader, NoFrame, pack
from pocketpaw.runtime.message import address_of, encode, reply_type


class Item(msgspec.Struct, frozen=True):
    number: int


class Ask(Message[Item], to="sessions/{session_id}"):
    session_id: str
    note: str = ""


class AskMore(Ask):
    pass


class Follow(StreamMessage[Item], to="follower"):
    pass


class Older(msgspec.Struct, frozen=True):
    session_id: str


def test_a_messages_address_is_filled_in_from_its_fields() -> None:
    assert address_of(Ask(session_id="s-1")) == "sessions/s-1"
    assert address_of(AskMore(session_id="s-2")) == "sessions/s-2"
    assert address_of(Follow()) == "follower"


def test_a_message_is_frozen_and_takes_keywords_only() -> None:
    with pytest.raises(AttributeError):
        Ask(session_id="x").note = "y"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        Ask("x")  # pyright: ignore[reportCallIssue]


def test_an_older_reader_takes_a_newer_writers_message() -> None:
    assert msgspec.msgpack.decode(encode(Ask(session_id="x", note="new")), type=Older) == Older("x")


def test_a_message_knows_what_it_is_answered_with() -> None:
    assert reply_type(Ask) is Item
    assert reply_type(AskMore) is Item
    assert reply_type(Follow) is Item
    with pytest.raises(TypeError, match=r"derive it from Message\[Reply\]"):
        reply_type(Message)


def test_the_handlers_of_an_actor_are_its_public_methods_with_a_message() -> None:
    class Base(Actor):
        async def ask_it(self, message: Ask | AskMore) -> Item:
            return Item(1)

        async def _private(self, message: Ask) -> Item:
            return Item(2)

    class Derived(Base):
        async def follow(self, message: Follow) -> AsyncGenerator[Item]:
            yield Item(3)

    assert set(Derived.handlers) == {Ask, AskMore, Follow}
    assert Derived.handlers[Follow].is_stream


def test_a_class_with_a_handler_that_cannot_work_is_not_made() -> None:
    with pytest.raises(TypeError, match="two handlers for Ask"):

        class Twice(Actor):  # pyright: ignore[reportUnusedClass]
            async def one(self, message: Ask) -> Item:
                return Item(1)

            async def two(self, message: Ask) -> Item:
                return Item(2)

    with pytest.raises(TypeError, match="annotated with a Message, not <class 'int'>"):

        class NoMessage(Actor):  # pyright: ignore[reportUnusedClass]
            async def one(self, message: int) -> Item:
                return Item(1)

    with pytest.raises(TypeError, match="follow must be an async generator, as it takes a StreamMessage"):

        class NoStream(Actor):  # pyright: ignore[reportUnusedClass]
            async def follow(self, message: Follow) -> Done:
                return Done()


def test_a_worker_has_plain_functions_and_generators_only() -> None:
    from pocketpaw.runtime.handlers import handlers_of

    class WithAsync(Worker):
        async def one(self, message: Ask) -> Item:
            return Item(1)

    with pytest.raises(TypeError, match="one must be a plain function"):
        handlers_of(WithAsync, Worker, is_async=False)


def test_an_error_crosses_a_boundary_by_its_code_and_shares_nothing() -> None:
    tags = ["a"]
    error = TooManyRequests("too fast", retry_after_s=2.5, tags=tags, at=datetime(2026, 1, 2, tzinfo=UTC), other={1})
    rebuilt = PocketPawError.from_wire(*error.to_wire())
    tags.append("b")
    assert type(rebuilt) is TooManyRequests
    assert rebuilt.detail == str(rebuilt) == "too fast"
    assert rebuilt.data == {"retry_after_s": 2.5, "tags": ["a"], "at": "2026-01-02T00:00:00Z", "other": [1]}


def test_an_error_of_an_unknown_code_is_still_an_expected_failure() -> None:
    assert type(PocketPawError.from_wire("of_a_newer_version", "what it says", {})) is PocketPawError


def test_two_errors_cannot_have_one_code() -> None:
    with pytest.raises(TypeError, match="'not_found' is taken by NotFound"):

        class Again(NotFound):  # pyright: ignore[reportUnusedClass]
            pass


def test_frames_are_cut_wherever_the_pipe_cuts_them() -> None:
    reader = FrameReader()
    data = pack("ready") + pack("item", 1, b"x" * 300)
    frames = [frame for byte in data for frame in reader.feed(bytes([byte]))]
    assert frames == [["ready"], ["item", 1, b"x" * 300]]


@pytest.mark.parametrize("data", [b"Hello", b"\xc1", pack(), b"\xdd\xff\xff\xff\xff", b"\xc0"])
def test_what_is_no_frame_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(NoFrame):
        list(FrameReader().feed(data))

"""The dispatch table of an actor class: which method takes which message, read off the annotations."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec

from .errors import InvalidInput
from .message import Message, reply_type


class Handler:
    """One method of one actor class, and how to decode what it takes."""

    __slots__ = ("_decode", "function", "is_stream", "message_type", "name")

    def __init__(self, message_type: type[Message[Any]], function: Callable[..., Any], *, is_async: bool) -> None:
        self.message_type = message_type
        self.function = function
        self.name = message_type.__name__
        self.is_stream = message_type.__stream__
        self._decode = decoder(message_type).decode
        expected, is_one = _FORMS[is_async, self.is_stream]
        if not is_one(function):
            kind = "StreamMessage" if self.is_stream else "Message"
            raise TypeError(f"{function.__qualname__} must be {expected}, as it takes a {kind}")

    def read(self, payload: bytes) -> Message[Any]:
        """Decode a message; one that breaks its own type's bounds is its sender's mistake."""
        try:
            return self._decode(payload)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"{self.name}: {error}") from error


def _is_plain(function: Callable[..., Any]) -> bool:
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    return not is_async and not inspect.isgeneratorfunction(function)


_FORMS: dict[tuple[bool, bool], tuple[str, Callable[[Callable[..., Any]], bool]]] = {
    (True, False): ("an async function", inspect.iscoroutinefunction),
    (True, True): ("an async generator", inspect.isasyncgenfunction),
    (False, False): ("a plain function", _is_plain),
    (False, True): ("a generator", inspect.isgeneratorfunction),
}
"""What a handler has to be, by (is_async, is_stream)."""


_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def decoder(type_: Any) -> msgspec.msgpack.Decoder[Any]:
    """The one decoder of a type: making one costs a hundred decodings."""
    found = _decoders.get(type_)
    if found is None:
        found = _decoders[type_] = msgspec.msgpack.Decoder(type_)
    return found


_reply_decoders: dict[type[Message[Any]], msgspec.msgpack.Decoder[Any]] = {}


def reply_decoder(message_type: type[Message[Any]]) -> msgspec.msgpack.Decoder[Any]:
    found = _reply_decoders.get(message_type)
    if found is None:
        found = _reply_decoders[message_type] = decoder(reply_type(message_type))
    return found


def handlers_of(cls: type, base: type, *, is_async: bool) -> dict[type[Message[Any]], Handler]:
    """Every public method that `cls` adds to `base` with a parameter `message`, by the message types that annotate it.

    Raises:
        TypeError: two methods take the same message, a parameter `message` is annotated with something else, or a
            method does not have the form (async or not, generator or not) in which its message is handled.
    """
    table: dict[type[Message[Any]], Handler] = {}
    for name in dir(cls):
        function = inspect.getattr_static(cls, name)
        is_ours = inspect.isfunction(function) and not name.startswith("_") and not hasattr(base, name)
        if not is_ours or "message" not in function.__annotations__:
            continue
        for message_type in _annotated_messages(function):
            if message_type in table:
                raise TypeError(f"{cls.__name__} has two handlers for {message_type.__name__}")
            table[message_type] = Handler(message_type, function, is_async=is_async)
    return table


def _annotated_messages(function: Callable[..., Any]) -> tuple[type[Message[Any]], ...]:
    only_message = SimpleNamespace(__annotations__={"message": function.__annotations__["message"]})
    hint = get_type_hints(only_message, globalns=function.__globals__)["message"]
    types = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for type_ in types:
        if not (isinstance(type_, type) and issubclass(type_, Message)):
            raise TypeError(
                f"{function.__qualname__} takes a message, so it is annotated with a Message, not {type_!r}"
            )
    return types

"""The dispatch table of an actor class: which method takes which message, read off the annotations."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec

from .message import Message, reply_type


class Handler:
    """One method of one actor class, and how to decode what it takes."""

    __slots__ = ("decode", "function", "is_stream", "message_type", "name")

    def __init__(self, message_type: type[Message[Any]], function: Callable[..., Any]) -> None:
        self.message_type = message_type
        self.function = function
        self.name = message_type.__name__
        self.decode = decoder(message_type).decode
        self.is_stream = message_type.__stream__
        is_generator = inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)
        if self.is_stream != is_generator:
            expected = "a generator, as its message is a StreamMessage" if self.is_stream else "no generator"
            raise TypeError(f"{function.__qualname__} must be {expected}")


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


def handlers_of(cls: type, base: type) -> dict[type[Message[Any]], Handler]:
    """Every method that `cls` adds to `base` with a parameter `message`, by the message class(es) that annotate it.

    Raises:
        TypeError: two methods take the same message, or a parameter `message` is annotated with something else.
    """
    table: dict[type[Message[Any]], Handler] = {}
    for name in dir(cls):
        function = inspect.getattr_static(cls, name)
        if not inspect.isfunction(function) or "message" not in function.__annotations__ or hasattr(base, name):
            continue
        for message_type in _annotated_messages(function):
            if message_type in table:
                raise TypeError(f"{cls.__name__} has two handlers for {message_type.__name__}")
            table[message_type] = Handler(message_type, function)
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

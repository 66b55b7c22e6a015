"""Messages: frozen data that crosses every actor boundary as MessagePack bytes.

Invariant: what an actor receives shares no object with what was sent, so nothing mutable is ever shared between actors.
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar, cast, dataclass_transform, get_args, get_origin

import msgspec

R = TypeVar("R")

encode = msgspec.msgpack.Encoder().encode


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
class _MessageMeta(msgspec.StructMeta):
    """Takes the class argument that msgspec does not know: `class Ping(Message[Pong], to="ponger")`."""

    def __new__(
        mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], *, to: str | None = None, **config: Any
    ) -> _MessageMeta:
        cls = super().__new__(mcls, name, bases, namespace, frozen=True, kw_only=True, **config)
        if to is not None:
            cls.__address__ = to
        return cls

    def __init__(
        cls,  # noqa: N805 a metaclass's self is a class
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        to: str | None = None,
        **config: Any,
    ) -> None:
        super().__init__(name, bases, namespace)

    __address__: str | None
    """The owner's address; a template such as `agents/{session_id}` is filled from the message's fields."""


class Message(msgspec.Struct, Generic[R], metaclass=_MessageMeta):
    """A message whose handler answers with an `R`.

    Its class names its owner (`to=`), so `await ask(RenameSession(…))` finds the actor by the message's type. Unknown
    fields are ignored on decoding, so that an older reader takes a newer writer's message.
    """

    __address__: ClassVar[str | None] = None
    __stream__: ClassVar[bool] = False


class StreamMessage(Message[R], Generic[R]):
    """A message whose handler is an async generator of `R`s."""

    __stream__: ClassVar[bool] = True


class Done(msgspec.Struct, frozen=True):
    """The reply of a command that has nothing to say but that it is done."""


def address_of(message: Message[Any]) -> str | None:
    """The address that `message`'s type names, with its fields filled in; None if it names none."""
    address = type(message).__address__
    if address is not None and "{" in address:
        return address.format_map(cast("dict[str, object]", _Fields(message)))
    return address


class _Fields(dict[str, object]):
    def __init__(self, message: Message[Any]) -> None:
        self._message = message

    def __missing__(self, name: str) -> object:
        return getattr(self._message, name)


def reply_type(message_type: type[Message[Any]]) -> Any:
    """The `R` of a message class, found on the class that binds it: what its handler returns or yields."""
    for cls in message_type.__mro__:
        for base in getattr(cls, "__orig_bases__", ()):
            origin = get_origin(base)
            if isinstance(origin, type) and issubclass(origin, Message):
                (bound,) = get_args(base)
                if not isinstance(bound, TypeVar):
                    return bound
    raise TypeError(f"{message_type.__name__} does not say what it is answered with: derive it from Message[Reply]")

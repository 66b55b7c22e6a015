"""Tools that are methods: `@tool` gives a method its place in the catalogue, its annotations give the schema."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, ClassVar, TypeVar, get_type_hints

import msgspec

from ...runtime import Actor
from ...runtime.errors import InvalidInput
from .protocol import Effect, Execute, ToolEvent, ToolInfo, ToolOutput


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a tool's arguments. Each field says what it is by `Annotated[…, Meta(description=…)]`."""


A = TypeVar("A", bound=Arguments)
Method = Callable[[Any, Any, Execute], Awaitable[ToolOutput | str]]
M = TypeVar("M", bound=Method)


class BuiltIn(msgspec.Struct, frozen=True):
    """One method of a toolbox, as a tool."""

    name: str
    description: str
    arguments: type[Arguments]
    method: Method
    effect: Effect
    scope: str
    subject: str

    def info(self, address: str) -> ToolInfo:
        return ToolInfo(
            self.name, self.description, schema_of(self.arguments), address, self.effect, self.scope, self.subject
        )


def tool(effect: Effect, scope: str, *, subject: str = "") -> Callable[[M], M]:
    """Make a toolbox's method a tool of its name; its docstring is what the model reads.

    The method takes its arguments (an `Arguments`) and the `Execute` that carries them.
    """

    def mark(method: M) -> M:
        setattr(method, "tool", (effect, scope, subject))  # noqa: B010 a function has no such field by its type
        return method

    return mark


class Toolbox(Actor):
    """An actor whose tools are its methods."""

    concurrency = 32
    handler_timeout_s = None  # the turn has its limit, and tools that wait on others have their own
    tools: ClassVar[dict[str, BuiltIn]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.tools = {name: _built_in(name, method) for name, method in vars(cls).items() if hasattr(method, "tool")}

    @classmethod
    def infos(cls, address: str) -> list[ToolInfo]:
        """The tools, as the actor at `address` offers them."""
        return [built_in.info(address) for built_in in cls.tools.values()]

    async def execute(self, message: Execute) -> AsyncGenerator[ToolEvent]:
        """Run the method that the call names."""
        built_in = self.tools[message.name]
        output = await built_in.method(self, read_arguments(built_in.arguments, message.arguments), message)
        yield ToolOutput(output) if isinstance(output, str) else output


def schema_of(arguments: type[Arguments]) -> dict[str, object]:
    """The JSON Schema of a tool's arguments, with nothing left to look up."""
    (schema,), parts = msgspec.json.schema_components([arguments], ref_template="#/$defs/{name}")
    own = parts.pop(arguments.__name__, schema)
    own.pop("title", None)
    return {**own, "$defs": parts} if parts else own


def read_arguments(arguments: type[A], given: dict[str, object]) -> A:
    """What the model gave, checked; raises InvalidInput, which names the argument."""
    try:
        return msgspec.convert(given, arguments)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{str(error).replace('`', '')}; {arguments.__name__} takes {_fields(arguments)}") from None


def _fields(arguments: type[Arguments]) -> str:
    fields = msgspec.structs.fields(arguments)
    return ", ".join(field.name if field.required else f"{field.name}?" for field in fields) or "nothing"


def _built_in(name: str, method: Any) -> BuiltIn:
    effect, scope, subject = method.tool
    hints = get_type_hints(method)
    arguments = hints[list(inspect.signature(method).parameters)[1]]
    return BuiltIn(name, inspect.getdoc(method) or "", arguments, method, effect, scope, subject)

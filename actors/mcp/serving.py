"""What PocketPaw offers to other programs as MCP tools: most are a message to an actor, its fields the arguments."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import cache
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from ...runtime import ActorSystem, Message, Principal
from ...runtime.errors import Forbidden, InvalidInput, NotFound, PocketPawError, Unavailable
from ...runtime.message import reply_type
from ...storage.history import GetHistory
from ...storage.memories import AddMemory, DeleteMemory
from ...storage.search import SearchSessions
from ...storage.sessions import ListSessions
from ..agent import Chat, session_topic
from ..health import GetHealth
from ..memory import FindMemories

R = TypeVar("R")
JsonObject = dict[str, object]
Effect = Literal["reads", "adds", "deletes", "acts"]
"""`acts` may do anything that the agent can, far outside of this daemon."""
Tell = Callable[[str], Awaitable[None]]
"""Told how far a call has come."""

CHANNEL = "mcp"
REFERENCE = "#/$defs/{name}"
CLIENT = "mcp client"
"""Another program's model asks, whoever provoked it: what it says and has remembered gives no orders."""

INSTRUCTIONS = """\
PocketPaw is the user's personal agent on their home server. `chat` asks it to do something with its own tools and \
memory; the other tools read its conversations, its long-term memory and its health.\
"""


class Caller(Protocol):
    """A request on behalf of somebody."""

    @property
    def principal(self) -> Principal: ...

    @property
    def system(self) -> ActorSystem: ...

    async def ask(self, message: Message[R], *, timeout_s: float = 30.0) -> R: ...


class ChatAnswer(msgspec.Struct, frozen=True):
    """What the agent said; with the same `session_id` the conversation goes on."""

    session_id: str
    content: str


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A message as a tool. `arguments` are the fields that a caller may set, with what they are."""

    message: type[Message[Any]]
    scope: str | None
    arguments: Mapping[str, str] = {}
    fixed: Mapping[str, object] = {}
    """Fields that are not the caller's to set."""
    made: Mapping[str, Callable[[], object]] = {}
    """Fields that are made where the caller leaves them out."""
    description: str = ""
    effect: Effect = "reads"
    run: Callable[[Caller, Any, Tell], Awaitable[object]] | None = None
    """What is done with the message, where more than asking its owner."""
    reply: Any = None


def new_session_id() -> str:
    return f"s-{secrets.token_hex(6)}"


async def chat(caller: Caller, message: Chat, tell: Tell) -> ChatAnswer:
    """Say something and wait for the whole reply. The turn goes on when nobody waits for it any more."""
    accepted = await caller.system.ask(message, principal=caller.principal, sender="mcp", provenance=(CLIENT,))
    failure: PocketPawError | None = None
    with caller.system.bus.subscribe(session_topic(accepted.session_id), accepted.after) as events:
        async for event in events:
            data: JsonObject = event.data()
            if data.get("turn_id") != accepted.turn_id:
                continue
            match event.name:
                case "tool_start":
                    await tell(f"uses {data['tool']}")
                case "approval_required":
                    await tell(f"waits for somebody to approve {data['tool']}")
                case "error":
                    failure = PocketPawError.from_wire(str(data.get("code", "")), str(data["detail"]), {})
                case "stream_end":
                    if failure is not None:
                        raise failure
                    return ChatAnswer(accepted.session_id, str(data["content"]))
                case _:
                    pass
    raise Unavailable(f"the reply could not be followed to its end; it will be in session {accepted.session_id}")


_SESSION = "The session's id, as list_sessions and chat name it"
_LIMIT = "How many, at most"
OFFERS: Mapping[str, Offer] = {
    "chat": Offer(
        message=Chat,
        scope="chat",
        arguments={"content": "What to say", "session_id": "Goes on with this session; without it a new one begins"},
        fixed={"channel": CHANNEL},
        made={"session_id": new_session_id},
        description="Say something to PocketPaw's agent and wait for its reply.",
        effect="acts",
        run=chat,
        reply=ChatAnswer,
    ),
    "list_sessions": Offer(
        message=ListSessions, scope="sessions", arguments={"limit": _LIMIT, "offset": "How many to leave out"}
    ),
    "get_session_history": Offer(
        message=GetHistory,
        scope="sessions",
        arguments={"session_id": _SESSION, "limit": _LIMIT, "before": "A message_id; only what was said before it"},
    ),
    "search_sessions": Offer(
        message=SearchSessions, scope="sessions", arguments={"q": "The words to look for", "limit": _LIMIT}
    ),
    "daemon_health": Offer(message=GetHealth, scope=None, description="How the daemon is, and what is wrong with it."),
    "remember": Offer(
        message=AddMemory,
        scope="memory",
        arguments={"content": "One fact, as a sentence that makes sense by itself", "tags": "Words to find it by"},
        fixed={"provenance": [CLIENT]},
        description="Keep something in PocketPaw's long-term memory.",
        effect="adds",
    ),
    "recall": Offer(
        message=FindMemories,
        scope="memory",
        arguments={"q": "What the memories should be about", "limit": _LIMIT},
        description="Find what PocketPaw's long-term memory holds about something.",
    ),
    "forget": Offer(
        message=DeleteMemory,
        scope="memory",
        arguments={"memory_id": "The memory's id, as recall names it"},
        description="Delete one memory for good.",
        effect="deletes",
    ),
}


class Described(msgspec.Struct, frozen=True):
    """A tool as a client is told of it."""

    name: str
    description: str
    arguments: JsonObject
    """The JSON Schema of what it takes."""
    reply: JsonObject
    """And of what it answers, an object."""
    effect: Effect


def described(principal: Principal) -> Iterator[Described]:
    """The tools that `principal` may use."""
    return (_describe(name) for name, offer in OFFERS.items() if offer.scope is None or principal.may(offer.scope))


async def use(caller: Caller, name: str, arguments: Mapping[str, object], tell: Tell) -> JsonObject:
    """Call a tool; the answer is JSON-shaped. Raises PocketPawError."""
    offer = OFFERS.get(name)
    if offer is None:
        raise NotFound(f"there is no tool {name!r}")
    if offer.scope is not None and not caller.principal.may(offer.scope):
        raise Forbidden(f"Missing required scope: {offer.scope}", scope=offer.scope)
    message = _read(name, offer, arguments)
    reply = await (caller.ask(message) if offer.run is None else offer.run(caller, message, tell))
    answer: Any = msgspec.to_builtins(reply)
    return answer if isinstance(answer, dict) else {"result": answer}  # pyright: ignore[reportUnknownVariableType]


def _read(name: str, offer: Offer, arguments: Mapping[str, object]) -> Message[Any]:
    if unknown := arguments.keys() - offer.arguments.keys():
        raise InvalidInput(f"{name} has no argument {', '.join(sorted(unknown))}; {_takes(offer)}")
    made = {field: make() for field, make in offer.made.items() if arguments.get(field) is None}
    try:
        return msgspec.convert({**arguments, **made, **offer.fixed}, offer.message)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{str(error).replace('`', '')}; {_takes(offer)}") from None


def _takes(offer: Offer) -> str:
    return f"it takes {', '.join(offer.arguments) or 'nothing'}"


@cache
def _describe(name: str) -> Described:
    offer = OFFERS[name]
    description = offer.description or " ".join((offer.message.__doc__ or "").split())
    reply = offer.reply or reply_type(offer.message)
    (answer,), parts = msgspec.json.schema_components([reply], schema_hook=_any, ref_template=REFERENCE)
    return Described(name, description, _schema_of(offer), _as_object(answer, parts), offer.effect)


def _schema_of(offer: Offer) -> JsonObject:
    """The schema of the message, less what is not the caller's to set."""
    _, parts = msgspec.json.schema_components([offer.message], schema_hook=_any, ref_template=REFERENCE)
    whole: dict[str, Any] = parts[offer.message.__name__]
    fields: dict[str, Any] = whole.get("properties", {})
    return {
        "type": "object",
        "properties": {field: {**fields[field], "description": text} for field, text in offer.arguments.items()},
        "required": [
            field for field in whole.get("required", ()) if field in offer.arguments.keys() - offer.made.keys()
        ],
        "additionalProperties": False,
    }


def _as_object(schema: JsonObject, parts: dict[str, JsonObject]) -> JsonObject:
    """MCP wants an object: what is none stands in its field `result`, as in `use`."""
    name = str(schema.get("$ref", "")).removeprefix(REFERENCE.format(name=""))
    if not name:
        return {"type": "object", "properties": {"result": schema}, "required": ["result"], "$defs": parts}
    others = {other: part for other, part in parts.items() if other != name}
    return {**parts[name], "$defs": others} if others else parts[name]


def _any(type_: type) -> JsonObject:
    if type_ is object:
        return {"type": ["object", "array", "string", "number", "boolean", "null"]}
    raise NotImplementedError(f"{type_!r} has no JSON Schema")

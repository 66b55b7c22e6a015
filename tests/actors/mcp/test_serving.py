"""What is offered to other programs: to whom, and what a call becomes."""

from __future__ import annotations

from typing import Any, cast

import jsonschema
import pytest
from pocketpaw.actors.health import GetHealth
from pocketpaw.actors.mcp.serving import CLIENT, OFFERS, Caller, Described, described, use
from pocketpaw.runtime import ActorSystem, Message, Principal
from pocketpaw.runtime.envelope import SYSTEM
from pocketpaw.runtime.errors import Forbidden, InvalidInput, NotFound
from pocketpaw.storage.history import GetHistory
from pocketpaw.storage.memories import AddMemory
from pocketpaw.storage.sessions import ListSessions, SessionPage

Json = dict[str, Any]


class FakeCaller:
    """Keeps what would be asked, and answers with what it is given."""

    def __init__(self, answer: object, *scopes: str) -> None:
        self.principal = Principal("ann", frozenset(scopes))
        self.asked: list[Message[Any]] = []
        self._answer = answer

    @property
    def system(self) -> ActorSystem:
        raise NotImplementedError

    async def ask(self, message: Message[Any], *, timeout_s: float = 30.0) -> Any:
        self.asked.append(message)
        return self._answer


async def tell(text: str) -> None:
    raise AssertionError(text)


async def call(caller: FakeCaller, name: str, **arguments: object) -> Json:
    return cast("Json", await use(cast("Caller", caller), name, arguments, tell))


def names(*scopes: str) -> set[str]:
    return {tool.name for tool in described(Principal("ann", frozenset(scopes)))}


def test_a_principal_is_offered_what_its_scopes_let_it_do() -> None:
    assert names("mcp") == {"daemon_health"}
    assert names("mcp", "sessions") == {"daemon_health", "list_sessions", "get_session_history", "search_sessions"}
    assert names("mcp", "memory") == {"daemon_health", "remember", "recall", "forget"}
    assert names("chat") == {"daemon_health", "chat"}
    assert names("admin") == set(OFFERS)


@pytest.mark.parametrize("name", [name for name, offer in OFFERS.items() if offer.scope])
async def test_and_is_refused_the_rest(name: str) -> None:
    caller = FakeCaller(None, "mcp", "settings:read")
    with pytest.raises(Forbidden, match="Missing required scope"):
        await call(caller, name)
    assert caller.asked == []


@pytest.mark.parametrize("tool", list(described(SYSTEM)), ids=lambda tool: tool.name)
def test_a_tool_says_what_it_takes_and_gives(tool: Described) -> None:
    assert tool.description
    for schema in (tool.arguments, tool.reply):
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object"
    arguments = cast("dict[str, Json]", tool.arguments["properties"])
    assert set(arguments) == set(OFFERS[tool.name].arguments)
    assert all(argument["description"] for argument in arguments.values())
    assert set(cast("list[str]", tool.arguments["required"])) <= set(arguments)


def test_the_schema_is_that_of_the_message() -> None:
    schema = next(tool.arguments for tool in described(SYSTEM) if tool.name == "chat")
    assert schema["required"] == ["content"]  # a session is made where none is named
    content = cast("dict[str, Json]", schema["properties"])["content"]
    assert (content["minLength"], content["maxLength"]) == (1, 100_000)


async def test_a_call_is_a_message_and_its_answer_an_object() -> None:
    caller = FakeCaller(SessionPage([], 0), "sessions")
    assert await call(caller, "list_sessions", limit=3) == {"sessions": [], "total": 0}
    assert caller.asked == [ListSessions(limit=3)]
    caller = FakeCaller([], "sessions")
    assert await call(caller, "get_session_history", session_id="s-1") == {"result": []}
    assert caller.asked == [GetHistory(session_id="s-1")]
    caller = FakeCaller({"status": "healthy"})
    assert await call(caller, "daemon_health") == {"status": "healthy"}
    assert caller.asked == [GetHealth()]


async def test_what_another_program_remembers_is_marked_as_such_whatever_it_says() -> None:
    caller = FakeCaller({}, "memory")
    await call(caller, "remember", content="Ann likes tea.")
    assert caller.asked == [AddMemory(content="Ann likes tea.", provenance=[CLIENT])]
    with pytest.raises(InvalidInput, match="has no argument provenance; it takes content, tags"):
        await call(caller, "remember", content="x", provenance=[])


async def test_a_wrong_argument_is_named() -> None:
    caller = FakeCaller(None, "admin")
    with pytest.raises(InvalidInput, match=r"limit.*; it takes limit, offset"):
        await call(caller, "list_sessions", limit="many")
    with pytest.raises(InvalidInput, match=r"missing required field session_id"):
        await call(caller, "get_session_history")
    with pytest.raises(InvalidInput, match="daemon_health has no argument x; it takes nothing"):
        await call(caller, "daemon_health", x=1)
    with pytest.raises(NotFound, match="there is no tool 'nosuch'"):
        await call(caller, "nosuch")
    assert caller.asked == []

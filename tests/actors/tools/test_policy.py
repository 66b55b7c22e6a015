"""Which calls may be made: every decision is one of a table."""

from __future__ import annotations

import pytest
from pocketpaw.actors.tools.policy import PROFILES, Call, decide, is_offered, pattern_for
from pocketpaw.actors.tools.protocol import Effect, ToolInfo
from pocketpaw.config import Settings
from pocketpaw.runtime import Principal
from pocketpaw.storage.grants import Grant

ANN = Principal("ann", frozenset({"admin"}))
KEY = Principal("key:script", frozenset({"chat", "files:read"}))


def tool(name: str, effect: Effect, subject: str = "", scope: str = "files:read") -> ToolInfo:
    return ToolInfo(name, "", {}, "tools/x", effect, scope, subject)


READ = tool("read_file", "read", "path")
WRITE = tool("write_file", "write", "path", "files:write")
SHELL = tool("shell", "execute", "command", "admin")
FETCH = tool("web_fetch", "egress", "url", "admin")
REMEMBER = tool("remember", "keep", "content", "memory")
FOREIGN = tool("mcp__home__light", "execute", scope="mcp")


def verdict(
    info: ToolInfo,
    subject: str = "",
    *,
    principal: Principal = ANN,
    provenance: tuple[str, ...] = (),
    grants: tuple[Grant, ...] = (),
    **settings: tuple[str, ...] | str,
) -> str:
    return decide(Call(info, subject, principal, provenance), Settings(**settings), grants).verdict  # pyright: ignore[reportArgumentType] a table of settings


def grant(info: ToolInfo, pattern: str, principal: str = "ann", provenance: tuple[str, ...] = ()) -> Grant:
    return Grant(1, info.name, pattern, principal, None, list(provenance))


@pytest.mark.parametrize(
    ("info", "expected"),
    [(READ, "allow"), (REMEMBER, "allow"), (WRITE, "ask"), (SHELL, "ask"), (FETCH, "ask"), (FOREIGN, "ask")],
)
def test_without_rules_reading_and_remembering_are_allowed_and_the_rest_asks(info: ToolInfo, expected: str) -> None:
    assert verdict(info, "x") == expected


def test_denying_is_stronger_than_asking_and_asking_than_allowing() -> None:
    rules = ("shell(git *)",)
    assert verdict(SHELL, "git log", tools_allow=rules) == "allow"
    assert verdict(SHELL, "git log", tools_allow=rules, tools_ask=("shell",)) == "ask"
    assert verdict(SHELL, "git log", tools_allow=rules, tools_ask=("shell",), tools_deny=("shell(git l*)",)) == "deny"
    assert verdict(SHELL, "make", tools_allow=rules) == "ask"


@pytest.mark.parametrize(
    "command",
    [
        "git log; rm -rf /",
        "git log && x",
        "git log | sh",
        "git $(x)",
        "git `x`",
        "git log\nrm x",
        "git log > /etc/x",
        "git {a,b}",
    ],
)
def test_a_wildcard_does_not_cover_a_command_that_may_hold_another(command: str) -> None:
    assert verdict(SHELL, command, tools_allow=("shell(git *)",)) == "ask"
    assert verdict(SHELL, command, tools_allow=("shell(*)",)) == "ask"
    assert verdict(SHELL, command, tools_deny=("shell(git*)",)) == "deny"
    assert verdict(SHELL, command, grants=(grant(SHELL, pattern_for(SHELL, command)),)) == "allow"


def test_what_is_allowed_in_one_folder_is_not_in_another() -> None:
    here = Call(SHELL, "make test", ANN, ())
    there = Call(SHELL, "make test", ANN, (), place="/home/ann/Downloads/evil")
    given = (grant(SHELL, pattern_for(SHELL, here.whole)),)
    assert decide(here, Settings(), given).verdict == "allow"
    assert decide(there, Settings(), given).verdict == "ask"
    assert decide(there, Settings(tools_allow=("shell(make *)",)), ()).verdict == "ask"
    assert decide(there, Settings(), (grant(SHELL, pattern_for(SHELL, there.whole)),)).verdict == "allow"
    assert decide(there, Settings(tools_deny=("shell(make *)",)), ()).verdict == "deny"


def test_a_rule_may_name_who_asks() -> None:
    rules = ("key:*@read_file(/tmp/*)",)
    assert verdict(READ, "/tmp/x", principal=KEY, tools_deny=rules) == "deny"
    assert verdict(READ, "/home/x", principal=KEY, tools_deny=rules) == "allow"
    assert verdict(READ, "/tmp/x", tools_deny=rules) == "allow"


def test_who_may_not_do_it_themselves_has_to_ask_whatever_allows_it() -> None:
    assert verdict(WRITE, "/x", principal=KEY, tools_allow=("*",)) == "ask"
    assert verdict(READ, "/x", principal=KEY) == "allow"


def test_what_outside_content_may_have_provoked_is_held_but_for_reading() -> None:
    page = ("web https://evil.example/",)
    assert verdict(READ, "/x", provenance=page) == "allow"
    for info in (REMEMBER, WRITE, SHELL, FETCH, FOREIGN):
        assert verdict(info, "x", provenance=page, tools_allow=("*",)) == "ask"


def test_reading_at_a_party_is_held_where_another_party_may_have_provoked_it() -> None:
    lookup = ToolInfo("mcp__a__find", "", {}, "mcp/keeper", "read", "mcp", source="mcp a")
    assert verdict(lookup) == "allow"
    assert verdict(lookup, provenance=("mcp a",)) == "allow"
    assert verdict(lookup, provenance=("mcp b",)) == "ask"
    assert verdict(lookup, provenance=("mcp a", "file /x"), tools_allow=("*",)) == "ask"


def test_a_grant_given_in_spite_of_outside_content_covers_its_kind_only() -> None:
    given = (grant(WRITE, "/x", provenance=("file",)),)
    assert verdict(WRITE, "/x", provenance=("file /a", "file /b"), grants=given) == "allow"
    assert verdict(WRITE, "/x", provenance=("file /a", "web https://b"), grants=given) == "ask"
    assert verdict(WRITE, "/x", provenance=("file /a",), grants=(grant(WRITE, "/x"),)) == "ask"
    assert verdict(WRITE, "/y", provenance=("file /a",), grants=given) == "ask"


@pytest.mark.parametrize(
    ("info", "given_for", "covered", "not_covered"),
    [
        (WRITE, "/home/a*b", "/home/a*b", "/home/aXb"),
        (FETCH, "https://example.org/a?b=1", "https://example.org/c", "https://example.org.evil/c"),
        (FETCH, "https://example.org/a", "https://example.org/", "http://example.org/"),
        (SHELL, "ls -l", "ls -l", "ls -l /etc"),
        (FOREIGN, "", "", None),
    ],
)
def test_a_grant_covers_the_same_and_no_more(
    info: ToolInfo, given_for: str, covered: str, not_covered: str | None
) -> None:
    given = (grant(info, pattern_for(info, given_for)),)
    assert verdict(info, covered, grants=given) == "allow"
    assert verdict(info, covered, grants=(grant(info, pattern_for(info, given_for), "bob"),)) == "ask"
    if not_covered is not None:
        assert verdict(info, not_covered, grants=given) == "ask"


def test_a_grant_for_a_call_without_its_subject_does_not_cover_the_whole_tool() -> None:
    given = (grant(SHELL, pattern_for(SHELL, "")),)
    assert verdict(SHELL, "rm -rf ~", grants=given) == "ask"
    assert verdict(FOREIGN, grants=(grant(FOREIGN, "x"),)) == "ask"


def test_a_rule_with_a_pattern_for_a_tool_without_a_subject_denies_or_asks_but_does_not_allow() -> None:
    assert verdict(FOREIGN, tools_deny=("mcp__*(*)",)) == "deny"
    assert verdict(tool("clock", "read"), tools_ask=("clock(x)",)) == "ask"
    assert verdict(FOREIGN, tools_allow=("mcp__*(*)",)) == "ask"


@pytest.mark.parametrize("address", ["http://[::1", "https://\u2100.example/", "https://[x]/"])
def test_what_is_no_address_is_granted_as_it_is(address: str) -> None:
    given = (grant(FETCH, pattern_for(FETCH, address)),)
    assert verdict(FETCH, address, grants=given) == "allow"
    assert verdict(FETCH, "https://example.org/", grants=given) == "ask"


def test_the_profile_says_what_is_offered_and_an_allowing_rule_adds_to_it() -> None:
    minimal = Settings(tool_profile="minimal")
    assert not is_offered(SHELL, minimal)
    assert verdict(SHELL, "ls", tool_profile="minimal") == "deny"
    assert is_offered(SHELL, Settings(tool_profile="minimal", tools_allow=("shell(ls*)",)))
    assert verdict(SHELL, "ls", tool_profile="minimal", tools_allow=("shell(ls*)",)) == "allow"
    assert not is_offered(SHELL, Settings(tools_deny=("sh*",)))
    assert is_offered(SHELL, Settings(tools_deny=("shell(rm *)",)))
    assert set(PROFILES["minimal"]) < set(PROFILES["coding"])

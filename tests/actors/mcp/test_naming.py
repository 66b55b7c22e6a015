from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pocketpaw.actors.mcp.naming import may_be_of, tool_name

NAMES = st.text("ab_-9", min_size=1, max_size=64)
TOOLS = st.text("ab_-9. /é", min_size=1, max_size=80)


@pytest.mark.parametrize(
    ("server", "tool", "expected"),
    [
        ("time", "get_current_time", "mcp__time__get_current_time"),
        ("my-files", "read", "mcp__my-files__read"),
        ("time", "get.now", "mcp__time__get_now_"),
        ("a__b", "c", "mcp__a__b__c_"),
        ("time", "t" * 80, "mcp__time__tttt"),
    ],
)
def test_a_name_is_kept_where_it_can_be(server: str, tool: str, expected: str) -> None:
    assert tool_name(server, tool).startswith(expected)


@given(NAMES, TOOLS)
def test_every_name_is_one_that_models_take(server: str, tool: str) -> None:
    name = tool_name(server, tool)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name)
    assert may_be_of(server, name)


@given(NAMES, TOOLS, NAMES, TOOLS)
def test_two_tools_never_share_a_name(server: str, tool: str, other_server: str, other_tool: str) -> None:
    if (server, tool) != (other_server, other_tool):
        assert tool_name(server, tool) != tool_name(other_server, other_tool)


@given(st.text("a_", min_size=1, max_size=4), st.text("a_", min_size=1, max_size=4), st.data())
def test_where_the_server_ends_and_the_tool_begins_is_no_matter(server: str, tool: str, data: st.DataObject) -> None:
    joined = f"{server}__{tool}"
    cuts = [at for at in range(1, len(joined) - 2) if joined[at : at + 2] == "__"]
    at = data.draw(st.sampled_from(cuts))
    other = (joined[:at], joined[at + 2 :])
    if other != (server, tool):
        assert tool_name(server, tool) != tool_name(*other)

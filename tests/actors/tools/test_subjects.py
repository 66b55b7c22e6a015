"""What rules are matched against: paths and addresses in the one form that they lead to."""

from __future__ import annotations

from pathlib import Path

import pytest
from pocketpaw.actors.tools.jail import Jail
from pocketpaw.actors.tools.protocol import Effect, ToolInfo
from pocketpaw.actors.tools.subjects import place_of, subject_of

SCHEMA: dict[str, object] = {"properties": {"path": {"default": "."}, "odd": True}}


def tool(effect: Effect, subject: str) -> ToolInfo:
    return ToolInfo("x", "", SCHEMA, "tools/x", effect, "chat", subject)


@pytest.fixture
def jail(tmp_path: Path) -> Jail:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    return Jail(str(tmp_path), tmp_path / "own")


async def test_a_path_is_the_one_that_it_leads_to_also_where_it_is_left_out(jail: Jail) -> None:
    files = tool("read", "path")
    real = str(jail.root)
    assert await subject_of(files, {}, jail) == real
    assert await subject_of(files, {"path": "link/../link/a"}, jail) == f"{real}/real/a"
    assert await subject_of(files, {"path": "/etc/passwd"}, jail) == "/etc/passwd"
    assert await subject_of(files, {"path": "a\0b"}, jail) == "a\0b"


@pytest.mark.parametrize("given", [{}, {"path": None}, {"path": 3}, {"odd": []}])
async def test_what_is_no_text_is_no_subject(jail: Jail, given: dict[str, object]) -> None:
    assert await subject_of(tool("write", "odd"), given, jail) == ""


@pytest.mark.parametrize(
    "url", ["https://EXAMPLE.org/a", "https://example.org:443/a", "https://example\u3002org/a", "https://example.org/a"]
)
async def test_an_address_is_in_its_plainest_form(jail: Jail, url: str) -> None:
    assert await subject_of(tool("egress", "url"), {"url": url}, jail) == "https://example.org/a"


async def test_what_is_no_address_is_left_as_it_is(jail: Jail) -> None:
    assert await subject_of(tool("egress", "url"), {"url": "http://[::1"}, jail) == "http://[::1"


async def test_a_commands_place_is_named_where_it_is_not_the_usual_one(jail: Jail) -> None:
    shell = tool("execute", "command")
    assert await place_of(shell, {"command": "ls"}, jail) == ""
    assert await place_of(shell, {"command": "ls", "cwd": "."}, jail) == ""
    assert await place_of(shell, {"command": "ls", "cwd": "link"}, jail) == f"{jail.root}/real"
    assert await place_of(tool("read", "path"), {"cwd": "link"}, jail) == ""

from __future__ import annotations

from typing import Literal

import msgspec
from pocketpaw.storage.sessions import DeleteSession
from pocketpaw.storage.tool_calls import EndCall
from pocketpaw.storage.written_files import ListWrittenFiles

from .conftest import Ask
from .test_tool_calls import begin, call


def written(
    write: Ask, number: int, tool: str, arguments: dict[str, object], state: Literal["done", "failed"] = "done"
) -> None:
    begun = write(msgspec.structs.replace(call("running", number=number), tool=tool, arguments=arguments))
    write(EndCall(call_id=begun.id, claim="boot-1/1", state=state, output="made"))


def test_what_tools_have_written_is_listed_newest_first(write: Ask, read: Ask) -> None:
    begin(write)
    written(write, 0, "write_file", {"path": "a.md", "content": "x" * 10_000})
    written(write, 1, "read_file", {"path": "b.md"})
    written(write, 2, "edit_file", {"path": 'ü "c".md', "old_text": "x", "new_text": "y"})
    written(write, 3, "write_file", {"path": "d.md", "content": ""}, "failed")
    written(write, 4, "write_file", {"content": "nowhere"})
    written(write, 5, "write_file", {"path": "a.md", "content": "again"})
    write(msgspec.structs.replace(call("running", number=6), tool="write_file", arguments={"path": "e.md"}))
    found = read(ListWrittenFiles())
    assert [(one.path, one.tool) for one in found] == [
        ("a.md", "write_file"),
        ('ü "c".md', "edit_file"),
        ("a.md", "write_file"),
    ]
    assert found[0].timestamp >= found[1].timestamp
    assert [one.path for one in read(ListWrittenFiles(limit=1))] == ["a.md"]
    write(DeleteSession(session_id="s-1"))
    assert len(read(ListWrittenFiles())) == 3


def test_nothing_written_is_nothing(read: Ask) -> None:
    assert read(ListWrittenFiles()) == []

"""What becomes of a tool's call is in the audit in the same transaction, once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec
import pytest
from pocketpaw.runtime.errors import Conflict
from pocketpaw.storage.audit import AuditEntry, AuditHead, CheckAuditPage, ListAudit
from pocketpaw.storage.tool_calls import DecideCall, EndCall, ExpireCall, FindCall, OpenCall, StartCall

from .conftest import Ask
from .test_tool_calls import call
from .test_turns import done, question

LATER = datetime(2100, 1, 1, tzinfo=UTC)


def entries(read: Ask) -> list[AuditEntry]:
    assert read(CheckAuditPage(after=AuditHead())).problems == []
    return read(ListAudit())


def opened(write: Ask, state: Literal["waiting", "running", "denied"]) -> OpenCall:
    write(question("t-1"))
    made = msgspec.structs.replace(call(state), arguments={"path": "a-canary"}, provenance=["web https://a.example"])
    return msgspec.structs.replace(made, expires_at=LATER) if state == "waiting" else made


@pytest.mark.parametrize(
    ("state", "status"), [("done", "success"), ("failed", "failed"), ("interrupted", "interrupted")]
)
def test_a_call_that_was_made_is_entered_when_it_ends(write: Ask, read: Ask, state: str, status: str) -> None:
    made = write(opened(write, "running"))
    assert entries(read) == []
    end = EndCall(call_id=made.id, claim="boot-1/1", state=state, output="a-canary")  # pyright: ignore[reportArgumentType]
    for _ in range(2):
        write(end)
    (entry,) = entries(read)
    assert (entry.actor, entry.action, entry.category, entry.status) == (made.principal, "call_tool", "tools", status)
    assert entry.context["request_id"] == made.request_id
    assert entry.context["provenance"] == ["web https://a.example"]
    assert "canary" not in str(entry)


def test_one_that_is_denied_at_once_is_entered(write: Ask, read: Ask) -> None:
    denied = opened(write, "denied")
    for _ in range(2):
        write(denied)
    (entry,) = entries(read)
    assert (entry.action, entry.status) == ("call_tool", "refused")


@pytest.mark.parametrize(("approved", "action"), [(True, "approve_tool"), (False, "deny_tool")])
def test_a_decision_is_entered_with_who_took_it(write: Ask, read: Ask, approved: bool, action: str) -> None:
    made = write(opened(write, "waiting"))
    decide = DecideCall(request_id=made.request_id, approved=approved, scope="session", by="master")
    write(decide)
    with pytest.raises(Conflict):
        write(decide)
    (entry,) = entries(read)
    assert (entry.actor, entry.action, entry.status) == ("master", action, "success")
    assert entry.context.get("approved_for") == ("session" if approved else None)


def test_a_call_that_nobody_decided_or_ended_is_entered(write: Ask, read: Ask) -> None:
    made = write(opened(write, "waiting"))
    for _ in range(2):
        write(ExpireCall(call_id=made.id))
    assert [entry.status for entry in entries(read)] == ["refused"]


def test_a_call_that_was_lost_is_entered(write: Ask, read: Ask) -> None:
    made = write(opened(write, "running"))
    assert made.turn_id is not None
    for _ in range(2):
        write(FindCall(turn_id=made.turn_id, step=made.step, number=made.number))
    assert [entry.status for entry in entries(read)] == ["interrupted"]


def test_what_a_turn_leaves_open_is_entered_with_its_end(write: Ask, read: Ask) -> None:
    write(opened(write, "running"))
    write(done("t-1", "bye"))
    assert [(entry.action, entry.status) for entry in entries(read)] == [("call_tool", "interrupted")]


def test_a_command_that_fails_leaves_no_entry(write: Ask, read: Ask) -> None:
    made = write(opened(write, "waiting"))
    with pytest.raises(Conflict):
        write(StartCall(call_id=made.id, claim="boot-1/1"))
    assert entries(read) == []

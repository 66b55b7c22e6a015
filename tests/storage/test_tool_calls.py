"""A turn's steps, its calls, what was granted for them, and summaries."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Literal

import msgspec
import pytest
from pocketpaw.runtime.errors import Conflict, NotFound
from pocketpaw.storage.grants import ListGrants, RevokeGrant
from pocketpaw.storage.sessions import CreateSession, DeleteSession
from pocketpaw.storage.steps import AddStep, ListSteps, Step, StepCall
from pocketpaw.storage.summaries import GetSummary, KeepSummary, Summary
from pocketpaw.storage.tables import utc_now
from pocketpaw.storage.tool_calls import (
    DecideCall,
    EndCall,
    ExpireCall,
    FindCall,
    GetCall,
    GrantScope,
    ListCalls,
    ListWaitingCalls,
    OpenCall,
    StartCall,
)
from pocketpaw.storage.turns import AddTurn, ClaimTurn, FinishTurn, GetTurn
from pocketpaw.storage.usage import GetUsage, Usage

from .conftest import Ask

STEP = Step(0, "I look.", [StepCall("c-1", "look", '{"path": "/a"}')], [{"text": "hm", "signature": "s"}])


def begin(write: Ask, turn_id: str = "t-1", session_id: str = "s-1") -> None:
    write(
        AddTurn(
            session_id=session_id,
            turn_id=turn_id,
            content="hello",
            channel="api",
            state="running",
            boot_id="boot-1",
            principal="ann",
        )
    )


def call(
    state: Literal["waiting", "running", "denied"] = "waiting",
    *,
    number: int = 0,
    turn_id: str = "t-1",
    claim: str = "boot-1/1",
    timeout_s: float = 60,
) -> OpenCall:
    return OpenCall(
        request_id=f"a-{turn_id}-{number}",
        turn_id=turn_id,
        session_id="s-1",
        step=0,
        number=number,
        tool="put",
        arguments={"path": "/x"},
        effect="write",
        scope="files:write",
        principal="ann",
        provenance=["file /a", "web https://b", "file /c"],
        pattern="/x",
        state=state,
        reason="it changes something",
        claim=claim,
        expires_at=utc_now() + timedelta(seconds=timeout_s) if state == "waiting" else None,
    )


def decide(approved: bool = True, scope: GrantScope = "once", number: int = 0) -> DecideCall:
    return DecideCall(request_id=f"a-t-1-{number}", approved=approved, scope=scope, by="bob")


# Steps ----------------------------------------------------------------------------------------------------------------


def test_a_step_is_kept_as_it_was_and_counts_the_attempts_anew(write: Ask, read: Ask) -> None:
    begin(write)
    write(ClaimTurn(turn_id="t-1", boot_id="boot-1"))
    write(AddStep(turn_id="t-1", boot_id="boot-1", step=STEP))
    write(AddStep(turn_id="t-1", boot_id="boot-1", step=STEP))
    assert read(ListSteps(turn_id="t-1")) == [STEP]
    assert read(GetTurn(turn_id="t-1")).attempts == 1
    with pytest.raises(Conflict, match=r"step 0 of .* is another one"):
        write(AddStep(turn_id="t-1", boot_id="boot-1", step=msgspec.structs.replace(STEP, content="No.")))


def test_only_the_boot_that_runs_a_turn_adds_to_it(write: Ask) -> None:
    begin(write)
    with pytest.raises(Conflict):
        write(AddStep(turn_id="t-1", boot_id="boot-0", step=STEP))
    write(FinishTurn(turn_id="t-1", boot_id="boot-1", state="done", content="ok"))
    with pytest.raises(Conflict):
        write(AddStep(turn_id="t-1", boot_id="boot-1", step=STEP))


# Calls ----------------------------------------------------------------------------------------------------------------


def test_a_call_is_opened_once(write: Ask) -> None:
    begin(write)
    first = write(call())
    again = write(msgspec.structs.replace(call("denied"), request_id="a-other"))
    assert first.created
    assert again == msgspec.structs.replace(first, created=False)


def test_what_became_of_a_call_that_was_running_is_not_known(write: Ask, read: Ask) -> None:
    begin(write)
    opened = write(call("running"))
    assert opened.state == "running"
    assert write(call("running", claim="boot-2/1")).state == "interrupted"
    late = write(EndCall(call_id=opened.id, claim="boot-1/1", state="done", output="late"))
    assert (late.state, late.output) == ("interrupted", None)


def test_only_who_runs_a_call_ends_it(write: Ask) -> None:
    begin(write)
    opened = write(call("running"))
    assert write(EndCall(call_id=opened.id, claim="boot-0/1", state="failed")).state == "running"
    ended = write(EndCall(call_id=opened.id, claim="boot-1/1", state="done", output="ok", source="file /x"))
    assert (ended.state, ended.output, ended.source) == ("done", "ok", "file /x")


def test_a_call_that_waits_is_decided_once_and_started_once(write: Ask, read: Ask) -> None:
    begin(write)
    opened = write(call())
    with pytest.raises(Conflict, match="waiting"):
        write(StartCall(call_id=opened.id, claim="boot-1/1"))
    assert write(decide()).state == "approved"
    with pytest.raises(Conflict, match="approved"):
        write(decide(approved=False))
    assert read(GetCall(request_id="a-t-1-0")).decided_by == "bob"
    assert write(StartCall(call_id=opened.id, claim="boot-1/1")).state == "running"
    with pytest.raises(Conflict, match="running"):
        write(StartCall(call_id=opened.id, claim="boot-1/2"))


@pytest.mark.parametrize("end", ["time", "word"])
def test_what_has_expired_cannot_be_approved(write: Ask, end: str) -> None:
    begin(write)
    opened = write(call(timeout_s=-1 if end == "time" else 60))
    if end == "word":
        assert write(ExpireCall(call_id=opened.id)).state == "expired"
    with pytest.raises(Conflict, match="expired"):
        write(decide())


def test_a_decision_in_time_is_stronger_than_the_clock(write: Ask) -> None:
    begin(write)
    opened = write(call())
    write(decide())
    assert write(ExpireCall(call_id=opened.id)).state == "approved"


def test_a_turn_that_has_ended_leaves_nothing_open_and_makes_no_more_calls(write: Ask, read: Ask) -> None:
    begin(write)
    for number, state in enumerate(("waiting", "running", "denied")):
        write(call(state, number=number))
    write(FinishTurn(turn_id="t-1", boot_id="boot-1", state="stopped"))
    assert [one.state for one in read(ListCalls(turn_id="t-1"))] == ["interrupted", "interrupted", "denied"]
    assert read(ListWaitingCalls()) == []
    with pytest.raises(Conflict, match="no more calls"):
        write(call(number=7))


def test_waiting_for_a_person_is_no_attempt(write: Ask, read: Ask) -> None:
    begin(write)
    write(call())
    for boot in range(2, 9):
        assert write(ClaimTurn(turn_id="t-1", boot_id=f"boot-{boot}")).state == "running"
    assert [one.request_id for one in read(ListWaitingCalls(session_id="s-1"))] == ["a-t-1-0"]
    assert read(ListWaitingCalls(session_id="s-2")) == []


def test_waiting_for_nobody_is_an_attempt(write: Ask) -> None:
    begin(write)
    write(call(timeout_s=-1))
    states = [write(ClaimTurn(turn_id="t-1", boot_id=f"boot-{boot}")).state for boot in range(2, 5)]
    assert states == ["running", "running", "interrupted"]


def test_the_record_of_a_call_outlives_its_session(write: Ask, read: Ask) -> None:
    begin(write)
    write(call("denied"))
    write(DeleteSession(session_id="s-1"))
    kept = read(GetCall(request_id="a-t-1-0"))
    assert (kept.session_id, kept.turn_id, kept.tool) == ("s-1", None, "put")


def test_a_call_of_a_session_that_was_deleted_is_not_made(write: Ask, read: Ask) -> None:
    begin(write)
    opened = write(call())
    write(decide())
    write(DeleteSession(session_id="s-1"))
    with pytest.raises(Conflict, match="deleted"):
        write(StartCall(call_id=opened.id, claim="boot-1/1"))


@pytest.mark.parametrize("scope", ["once", "session", "always"])
def test_a_call_of_a_session_that_was_deleted_cannot_be_approved(write: Ask, read: Ask, scope: GrantScope) -> None:
    begin(write)
    write(call())
    write(DeleteSession(session_id="s-1"))
    with pytest.raises(Conflict, match="of a session that was deleted"):
        write(decide(scope=scope))
    assert read(ListGrants()) == []


def test_a_call_is_found_at_its_place_as_it_stands(write: Ask) -> None:
    begin(write)
    place = FindCall(turn_id="t-1", step=0, number=0)
    assert write(place) is None
    opened = write(call("running"))
    found = write(place)
    assert found == msgspec.structs.replace(opened, state="interrupted", created=False)
    assert write(place) == found


def test_what_nobody_can_approve_any_more_is_not_listed(write: Ask, read: Ask) -> None:
    begin(write)
    write(call(timeout_s=-1))
    write(call(number=1))
    assert [one.number for one in read(ListWaitingCalls())] == [1]
    write(DeleteSession(session_id="s-1"))
    assert read(ListWaitingCalls()) == []


def test_a_request_that_there_is_not_is_not_found(write: Ask, read: Ask) -> None:
    missing: list[Callable[[], object]] = [lambda: write(decide()), lambda: read(GetCall(request_id="x"))]
    for ask in missing:
        with pytest.raises(NotFound):
            ask()


# Grants ---------------------------------------------------------------------------------------------------------------


def test_an_approval_beyond_once_is_a_grant_with_the_kinds_that_it_was_given_in_spite_of(write: Ask, read: Ask) -> None:
    begin(write)
    for number, scope in enumerate(("once", "session", "always")):
        write(call(number=number))
        write(msgspec.convert({**msgspec.structs.asdict(decide(number=number)), "scope": scope}, DecideCall))
    here = read(ListGrants(tool="put", session_id="s-1"))
    assert [grant.session_id for grant in here] == ["s-1", None]
    assert here[0].provenance == ["file", "web"]
    assert [grant.session_id for grant in read(ListGrants(tool="put", session_id="s-2"))] == [None]
    write(RevokeGrant(grant_id=here[0].id))
    assert [grant.id for grant in read(ListGrants())] == [here[1].id]
    with pytest.raises(NotFound):
        write(RevokeGrant(grant_id=here[0].id))


def test_denying_grants_nothing(write: Ask, read: Ask) -> None:
    begin(write)
    write(call())
    write(decide(approved=False, scope="always"))
    assert read(ListGrants()) == []


# Usage and summaries --------------------------------------------------------------------------------------------------


def test_what_two_models_took_is_summed_for_the_turn_and_kept_for_each(write: Ask, read: Ask) -> None:
    begin(write)
    spent = [Usage(1, 2, 3, "small", "a", 0.5), Usage(10, 20, 30, "big", "b", 1.0)]
    finished = write(FinishTurn(turn_id="t-1", boot_id="boot-1", state="done", content="x", usage=spent))
    assert finished.usage == Usage(11, 22, 33, "big", "b", 1.5)
    assert read(GetTurn(turn_id="t-1")).usage == finished.usage
    assert {name: share.total_tokens for name, share in read(GetUsage()).by_model.items()} == {"small": 3, "big": 30}


def test_a_newer_summary_takes_the_place_of_the_older(write: Ask, read: Ask) -> None:
    write(CreateSession(session_id="s-1"))
    assert read(GetSummary(session_id="s-1")) is None
    for up_to in ("3", "9"):
        write(KeepSummary(session_id="s-1", up_to=up_to, content=f"to {up_to}", provenance=["web x"]))
    assert read(GetSummary(session_id="s-1")) == Summary("9", "to 9", ["web x"])

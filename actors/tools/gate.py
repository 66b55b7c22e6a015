"""The gate: the one door to every tool. It asks policy, asks people where policy says so, and keeps a record of each
call, so that none is made twice whatever dies meanwhile.

Invariant: a call is made only when the store says that this life of the gate runs it.
"""

from __future__ import annotations

import contextlib
import math
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from typing import Annotated, Literal, TypeVar

import msgspec
import structlog
import trio

from ...config.logs import Redactor
from ...runtime import Actor, Message
from ...runtime.errors import (
    ActorDied,
    Conflict,
    DeliveryFailure,
    Forbidden,
    InvalidInput,
    PocketPawError,
    TooManyRequests,
    Unavailable,
)
from ...runtime.message import StreamMessage
from ...storage.grants import Grant, ListGrants
from ...storage.tables import utc_now
from ...storage.tool_calls import (
    CallRecord,
    DecideCall,
    EndCall,
    ExpireCall,
    FindCall,
    GetCall,
    GrantScope,
    ListWaitingCalls,
    OpenCall,
    RequestId,
    StartCall,
)
from ..settings import LiveSettings
from .catalogue import Catalogue
from .jail import Jail
from .policy import Call, Decision, decide, pattern_for
from .protocol import Execute, ToolEvent, ToolInfo, ToolOutput, ToolProgress
from .subjects import place_of, subject_of

R = TypeVar("R")

log = structlog.get_logger()

EVENTS = "events"

OUTPUT_LIMIT = 100_000
"""Characters of an output that are kept and told; executors have smaller limits of their own."""

WAITING_LIMIT = 500
"""Calls that may wait for people, of all sessions; the rest of what the gate can do at once is for their words."""

LOOK_S = 15.0
"""How often a call that waits is looked at, should nobody say that its session is gone."""

STORE_PAUSES_S = (0.05, 0.5)
"""Before the store is asked again for what it failed to do: its writer may just be starting anew."""

LAST_WORDS_S = 0.5
"""To keep what came of a call that is cancelled; less than what a kill leaves to unwind."""

ENDED = {
    "denied": "was denied by a person",
    "expired": "was not approved in time",
    "interrupted": "was interrupted: nobody knows whether it had an effect; look before you try again",
}


class ApprovalRequired(msgspec.Struct, frozen=True, tag="approval_required"):
    """The call waits for a person, until `expires_at` (ISO 8601)."""

    request_id: str
    reason: str
    provenance: list[str]
    expires_at: str


class ToolStarted(msgspec.Struct, frozen=True, tag="started"):
    """Nothing is in the call's way any more."""


GateEvent = ApprovalRequired | ToolStarted | ToolProgress | ToolOutput


class UseTool(StreamMessage[GateEvent], to="tools/gate"):
    """Make the call `number` of a turn's step, or go on with it; the last item is its output.

    Asked again for the same place, it answers with what came of the call then, and does not make it a second time.
    """

    turn_id: str
    session_id: str
    step: int
    number: int
    tool: str
    arguments: dict[str, object]


class Decided(msgspec.Struct, frozen=True):
    status: Literal["approved", "denied"]
    request_id: str


class DecideApproval(Message[Decided], to="tools/gate"):
    """Approve or deny a call that waits for a person: once, for its session, or always."""

    request_id: RequestId
    approved: bool
    scope: GrantScope = "once"


class Approval(msgspec.Struct, frozen=True):
    """A call that waits for a person."""

    request_id: str
    session_id: str
    tool: str
    input: dict[str, object]
    reason: str
    provenance: list[str]
    created_at: str
    expires_at: str


class ListApprovals(Message[list[Approval]], to="tools/gate"):
    """List what waits for a person, oldest first: their own calls, and those that they might approve."""

    session_id: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 100


class Gate(Actor):
    concurrency = 1_000
    handler_timeout_s = None  # a call may wait for a person

    def __init__(self, live: LiveSettings, catalogue: Catalogue, boot_id: str) -> None:
        super().__init__()
        self._live = live
        self._catalogue = catalogue
        self._boot_id = boot_id
        self._redactor = Redactor(lambda: live.secrets)
        self._waiting: dict[str, set[trio.MemorySendChannel[None]]] = {}

    @property
    def _claim(self) -> str:
        """Of one life of one daemon."""
        return f"{self._boot_id}/{self.incarnation}"

    async def use_tool(self, message: UseTool) -> AsyncGenerator[GateEvent]:
        tool = self._catalogue.get(message.tool)
        call = await (self._find(message) if tool is None else self._open(tool, message))
        if call is None:
            yield ToolOutput(f"there is no tool {message.tool!r}", is_error=True)
            return
        if call.state == "waiting":
            yield ApprovalRequired(call.request_id, call.reason, call.provenance, _iso(call))
            call = await self._decision(call)
        if call.state == "approved" and tool is not None and await self._is_denied_by_now(tool, message):
            yield ToolOutput("the call is not allowed: the operator has denied it meanwhile", is_error=True)
            return
        if call.state == "approved":
            call = await self._ask_store(StartCall(call_id=call.id, claim=self._claim))
        elif call.state != "running" or not call.created:
            yield _stored(call)
            return
        yield ToolStarted()
        async with aclosing(self._run(call)) as events:
            async for event in events:
                yield event

    async def decide_approval(self, message: DecideApproval) -> Decided:
        call = await self.ask(GetCall(request_id=message.request_id))
        if not self.principal.may(call.scope):
            raise Forbidden(f"Missing required scope: {call.scope}", scope=call.scope)
        try:
            call = await self.ask(
                DecideCall(
                    request_id=message.request_id,
                    approved=message.approved,
                    scope=message.scope,
                    by=self.principal.name,
                )
            )
        finally:  # it may be on disk although its answer was lost
            self._wake(message.request_id)
        log.info("a call was decided", tool=call.tool, request=call.request_id, state=call.state, by=call.decided_by)
        status = "approved" if message.approved else "denied"
        self._announce("approval_decided", call, f"{call.tool} was {status}")
        return Decided(status, call.request_id)

    async def list_approvals(self, message: ListApprovals) -> list[Approval]:
        calls = await self.ask(ListWaitingCalls(session_id=message.session_id, limit=message.limit))
        return [
            Approval(
                call.request_id,
                call.session_id,
                call.tool,
                msgspec.convert(self._redactor.value(call.arguments), dict[str, object]),
                call.reason,
                call.provenance,
                call.created_at.isoformat(),
                _iso(call),
            )
            for call in calls
            if call.principal == self.principal.name or self.principal.may(call.scope)
        ]

    # A call's way -----------------------------------------------------------------------------------------------------

    async def _find(self, message: UseTool) -> CallRecord | None:
        """What is known of a call whose tool is away, as those of MCP servers are while the daemon starts."""
        return await self._ask_store(FindCall(turn_id=message.turn_id, step=message.step, number=message.number))

    async def _open(self, tool: ToolInfo, message: UseTool) -> CallRecord:
        """Decide, and keep the call as it was decided; one that was there before stays as it is."""
        settings = self._live.current
        grants: list[Grant] = []
        if tool.effect != "read" or tool.source:
            grants = await self._ask_store(ListGrants(tool=tool.name, session_id=message.session_id))
        asked = await self._asked(tool, message)
        decision = decide(asked, settings, grants)
        state, expires_at = _STATES[decision.verdict], None
        if state == "waiting":
            if len(self._waiting) >= WAITING_LIMIT and await self._find(message) is None:
                raise TooManyRequests(f"{WAITING_LIMIT} calls wait for approval already", retry_after_s=60)
            expires_at = utc_now() + timedelta(seconds=settings.approval_timeout_s)
        call = await self._ask_store(
            OpenCall(
                request_id=f"a-{secrets.token_hex(8)}",
                turn_id=message.turn_id,
                session_id=message.session_id,
                step=message.step,
                number=message.number,
                tool=tool.name,
                arguments=message.arguments,
                effect=tool.effect,
                scope=tool.scope,
                principal=self.principal.name,
                provenance=list(self.provenance),
                pattern=pattern_for(tool, asked.whole),
                state=state,
                reason=decision.reason,
                claim=self._claim,
                expires_at=expires_at,
            )
        )
        if call.created:
            self._record(call, decision)
        return call

    async def _is_denied_by_now(self, tool: ToolInfo, message: UseTool) -> bool:
        """Whether the settings have come to deny what a person approved."""
        asked = await self._asked(tool, message)
        return decide(asked, self._live.current, ()).verdict == "deny"

    async def _asked(self, tool: ToolInfo, message: UseTool) -> Call:
        """The call as policy sees it."""
        jail, arguments = Jail.of(self._live), message.arguments
        subject, place = await subject_of(tool, arguments, jail), await place_of(tool, arguments, jail)
        return Call(tool, subject, self.principal, self.provenance, place)

    def _record(self, call: CallRecord, decision: Decision) -> None:
        is_usual = decision.verdict == "allow" and call.effect == "read"
        (log.debug if is_usual else log.info)(
            "a tool is called",
            tool=call.tool,
            session=call.session_id,
            request=call.request_id,
            principal=call.principal,
            decision=decision.verdict,
            reason=decision.reason,
        )

    async def _decision(self, call: CallRecord) -> CallRecord:
        """Wait for a person's word, as long as the call may."""
        assert call.expires_at is not None
        expires_at, request_id = call.expires_at, call.request_id
        wake, woken = trio.open_memory_channel[None](1)  # who is woken while he looks will look again
        waiting = self._waiting.setdefault(request_id, set())
        waiting.add(wake)
        self._announce("approval_required", call, f"{call.tool} waits for approval: {call.reason}")
        try:
            while True:
                call = await self._ask_store(GetCall(request_id=request_id))  # a decision may have come before this
                if call.state != "waiting":
                    return call
                if call.turn_id is None:
                    raise Conflict("the session was deleted, so nobody can approve the call any more")
                remaining_s = (expires_at - utc_now()).total_seconds()
                if remaining_s <= 0:
                    return await self._ask_store(ExpireCall(call_id=call.id))
                with trio.move_on_after(min(remaining_s, LOOK_S)):
                    await woken.receive()
        finally:
            waiting.discard(wake)
            if not waiting and self._waiting.get(request_id) is waiting:
                del self._waiting[request_id]

    def _announce(self, name: str, call: CallRecord, content: str) -> None:
        """Tell operators, who may not follow the session."""
        about = {"request_id": call.request_id, "session_id": call.session_id, "tool": call.tool}
        self.publish(EVENTS, name, {"event_type": name, "content": content, "metadata": about})

    def _wake(self, request_id: str) -> None:
        """Have those who wait for a word on the request look at it."""
        for wake in self._waiting.get(request_id, ()):
            with contextlib.suppress(trio.WouldBlock):  # they have been woken already
                wake.send_nowait(None)

    async def _run(self, call: CallRecord) -> AsyncGenerator[ToolProgress | ToolOutput]:
        """Have the call made, and keep what came of it before it is told."""
        tool = self._catalogue.get(call.tool)
        try:
            output = ToolOutput("the tool gave no output", is_error=True)
            try:
                async with aclosing(self._execute(tool, call)) as events:
                    async for event in events:
                        if isinstance(event, ToolOutput):
                            output = event
                        else:
                            yield msgspec.structs.replace(event, text=self._redactor.text(event.text))
            except ActorDied as error:
                text = f"the tool crashed, and may have had an effect: {error.detail}"
                output = ToolOutput(text, is_error=True, source=_teller(tool))
            except DeliveryFailure as error:
                output = ToolOutput(f"the tool cannot be reached now: {error.detail}", is_error=True)
            except InvalidInput as error:
                output = ToolOutput(error.detail, is_error=True, source=tool.source if tool else "")
            except PocketPawError as error:
                output = ToolOutput(error.detail, is_error=True, source=_teller(tool))
            output = self._fit(output)
            try:
                await self._end(call, "failed" if output.is_error else "done", output)
            except PocketPawError as error:  # told all the same, its source would be lost with it
                output = ToolOutput(f"the call {ENDED['interrupted']} ({error.detail})", is_error=True)
        except BaseException:  # cancelled, or its reader has gone: nobody will wait for what becomes of it
            with trio.move_on_after(LAST_WORDS_S, shield=True):
                await self._end(call, "interrupted", ToolOutput(""))
            raise
        yield output

    async def _execute(self, tool: ToolInfo | None, call: CallRecord) -> AsyncGenerator[ToolEvent]:
        if tool is None:
            raise Unavailable(f"the tool {call.tool} is not there now")
        execute = Execute(
            name=tool.name, arguments=call.arguments, session_id=call.session_id, turn_id=call.turn_id or ""
        )
        async with self.stream(execute, to=tool.address, idle_timeout_s=math.inf) as events:
            async for event in events:
                yield event

    def _fit(self, output: ToolOutput) -> ToolOutput:
        """Without secrets, and no longer than what is kept."""
        text = self._redactor.text(output.text)
        if len(text) > OUTPUT_LIMIT:
            text = f"{text[:OUTPUT_LIMIT]}\n[{len(text) - OUTPUT_LIMIT} characters more were left out]"
        return msgspec.structs.replace(output, text=text, source=self._redactor.text(output.source))

    async def _end(self, call: CallRecord, state: Literal["done", "failed", "interrupted"], output: ToolOutput) -> None:
        await self._ask_store(
            EndCall(call_id=call.id, claim=self._claim, state=state, output=output.text, source=output.source)
        )

    async def _ask_store(self, request: Message[R]) -> R:
        """Ask, and ask again where the store may just be starting anew. Asked twice, no call is made twice."""
        for pause_s in STORE_PAUSES_S:
            try:
                return await self.ask(request)
            except (Unavailable, DeliveryFailure):
                await trio.sleep(pause_s)
        return await self.ask(request)


_STATES: dict[str, Literal["running", "waiting", "denied"]] = {"allow": "running", "ask": "waiting", "deny": "denied"}


def _stored(call: CallRecord) -> ToolOutput:
    """What came of a call that is over."""
    if call.state in ("done", "failed"):
        return ToolOutput(call.output or "", is_error=call.state == "failed", source=call.source or "")
    if call.state == "running":
        return ToolOutput("the call is being made already, for somebody else", is_error=True)
    if call.state == "denied" and call.decided_by is None:
        return ToolOutput(f"the call is not allowed: {call.reason}", is_error=True)
    return ToolOutput(f"the call {ENDED[call.state]}", is_error=True)


def _teller(tool: ToolInfo | None) -> str:
    """Who may have had a say in the text of a failure: where a page redirects to stands in it, too."""
    if tool is None:
        return ""
    return tool.source or ("web" if tool.effect == "egress" else "")


def _iso(call: CallRecord) -> str:
    return "" if call.expires_at is None else call.expires_at.isoformat()

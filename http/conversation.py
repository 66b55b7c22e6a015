"""A WebSocket's conversation: what a client may say, and what comes of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qs

import msgspec
import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable

from ..actors.agent import Chat, StopTurn
from ..actors.skills.keeper import ReadSkill, SkillName
from ..actors.tools.gate import DecideApproval, ListApprovals
from ..runtime import ActorSystem, Message, Principal
from ..runtime.errors import BadRequest, InvalidInput, NotFound, PocketPawError
from ..storage.history import GetHistory, HistoryMessage
from ..storage.sessions import SessionId
from ..storage.tool_calls import GrantScope, RequestId
from .actions import ACTIONS, Action, JsonObject, scope_of
from .audited import Attempt, auditing, facts_in
from .authentication import require_scope
from .chat import new_session_id
from .errors import InvalidRequest, error_body, invalid_input
from .health import daemon_version
from .sse import last_event_id
from .teller import SYSTEM_EVENTS, Teller

R = TypeVar("R")

Content = Annotated[str, msgspec.Meta(max_length=100_000)]

HISTORY_SCOPE = scope_of("GET", "/sessions/{session_id}/history")
STATUS_SCOPE = scope_of("GET", "/agent/status")
SKILLS_SCOPE = scope_of("GET", "/skills")
SCHEDULE_SCOPE = scope_of("GET", "/reminders")

FOR_ALL = frozenset({"health_update"})
"""What is told of the daemon as a whole also to those who may not know what was scheduled."""

USE_SKILL = "Use the skill {name!r}: read it with read_skill, then follow it."


class Incoming(msgspec.Struct, frozen=True):
    """What a client says: `action` is PocketPaw's form, `type` (and `agentId`) the other."""

    action: str | None = None
    type: str | None = None
    content: Content | None = None
    message: Content | None = None
    session_id: SessionId | None = None
    session_key: Annotated[str, msgspec.Meta(max_length=300)] | None = None
    """A session as agent/status names it: its channel, a colon, its id."""
    agent_id: SessionId | None = msgspec.field(name="agentId", default=None)
    media: list[Any] = []
    channels: list[str] = []
    name: SkillName | None = None
    args: Content = ""
    request_id: RequestId | None = None
    approved: bool | None = None
    scope: GrantScope = "once"


class Opening(msgspec.Struct, frozen=True):
    """What a client says when it connects: the session to go on with, and the last event that it has of it."""

    resume_session: str | None
    after: int | None

    @staticmethod
    def read(query: bytes) -> Opening:
        args = {name: values[0] for name, values in parse_qs(query.decode("latin1"), errors="replace").items()}
        return Opening(args.get("resume_session"), last_event_id(args.get("last_event_id") or args.get("after")))


class Conversation:
    """Lives in the task that reads. `_current` is the session that is meant when none is named."""

    def __init__(
        self, system: ActorSystem, principal: Principal, trace_id: str, send: ASGISendCallable, nursery: trio.Nursery
    ) -> None:
        self._system = system
        self._principal = principal
        self._trace_id = trace_id
        self._teller = Teller(system.bus, send, nursery)
        self._current = new_session_id()
        self._actions: Mapping[str, Callable[[Incoming], Awaitable[None]]] = {
            "chat": self._chat,
            "message": self._chat,
            "run_skill": self._run_skill,
            "stop": self._stop,
            "approve": self._approve,
            "approve_plan": self._approve_plan,
            "reject_plan": self._reject_plan,
            "new_session": self._new_session,
            "switch_session": self._switch_session,
            "ping": self._ping,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
        }

    async def run(self, receive: ASGIReceiveCallable, opening: Opening) -> None:
        """Talk until the client leaves."""
        is_trusted = SCHEDULE_SCOPE is None or self._principal.may(SCHEDULE_SCOPE)
        self._teller.tell_system_events(SYSTEM_EVENTS if is_trusted else FOR_ALL)
        await self._open(opening)
        while (event := await receive())["type"] == "websocket.receive":
            text = event.get("text")
            await self._take(text.encode() if text is not None else event.get("bytes") or b"")

    async def _open(self, opening: Opening) -> None:
        """Greet; go on with the earlier session if there is one."""
        history = None
        if opening.resume_session is not None:
            history = await self._history(opening.resume_session)
        if opening.resume_session is not None and history is not None:
            self._current = opening.resume_session
        session = {"session_id": self._current, "id": self._current}
        greeting = {"type": "connection_info", **session, "version": daemon_version()}
        await self._teller.tell(greeting)
        if history is not None:
            await self._show(history, opening.after)

    async def _take(self, data: bytes) -> None:
        """Do what the client says; what cannot be done is said, and the conversation goes on."""
        said: Incoming | None = None
        try:
            said = _read(data)
            await self._do(said, data)
        except PocketPawError as error:
            session = {} if said is None or said.session_id is None else {"session_id": said.session_id}
            await self._teller.tell({"type": "error", "detail": _sentence(error), "code": error.code, **session})

    async def _do(self, said: Incoming, data: bytes) -> None:
        name = said.action or said.type
        if name is None:
            raise BadRequest('expected an object with an action, such as {"action": "chat", "content": "hello"}')
        act = self._actions.get(name)
        if act is not None:
            await act(said)
        elif name in ACTIONS:
            await self._act(ACTIONS[name], data)
        else:
            there_are = ", ".join([*self._actions, *ACTIONS])
            raise BadRequest(f"there is no action {name[:40]!r}; there are {there_are}")

    # Actions ----------------------------------------------------------------------------------------------------------

    async def _chat(self, said: Incoming) -> None:
        content = said.content or said.message
        if not content:
            raise InvalidInput("the field is required", field=["content"])
        await self._say(said, content)

    async def _run_skill(self, said: Incoming) -> None:
        require_scope(self._principal, SKILLS_SCOPE)
        if said.name is None:
            raise InvalidInput("the field is required", field=["name"])
        await self._ask(ReadSkill(name=said.name))  # so that one that is not there, or is broken, is told at once
        await self._say(said, "\n\n".join([USE_SKILL.format(name=said.name), *([said.args] if said.args else [])]))

    async def _say(self, said: Incoming, content: str) -> None:
        session_id = said.session_id or said.agent_id or self._current
        media = _convert(said.media, list[str], "media")
        self._teller.follow(session_id)
        await self._ask(Chat(session_id=session_id, content=content, media=media, channel="websocket"))

    async def _stop(self, said: Incoming) -> None:
        await self._ask(StopTurn(session_id=said.session_id or self._current))

    async def _approve(self, said: Incoming) -> None:
        if said.request_id is None or said.approved is None:
            missing = "request_id" if said.request_id is None else "approved"
            raise InvalidInput("the field is required", field=[missing])
        decided = await self._ask(DecideApproval(request_id=said.request_id, approved=said.approved, scope=said.scope))
        await self._teller.tell(
            {"type": "approval_decided", "status": decided.status, "request_id": decided.request_id}
        )

    async def _approve_plan(self, said: Incoming) -> None:
        await self._decide_plan(said, approved=True)

    async def _reject_plan(self, said: Incoming) -> None:
        await self._decide_plan(said, approved=False)

    async def _decide_plan(self, said: Incoming, *, approved: bool) -> None:
        """A session's plan is what its agent wants to do and waits with."""
        _, _, named = (said.session_key or "").partition(":")
        session_id = said.session_id or named or said.session_key or self._current
        waiting = await self._ask(ListApprovals(session_id=session_id))
        if not waiting:
            raise NotFound(f"there is no plan to {'approve' if approved else 'reject'} in session {session_id}")
        for one in waiting:
            await self._ask(DecideApproval(request_id=one.request_id, approved=approved))
        told = {"session_id": session_id, "session_key": said.session_key or session_id}
        await self._teller.tell({"type": "plan_approved" if approved else "plan_rejected", **told})

    async def _new_session(self, _said: Incoming) -> None:
        self._current = new_session_id()
        await self._teller.tell({"type": "new_session", "session_id": self._current, "id": self._current})

    async def _switch_session(self, said: Incoming) -> None:
        if said.session_id is None:
            raise InvalidInput("the field is required", field=["session_id"])
        require_scope(self._principal, HISTORY_SCOPE)
        self._current = said.session_id
        await self._show(await self._history(said.session_id) or [], None)

    async def _ping(self, _said: Incoming) -> None:
        await self._teller.tell({"type": "pong"})

    async def _subscribe(self, said: Incoming) -> None:
        if "agent.status" in said.channels:
            require_scope(self._principal, STATUS_SCOPE)
        await self._teller.subscribe(said.channels)

    async def _unsubscribe(self, said: Incoming) -> None:
        await self._teller.unsubscribe(said.channels)

    async def _act(self, action: Action, data: bytes) -> None:
        attempt = action.attempt(self._trace_id, None)
        if attempt is None:
            require_scope(self._principal, action.scope)
        said = msgspec.json.decode(data, type=JsonObject)
        fields = {name: said[name] for name in said.keys() - {"action", "type"}}
        try:
            reply = await self._attempt(action, fields, attempt)
        except PocketPawError as error:
            if action.failed is None:
                raise
            await self._teller.tell(action.failed(error, fields))
            return
        if action.told is not None:
            await self._teller.tell(action.told(reply, fields))

    # ------------------------------------------------------------------------------------------------------------------

    async def _attempt(self, action: Action, fields: JsonObject, attempt: Attempt | None) -> object:
        """Do it as the endpoint would: for the audit, too."""
        if attempt is None:
            return await self._ask(action.message(fields))
        attempt.who = self._principal
        async with auditing(self._system, attempt):
            require_scope(self._principal, action.scope)
            message = action.message(fields)
            attempt.facts |= facts_in(message)
            reply = await self._ask(message)
            attempt.facts |= facts_in(reply)
        return reply

    async def _show(self, history: list[HistoryMessage], after: int | None) -> None:
        """Show the current session as it is, and go on with it; what was said in it needs a scope of its own."""
        if HISTORY_SCOPE is None or self._principal.may(HISTORY_SCOPE):
            await self._teller.tell({"type": "session_history", "session_id": self._current, "messages": history})
        await self._teller.catch_up(self._current, after)

    async def _history(self, session_id: str) -> list[HistoryMessage] | None:
        """What was said in a session; None if there is no such session."""
        try:
            return await self._ask(GetHistory(session_id=_convert(session_id, SessionId, "session_id")))
        except (NotFound, InvalidInput):
            return None

    async def _ask(self, message: Message[R]) -> R:
        return await self._system.ask(message, principal=self._principal, trace_id=self._trace_id, sender="http")


_decode = msgspec.json.Decoder(Incoming).decode


def _read(data: bytes) -> Incoming:
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_input(error, "message") from None


def _convert(value: object, type_: Any, field: str) -> Any:
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        raise InvalidInput(str(error).replace("`", ""), field=[field]) from None


def _sentence(error: PocketPawError) -> str:
    """An error's detail, which names the field here, as there is no list for it."""
    body = error_body(error)
    if isinstance(body, InvalidRequest):
        place = ".".join(str(part) for part in body.detail[0].loc if part not in {"message", "body"})
        return f"{place}: {error.detail}" if place and not error.detail.startswith(f"{place}: ") else error.detail
    return error.detail

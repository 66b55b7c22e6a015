"""The agent of one session: takes messages, commits them, and works through them one turn at a time.

Invariant: what `Chat` has accepted is on disk. Whatever then dies, the turn is finished by the next incarnation or the next
start of the daemon, or marked; it is never answered twice, as the store takes one reply for a turn.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import trio

from ..runtime import Actor, Done, Message
from ..runtime.envelope import Envelope, current_envelope
from ..runtime.errors import NotFound, PocketPawError, TimedOut, TooManyRequests
from ..storage.history import GetTurnHistory, HistoryMessage
from ..storage.sessions import SessionId
from ..storage.turns import AddTurn, ClaimTurn, FinishTurn, ListSessionTurns, Turn
from ..storage.usage import Usage
from .identity import Identity
from .models.protocol import ChatMessage, Generate, TextDelta, ThinkingDelta
from .models.protocol import Usage as ModelUsage
from .settings import LiveSettings

HISTORY_LIMIT = 50
"""Messages that an agent keeps at hand for the model; the store has them all."""

WAITING_LIMIT = 100
"""Messages that may wait in one session behind the one that is being answered."""

AGENTS_TOPIC = "agents"

AgentState = Literal["idle", "thinking", "streaming", "stopping"]


class Accepted(msgspec.Struct, frozen=True):
    """The message is on disk. The turn's events on the session's topic have numbers above `after`.

    `ended` is the stored turn when the idempotency key repeats one that has ended: it has no more events.
    """

    session_id: str
    turn_id: str
    after: int
    ended: Turn | None = None


class Chat(Message[Accepted], to="agents/{session_id}"):
    """Say something to the agent of a session; an unknown session is made."""

    session_id: SessionId
    content: Annotated[str, msgspec.Meta(min_length=1, max_length=100_000)]
    media: list[str] = msgspec.field(default_factory=list[str])
    channel: str = "api"
    idempotency_key: str | None = None


class Stopped(msgspec.Struct, frozen=True):
    status: str
    session_id: str


class StopTurn(Message[Stopped], to="agents/{session_id}"):
    """Stop the answer that is being written; what there is of it is kept, marked as stopped."""

    session_id: SessionId


class ResumeTurns(Message[Done], to="agents/{session_id}"):
    """Go on with what an earlier life of this session's agent left undone."""

    session_id: SessionId


class Activity(msgspec.Struct):
    """What an agent is doing now, for whoever watches. Times on trio's clock."""

    state: AgentState = "idle"
    since: float = 0.0
    channel: str = "api"
    total_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True)
class AgentContext:
    """What every agent of this daemon shares."""

    live: LiveSettings
    identity: Identity
    boot_id: str


@dataclass(frozen=True)
class _Waiting:
    turn: Turn
    cause: Envelope | None


def session_topic(session_id: str) -> str:
    return f"session/{session_id}"


class Agent(Actor):
    """One session's agent. Its handlers only take and stop; the turns run beside them, one after the other."""

    has_tasks = True

    def __init__(self, session_id: str, context: AgentContext) -> None:
        super().__init__()
        self.session_id = session_id
        self.activity = Activity()
        self._context = context
        self._topic = session_topic(session_id)
        self._waiting: deque[_Waiting] = deque()
        self._work_came = trio.Event()
        self._present: str | None = None  # the turn in hand
        self._present_scope = trio.CancelScope()
        self._is_stop_asked = False
        self._history: deque[ChatMessage] | None = None  # None until it has been read

    async def on_start(self) -> None:
        if self.incarnation > 1:
            await self._take_over()
        self.spawn(self._work)

    def is_idle(self) -> bool:
        return self._present is None and not self._waiting

    async def on_stop(self) -> None:
        self.system.bus.forget(self._topic)

    # Messages ---------------------------------------------------------------------------------------------------------

    async def chat(self, message: Chat) -> Accepted:
        if len(self._waiting) >= WAITING_LIMIT:
            raise TooManyRequests(
                f"session {self.session_id} has {WAITING_LIMIT} messages waiting already", retry_after_s=5
            )
        after = self.system.bus.last_seq(self._topic)
        added = await self.ask(
            AddTurn(
                session_id=message.session_id,
                turn_id=f"t-{secrets.token_hex(8)}",
                content=message.content,
                media=message.media,
                channel=message.channel,
                state="running" if self.is_idle() else "pending",
                boot_id=self._context.boot_id,
                principal=self.principal.name,
                idempotency_key=message.idempotency_key,
                history_limit=HISTORY_LIMIT if self._history is None else 0,
            )
        )
        turn = added.turn
        if not added.created:
            return self._accepted_before(turn)
        if self._history is None:
            self._history = _context_of(added.history)
        self._enqueue(turn)
        return Accepted(turn.session_id, turn.id, after)

    async def stop_turn(self, message: StopTurn) -> Stopped:
        if self._present is None:
            raise NotFound(f"nothing is being answered in session {message.session_id}", session_id=message.session_id)
        self._is_stop_asked = True
        self._be("stopping")
        self._present_scope.cancel()
        return Stopped("ok", self.session_id)

    async def resume_turns(self, message: ResumeTurns) -> Done:
        await self._take_over()
        return Done()

    def _accepted_before(self, turn: Turn) -> Accepted:
        """The turn of an earlier message with the same idempotency key: its events, if it still has any."""
        if turn.state in ("pending", "running"):
            return Accepted(turn.session_id, turn.id, 0)
        return Accepted(turn.session_id, turn.id, self.system.bus.last_seq(self._topic), ended=turn)

    def _enqueue(self, turn: Turn) -> None:
        self._waiting.append(_Waiting(turn, current_envelope.get()))
        self._work_came.set()

    async def _take_over(self) -> None:
        """Queue the turns that a former life left pending or running; each attempt is counted before it is made."""
        known = {self._present, *(waiting.turn.id for waiting in self._waiting)}
        for turn in await self.ask(ListSessionTurns(session_id=self.session_id)):
            if turn.id not in known:
                self._enqueue(msgspec.structs.replace(turn, state="pending"))

    # Turns ------------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            while self._waiting:
                waiting = self._waiting.popleft()
                self._present = waiting.turn.id
                current_envelope.set(waiting.cause)
                await self._turn(waiting.turn)
                self._present = None
            self._be("idle")
            self._work_came = trio.Event()
            await self._work_came.wait()

    async def _turn(self, turn: Turn) -> None:
        """Answer one message, and commit what came of it."""
        if turn.state == "pending":
            turn = await self.ask(ClaimTurn(turn_id=turn.id, boot_id=self._context.boot_id))
        if turn.state != "running":
            return  # it has been tried too often, and is marked so
        self._is_stop_asked = False
        self._say(turn, "stream_start", {})
        answer = await self._answer(turn)
        try:
            await self.ask(
                FinishTurn(
                    turn_id=turn.id,
                    boot_id=self._context.boot_id,
                    state=answer.state,
                    content=answer.text,
                    usage=answer.usage,
                    error=answer.error.detail if answer.error else None,
                )
            )
        except PocketPawError as error:
            # The reply was written but could not be kept: the turn stays as it is, and the next start takes it up.
            answer = _Answer("failed", answer.text, answer.usage, error)
        self._remember(turn, answer)
        if answer.error is not None:
            self.activity.error = answer.error.detail
            self._say(turn, "error", {"detail": answer.error.detail, "code": answer.error.code})
        end = {"state": answer.state, "usage": answer.usage, "content": answer.text}
        self._say(turn, "stream_end", end)

    async def _answer(self, turn: Turn) -> _Answer:
        """Have the model answer. Whatever is expected to fail is part of the answer; anything else is a crash."""
        self._be("thinking", turn.channel)
        answer = _Answer("done")
        timeout_s = self._context.live.current.turn_timeout_s
        try:
            with trio.move_on_after(timeout_s) as self._present_scope:
                await self._generate(turn, answer)
        except PocketPawError as error:
            answer.state, answer.error = "failed", error
        if self._present_scope.cancelled_caught:
            if self._is_stop_asked:
                answer.state = "stopped"
            else:
                answer.state = "failed"
                answer.error = TimedOut(f"the answer took longer than {timeout_s:g} s", timeout_s=timeout_s)
        return answer

    async def _generate(self, turn: Turn, answer: _Answer) -> None:
        request = Generate(messages=await self._messages(turn))
        async with self.stream(request, idle_timeout_s=self._context.live.current.turn_timeout_s) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    if self.activity.state == "thinking":
                        self._be("streaming", turn.channel)
                    answer.text += event.text
                    self._say(turn, "chunk", {"content": event.text, "type": "text"})
                elif isinstance(event, ThinkingDelta):
                    self._say(turn, "thinking", {"content": event.text})
                elif isinstance(event, ModelUsage):
                    answer.usage = _usage(event)

    async def _messages(self, turn: Turn) -> tuple[ChatMessage, ...]:
        identity = ChatMessage("system", await self._context.identity.text())
        if self._history is None:
            self._history = _context_of(await self.ask(GetTurnHistory(turn_id=turn.id, limit=HISTORY_LIMIT)))
        return (identity, *self._history, ChatMessage("user", turn.content))

    def _remember(self, turn: Turn, answer: _Answer) -> None:
        if self._history is not None:
            self._history.append(ChatMessage("user", turn.content))
            if answer.text and answer.state in ("done", "stopped"):
                self._history.append(ChatMessage("assistant", answer.text))
        if answer.usage is not None:
            self.activity.total_tokens += answer.usage.total_tokens

    # Events -----------------------------------------------------------------------------------------------------------

    def _say(self, turn: Turn, name: str, data: Mapping[str, object]) -> None:
        self.publish(self._topic, name, {"session_id": self.session_id, "turn_id": turn.id, **data})

    def _be(self, state: AgentState, channel: str | None = None) -> None:
        activity = self.activity
        activity.state, activity.since, activity.channel = state, self.system.now(), channel or activity.channel
        if self.system.bus.has_listeners(AGENTS_TOPIC):
            self.publish(AGENTS_TOPIC, "status", {"session_id": self.session_id, "state": state})


@dataclass
class _Answer:
    """What became of a turn, as far as it has got."""

    state: Literal["done", "failed", "stopped"]
    text: str = ""
    usage: Usage | None = None
    error: PocketPawError | None = None


def _usage(usage: ModelUsage) -> Usage:
    return Usage(
        usage.input_tokens, usage.output_tokens, usage.total_tokens, usage.model, usage.backend, usage.cost_usd
    )


def _context_of(history: list[HistoryMessage]) -> deque[ChatMessage]:
    messages = (ChatMessage(_role(message.role), message.content) for message in history)
    return deque(messages, maxlen=HISTORY_LIMIT)


def _role(role: str) -> Literal["user", "assistant"]:
    return "assistant" if role == "assistant" else "user"

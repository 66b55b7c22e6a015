"""The agent of one session: takes messages, commits them, and works through them one turn at a time.

Invariant: what `Chat` has accepted is on disk. Whatever then dies, the turn is finished by the next incarnation or the
next start of the daemon, or marked; it is never answered twice, as the store takes one reply for a turn. Those who
listen hear one `stream_end` of it, after what it says is on disk.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeVar

import msgspec
import structlog
import trio

from ..runtime import Actor, Done, Message
from ..runtime.envelope import Envelope, current_envelope
from ..runtime.errors import (
    ActorDied,
    Conflict,
    DeliveryFailure,
    NotFound,
    PocketPawError,
    TimedOut,
    TooManyRequests,
    TransientFailure,
    Unavailable,
)
from ..storage.history import GetTurnHistory, HistoryMessage
from ..storage.sessions import SessionId
from ..storage.turns import AddTurn, ClaimTurn, FinishTurn, ListSessionTurns, Turn
from ..storage.usage import Usage
from .identity import Identity
from .models.protocol import ChatMessage, Generate, TextDelta, ThinkingDelta
from .models.protocol import Usage as ModelUsage
from .settings import LiveSettings

R = TypeVar("R")

log = structlog.get_logger()

HISTORY_LIMIT = 50
"""Messages that an agent keeps at hand for the model; the store has them all."""

WAITING_LIMIT = 100
"""Messages that may wait in one session behind the one that is being answered."""

STORE_PAUSES_S = (0.05, 0.5)
"""Before the store is asked again for what it failed to do: its writer may just be starting anew."""

STORE_AWAY_S = 5.0
"""Between tries while the store cannot be used."""

LAST_WORDS_S = 0.5
"""For a reply that is whole, when the agent is ended while it is committed; less than what a kill leaves to unwind."""

STOP_WAIT_S = 2.0
"""How long a stop waits to see the turn ended; it ends anyway."""

AGENTS_TOPIC = "agents"
AWAY = (Unavailable, DeliveryFailure)

AgentState = Literal["idle", "thinking", "streaming", "stopping"]


class Accepted(msgspec.Struct, frozen=True):
    """The message is on disk. The turn's events on the session's topic have numbers above `after`.

    `ended` is the stored turn when the idempotency key repeats one that has ended: it has no more events.
    """

    session_id: str
    turn_id: str
    after: int
    ended: Turn | None = None


MediaPath = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
"""Where a file is, never the file itself. It is kept with the message; no model is shown it yet."""


class Chat(Message[Accepted], to="agents/{session_id}"):
    """Say something to the agent of a session; an unknown session is made."""

    session_id: SessionId
    content: Annotated[str, msgspec.Meta(min_length=1, max_length=100_000)]
    media: Annotated[list[MediaPath], msgspec.Meta(max_length=32)] = msgspec.field(default_factory=list[str])
    channel: str = "api"
    idempotency_key: str | None = None


class Stopped(msgspec.Struct, frozen=True):
    status: str
    session_id: str


class StopTurn(Message[Stopped], to="agents/{session_id}"):
    """Stop the answer that is being written; what there is of it is kept, marked as stopped.

    Messages that wait behind it are answered all the same.
    """

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


@dataclass(eq=False)
class _Job:
    """A turn that waits, or is being answered. Its events have numbers above `after`."""

    turn: Turn
    after: int
    cause: Envelope | None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    is_stop_asked: bool = False
    has_ended: trio.Event = field(default_factory=trio.Event)


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
        self._jobs: deque[_Job] = deque()  # the first one is in hand
        self._unkept: set[str] = set()  # turns whose replies the store could not take yet
        self._history: deque[ChatMessage] | None = None  # what came before the next job; None until it has been read

    async def on_start(self) -> None:
        if self.incarnation > 1:
            try:
                await self._take_over()
            except AWAY as error:
                raise TransientFailure(f"unfinished turns cannot be read: {error.detail}") from error

    def is_idle(self) -> bool:
        """Whether all is answered, and that so long ago that nobody comes back for its events."""
        is_done = not self._jobs and not self._unkept
        return is_done and self.system.now() - self.activity.since >= self._context.live.current.agent_idle_s

    async def on_stop(self) -> None:
        if not self._jobs:
            self.system.bus.forget(self._topic)

    # Messages ---------------------------------------------------------------------------------------------------------

    async def chat(self, message: Chat) -> Accepted:
        if len(self._jobs) > WAITING_LIMIT:
            raise TooManyRequests(
                f"session {self.session_id} has {WAITING_LIMIT} messages waiting already", retry_after_s=5
            )
        after = self.system.bus.last_seq(self._topic)
        needs_history = self._history is None and not self._jobs  # with jobs, the first one of them reads it
        added = await self.ask(
            AddTurn(
                session_id=message.session_id,
                turn_id=f"t-{secrets.token_hex(8)}",
                content=message.content,
                media=message.media,
                channel=message.channel,
                state="pending" if self._jobs else "running",
                boot_id=self._context.boot_id,
                principal=self.principal.name,
                idempotency_key=message.idempotency_key,
                history_limit=HISTORY_LIMIT if needs_history else 0,
            )
        )
        if not added.created:
            return await self._accepted_before(added.turn)
        if needs_history or added.session_created:  # also where a session was deleted, and with it what was said
            self._history = _context_of(added.history)
        self._enqueue(added.turn, after)
        return Accepted(added.turn.session_id, added.turn.id, after)

    async def stop_turn(self, message: StopTurn) -> Stopped:
        if not self._jobs:
            raise NotFound(f"nothing is being answered in session {message.session_id}", session_id=message.session_id)
        job = self._jobs[0]
        job.is_stop_asked = True
        job.scope.cancel()
        self._be("stopping")
        with trio.move_on_after(STOP_WAIT_S):
            await job.has_ended.wait()
        return Stopped("ok", self.session_id)

    async def resume_turns(self, message: ResumeTurns) -> Done:
        await self._take_over()
        return Done()

    async def _accepted_before(self, turn: Turn) -> Accepted:
        """Answer for the turn of an earlier message with the same idempotency key, which may be another session's."""
        if turn.state not in ("pending", "running"):
            last = self.system.bus.last_seq(session_topic(turn.session_id))
            return Accepted(turn.session_id, turn.id, last, ended=turn)
        for job in self._jobs:
            if job.turn.id == turn.id:
                return Accepted(turn.session_id, turn.id, job.after)
        await self.tell(ResumeTurns(session_id=turn.session_id))  # should nobody have it in hand
        return Accepted(turn.session_id, turn.id, 0)

    def _enqueue(self, turn: Turn, after: int) -> None:
        self._jobs.append(_Job(turn, after, current_envelope.get()))
        if len(self._jobs) == 1:
            self.spawn(self._work)  # only while there is work: an agent that sleeps on it would cost a task

    async def _take_over(self) -> None:
        """Queue the turns that a former life left pending or running; each attempt is counted before it is made."""
        known = self._known()  # also of those that end while the store is read
        turns = await self._ask_store(ListSessionTurns(session_id=self.session_id))
        known |= self._known()
        after = self.system.bus.last_seq(self._topic)
        for turn in turns:
            if turn.id not in known:
                self._enqueue(msgspec.structs.replace(turn, state="pending"), after)

    def _known(self) -> set[str]:
        """The turns that this life sees to."""
        return self._unkept | {job.turn.id for job in self._jobs}

    # Turns ------------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while self._jobs:
            job = self._jobs[0]
            current_envelope.set(job.cause)
            await self._turn(job)
            self._jobs.popleft()
            job.has_ended.set()
        self._be("idle")

    async def _turn(self, job: _Job) -> None:
        """See one turn through to its `stream_end`, whatever becomes of it."""
        self.activity.error = None
        self._be("thinking", job.turn.channel)
        job.after = self._say(job.turn, "stream_start", {}) - 1
        answer = await self._claim(job)
        if answer is not None:
            self._tell_end(job.turn, answer)
            return
        answer = await self._answer(job)
        try:
            await self._keep(job.turn, answer)
        except trio.Cancelled:
            with trio.move_on_after(LAST_WORDS_S, shield=True):
                await self._keep(job.turn, answer)  # the same end a second time is one end
                self._tell_end(job.turn, answer)
            raise
        self._tell_end(job.turn, answer)

    async def _claim(self, job: _Job) -> _Answer | None:
        """Make the turn ours, which may take until the store is back; returns how it has ended if it is not ours."""
        if job.turn.state == "running":
            return None
        while True:
            try:
                turn = await self._ask_store(ClaimTurn(turn_id=job.turn.id, boot_id=self._context.boot_id))
            except AWAY:
                await trio.sleep(STORE_AWAY_S)
            except PocketPawError as error:  # deleted, or ended by another
                return _Answer("failed", error=error)
            else:
                if turn.state == "running":
                    return None
                return _Answer("interrupted", error=Unavailable(f"the turn was interrupted: {turn.error}"))

    async def _answer(self, job: _Job) -> _Answer:
        """Have the model answer. Whatever is expected to fail is part of the answer; anything else is a crash."""
        answer = _Answer("done")
        timeout_s = self._context.live.current.turn_timeout_s
        job.scope.relative_deadline = timeout_s
        try:
            with job.scope:
                await self._generate(job.turn, answer)
        except PocketPawError as error:
            answer.state, answer.error = "failed", error
        if job.scope.cancelled_caught:
            if job.is_stop_asked:
                answer.state = "stopped"
            else:
                answer.state = "failed"
                answer.error = TimedOut(f"the answer took longer than {timeout_s:g} s", timeout_s=timeout_s)
        return answer

    async def _generate(self, turn: Turn, answer: _Answer) -> None:
        request = Generate(messages=await self._messages(turn))
        try:
            await self._listen(turn, request, answer)
        except ActorDied as error:
            # The router may have crashed over another session's answer: once more, if nothing was said yet.
            if answer.has_begun or error.data.get("actor") != Generate.__address__:
                raise
            await self._listen(turn, request, answer)

    async def _listen(self, turn: Turn, request: Generate, answer: _Answer) -> None:
        async with self.stream(request, idle_timeout_s=self._context.live.current.turn_timeout_s) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    if self.activity.state == "thinking":
                        self._be("streaming", turn.channel)
                    answer.has_begun = True
                    answer.pieces.append(event.text)
                    self._say(turn, "chunk", {"content": event.text, "type": "text"})
                elif isinstance(event, ThinkingDelta):
                    answer.has_begun = True
                    self._say(turn, "thinking", {"content": event.text})
                elif isinstance(event, ModelUsage):
                    answer.usage = _usage(event)

    async def _messages(self, turn: Turn) -> tuple[ChatMessage, ...]:
        identity = ChatMessage("system", await self._context.identity.text())
        if self._history is None:
            history = await self._ask_store(GetTurnHistory(turn_id=turn.id, limit=HISTORY_LIMIT))
            self._history = _context_of(history)
        return (identity, *self._history, ChatMessage("user", turn.content))

    async def _keep(self, turn: Turn, answer: _Answer) -> None:
        """Commit what came of the turn; if that cannot be done now, it is part of the answer, and done later."""
        finish = FinishTurn(
            turn_id=turn.id,
            boot_id=self._context.boot_id,
            state=answer.state,
            content=answer.text,
            usage=answer.usage,
            error=answer.error.detail if answer.error else None,
        )
        try:
            await self._ask_store(finish)
        except PocketPawError as error:
            if isinstance(error, AWAY):
                self._unkept.add(turn.id)
                self.spawn(self._keep_later, finish)
            answer.state, answer.error = "failed", error

    async def _keep_later(self, finish: FinishTurn) -> None:
        """Commit a reply once the store is back. Should this life end before, the turn is left for the next one."""
        while True:
            await trio.sleep(STORE_AWAY_S)
            try:
                await self.ask(finish)
            except AWAY:
                continue
            except PocketPawError as error:  # deleted meanwhile
                log.info("a reply was not kept", actor=self.path, turn=finish.turn_id, reason=error.detail)
            self._unkept.discard(finish.turn_id)
            return

    async def _ask_store(self, message: Message[R]) -> R:
        for pause_s in STORE_PAUSES_S:
            try:
                return await self.ask(message)
            except AWAY:
                await trio.sleep(pause_s)
        return await self.ask(message)

    def _tell_end(self, turn: Turn, answer: _Answer) -> None:
        self._remember(turn, answer)
        if answer.error is not None:
            self.activity.error = answer.error.detail
            self._say(turn, "error", {"detail": answer.error.detail, "code": answer.error.code})
        end = {"state": answer.state, "usage": answer.usage, "content": answer.text}
        self._say(turn, "stream_end", end)

    def _remember(self, turn: Turn, answer: _Answer) -> None:
        if isinstance(answer.error, NotFound | Conflict):
            self._history = None  # what is known of the session is not so any more
        elif self._history is not None:
            self._history.append(ChatMessage("user", turn.content))
            if answer.text and answer.state in ("done", "stopped"):
                self._history.append(ChatMessage("assistant", answer.text))
        if answer.usage is not None:
            self.activity.total_tokens += answer.usage.total_tokens

    # Events -----------------------------------------------------------------------------------------------------------

    def _say(self, turn: Turn, name: str, data: Mapping[str, object]) -> int:
        return self.publish(self._topic, name, {"session_id": self.session_id, "turn_id": turn.id, **data})

    def _be(self, state: AgentState, channel: str | None = None) -> None:
        activity = self.activity
        activity.state, activity.since, activity.channel = state, self.system.now(), channel or activity.channel
        if self.system.bus.has_listeners(AGENTS_TOPIC):
            self.publish(AGENTS_TOPIC, "status", {"session_id": self.session_id, "state": state})


@dataclass
class _Answer:
    """What became of a turn, as far as it has got."""

    state: Literal["done", "failed", "stopped", "interrupted"]
    pieces: list[str] = field(default_factory=list[str])
    has_begun: bool = False
    usage: Usage | None = None
    error: PocketPawError | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def _usage(usage: ModelUsage) -> Usage:
    return Usage(
        usage.input_tokens, usage.output_tokens, usage.total_tokens, usage.model, usage.backend, usage.cost_usd
    )


def _context_of(history: list[HistoryMessage]) -> deque[ChatMessage]:
    messages = (ChatMessage(_role(message.role), message.content) for message in history if message.content)
    return deque(messages, maxlen=HISTORY_LIMIT)


def _role(role: str) -> Literal["user", "assistant"]:
    return "assistant" if role == "assistant" else "user"

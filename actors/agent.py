"""The agent of one session: takes messages, commits them, and works through them one turn at a time.

Invariant: what `Chat` has accepted is on disk. Whatever then dies, the turn is finished by the next incarnation or the
next start of the daemon, or marked; it is never answered twice, as the store takes one reply for a turn. Those who
listen hear one `stream_end` of it, after what it says is on disk.
"""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeVar

import msgspec
import structlog
import trio

from ..config.logs import Redactor
from ..runtime import Actor, Done, Message
from ..runtime.envelope import Envelope, Principal, current_envelope
from ..runtime.errors import (
    Conflict,
    DeliveryFailure,
    NotFound,
    PocketPawError,
    TimedOut,
    TooManyRequests,
    TransientFailure,
    Unavailable,
)
from ..storage.sessions import SessionId
from ..storage.turns import AddTurn, ClaimTurn, FinishTurn, ListSessionTurns, Turn
from ..storage.usage import sum_of
from .conversation import HISTORY_LIMIT, Conversation
from .identity import Identity
from .memory import LearnFrom
from .settings import LiveSettings
from .tools.catalogue import Catalogue
from .turn_loop import Answer, TurnLoop

R = TypeVar("R")

log = structlog.get_logger()

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

AgentState = Literal["idle", "thinking", "streaming", "tool_running", "waiting", "stopping"]


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


class ReadAnew(Message[Done], to="agents/{session_id}"):
    """Something was added to the session from elsewhere: read what was said anew before the next turn."""

    session_id: SessionId


class Activity(msgspec.Struct):
    """What an agent is doing now, for whoever watches. Times on trio's clock."""

    state: AgentState = "idle"
    since: float = 0.0
    channel: str = "api"
    tool: str | None = None
    total_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True)
class AgentContext:
    """What every agent of this daemon shares."""

    live: LiveSettings
    identity: Identity
    catalogue: Catalogue
    boot_id: str


@dataclass(eq=False)
class _Job:
    """A turn that waits, or is being answered. Its events have numbers above `after`."""

    turn: Turn
    after: int
    cause: Envelope | None
    is_resumed: bool = False
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
        self.shared = context
        self.conversation = Conversation(self)
        self._redactor = Redactor(lambda: context.live.secrets)
        self._topic = session_topic(session_id)
        self._jobs: deque[_Job] = deque()  # the first one is in hand
        self._unkept: set[str] = set()  # turns whose replies the store could not take yet

    async def on_start(self) -> None:
        if self.incarnation > 1:
            try:
                await self._take_over()
            except AWAY as error:
                raise TransientFailure(f"unfinished turns cannot be read: {error.detail}") from error

    def is_idle(self) -> bool:
        """Whether all is answered, and that so long ago that nobody comes back for its events."""
        is_done = not self._jobs and not self._unkept
        return is_done and self.system.now() - self.activity.since >= self.shared.live.current.agent_idle_s

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
        needs_history = not self.conversation.is_known and not self._jobs  # with jobs, the first one of them reads it
        added = await self.ask(
            AddTurn(
                session_id=message.session_id,
                turn_id=f"t-{secrets.token_hex(8)}",
                content=message.content,
                media=message.media,
                channel=message.channel,
                state="pending" if self._jobs else "running",
                boot_id=self.shared.boot_id,
                principal=self.principal.name,
                scopes=sorted(self.principal.scopes),
                provenance=list(self.provenance),
                idempotency_key=message.idempotency_key,
                history_limit=HISTORY_LIMIT if needs_history else 0,
            )
        )
        if not added.created:
            return await self._accepted_before(added.turn)
        if needs_history or added.session_created:  # also where a session was deleted, and with it what was said
            self.conversation.read(added.history)
        self._enqueue(added.turn, after)
        return Accepted(added.turn.session_id, added.turn.id, after)

    async def stop_turn(self, message: StopTurn) -> Stopped:
        if not self._jobs:
            raise NotFound(f"nothing is being answered in session {message.session_id}", session_id=message.session_id)
        job = self._jobs[0]
        job.is_stop_asked = True
        job.scope.cancel()
        self.be("stopping")
        with trio.move_on_after(STOP_WAIT_S):
            await job.has_ended.wait()
        return Stopped("ok", self.session_id)

    async def resume_turns(self, message: ResumeTurns) -> Done:
        await self._take_over()
        return Done()

    async def read_anew(self, message: ReadAnew) -> Done:
        self.conversation.forget()
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

    def _enqueue(self, turn: Turn, after: int, *, is_resumed: bool = False) -> None:
        self._jobs.append(_Job(turn, after, current_envelope.get(), is_resumed))
        if len(self._jobs) == 1:
            self.spawn(self._work)  # only while there is work: an agent that sleeps on it would cost a task

    async def _take_over(self) -> None:
        """Queue the turns that a former life left pending or running; each attempt is counted before it is made."""
        known = self._known()  # also of those that end while the store is read
        turns = await self.ask_store(ListSessionTurns(session_id=self.session_id))
        known |= self._known()
        after = self.system.bus.last_seq(self._topic)
        for turn in turns:
            if turn.id not in known:
                self._enqueue(msgspec.structs.replace(turn, state="pending"), after, is_resumed=True)

    def _on_behalf(self, job: _Job) -> Envelope:
        """What a turn sends is sent for whoever said it, with the scopes that they had, also after a restart."""
        turn = job.turn
        trace_id = job.cause.trace_id if job.cause is not None else ""
        principal = Principal(turn.principal, frozenset(turn.scopes))
        return Envelope(Chat, b"", self.path, None, principal, trace_id, math.inf, tuple(turn.provenance))

    def _known(self) -> set[str]:
        """The turns that this life sees to."""
        return self._unkept | {job.turn.id for job in self._jobs}

    # Turns ------------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while self._jobs:
            job = self._jobs[0]
            current_envelope.set(self._on_behalf(job))
            await self._turn(job)
            self._jobs.popleft()
            job.has_ended.set()
        self.be("idle")

    async def _turn(self, job: _Job) -> None:
        """See one turn through to its `stream_end`, whatever becomes of it."""
        self.activity.error = None
        self.be("thinking", job.turn.channel)
        job.after = self.say(job.turn, "stream_start", {}) - 1
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
        await self._learn(job.turn, answer)

    async def _learn(self, turn: Turn, answer: Answer) -> None:
        if self.shared.live.current.file_auto_learn and answer.state == "done" and self.principal.may("memory"):
            lesson = LearnFrom(
                session_id=turn.session_id, question=turn.content, reply=answer.text, provenance=answer.provenance
            )
            await self.tell(lesson)

    async def _claim(self, job: _Job) -> Answer | None:
        """Make the turn ours, which may take until the store is back; returns how it has ended if it is not ours."""
        if job.turn.state == "running":
            return None
        while True:
            try:
                turn = await self.ask_store(ClaimTurn(turn_id=job.turn.id, boot_id=self.shared.boot_id))
            except AWAY:
                await trio.sleep(STORE_AWAY_S)
            except PocketPawError as error:  # deleted, or ended by another
                return Answer("failed", error=error)
            else:
                if turn.state == "running":
                    return None
                return Answer("interrupted", error=Unavailable(f"the turn was interrupted: {turn.error}"))

    async def _answer(self, job: _Job) -> Answer:
        """Have the model answer. Whatever is expected to fail is part of the answer; anything else is a crash."""
        answer = Answer("done")
        timeout_s = self.shared.live.current.turn_timeout_s
        job.scope.relative_deadline = timeout_s
        try:
            with job.scope:
                await TurnLoop(self, job.turn, answer, job.scope).run(is_resumed=job.is_resumed)
        except PocketPawError as error:
            answer.state, answer.error = "failed", error
        finally:
            answer.provenance = self.provenance
        if job.scope.cancelled_caught:
            if job.is_stop_asked:
                answer.state = "stopped"
            else:
                answer.state = "failed"
                answer.error = TimedOut(f"the answer took longer than {timeout_s:g} s", timeout_s=timeout_s)
        return answer

    async def _keep(self, turn: Turn, answer: Answer) -> None:
        """Commit what came of the turn; if that cannot be done now, it is part of the answer, and done later."""
        finish = FinishTurn(
            turn_id=turn.id,
            boot_id=self.shared.boot_id,
            state=answer.state,
            content=answer.text,
            usage=answer.usage,
            error=answer.error.detail if answer.error else None,
            metadata={"provenance": list(answer.provenance)} if answer.provenance else {},
        )
        try:
            await self.ask_store(finish)
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

    def _tell_end(self, turn: Turn, answer: Answer) -> None:
        self._remember(turn, answer)
        if answer.error is not None:
            self.activity.error = answer.error.detail
            self.say(turn, "error", {"detail": answer.error.detail, "code": answer.error.code})
        end = {"state": answer.state, "usage": sum_of(answer.usage), "content": answer.text}
        self.say(turn, "stream_end", end)

    def _remember(self, turn: Turn, answer: Answer) -> None:
        if isinstance(answer.error, NotFound | Conflict):
            self.conversation.forget()
        else:
            reply = answer.text if answer.state in ("done", "stopped") else ""
            self.conversation.add(turn, reply, answer.provenance)
        self.activity.total_tokens += sum(usage.total_tokens for usage in answer.usage)

    # What a turn needs of its agent -----------------------------------------------------------------------------------

    async def ask_store(self, request: Message[R]) -> R:
        """Ask, and ask again where the store may just be starting anew."""
        for pause_s in STORE_PAUSES_S:
            try:
                return await self.ask(request)
            except AWAY:
                await trio.sleep(pause_s)
        return await self.ask(request)

    def redacted(self, value: object) -> object:
        """Plain data without secrets, for events."""
        return self._redactor.value(value)

    def say(self, turn: Turn, name: str, data: Mapping[str, object]) -> int:
        return self.publish(self._topic, name, {"session_id": self.session_id, "turn_id": turn.id, **data})

    def be(self, state: AgentState, channel: str | None = None, tool: str | None = None) -> None:
        activity = self.activity
        activity.state, activity.since, activity.channel = state, self.system.now(), channel or activity.channel
        activity.tool = tool
        if self.system.bus.has_listeners(AGENTS_TOPIC):
            self.publish(AGENTS_TOPIC, "status", {"session_id": self.session_id, "state": state})

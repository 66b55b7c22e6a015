"""Has the agent answer what people say in a chat, one message after the other, and shows them that it works on it.

The answer is taken from the store once its turn has ended there, so it makes no difference who worked on the turn.
What is shown of it before is decoration.
"""

from __future__ import annotations

import traceback
from collections import deque
from typing import TYPE_CHECKING, cast

import structlog
import trio

from ...runtime import Event, Subscription
from ...runtime.envelope import current_envelope
from ...runtime.errors import (
    BadRequest,
    Conflict,
    DeliveryFailure,
    Forbidden,
    InvalidInput,
    NeedsOperator,
    NotFound,
    TooLarge,
    TooManyRequests,
    TransientFailure,
    Unavailable,
)
from ...runtime.exits import describe
from ...storage.inbox import AnswerInbound, Inbound, answer_key, question_of
from ...storage.outbox import AddOutgoing, Line
from ...storage.turns import GetTurn, Turn
from ..agent import Accepted, Chat, session_topic
from ..health import RecordProblem
from . import wording
from .admission import principal_of
from .chat_platform import Place
from .draft import Draft
from .text_parts import split_text

if TYPE_CHECKING:
    from .channel import Channel

log = structlog.get_logger()

AGENT_AWAY_S = (1.0, 5.0, 15.0, 60.0)
"""Pauses before an agent is given a message again that it could not take; the last one again and again."""

LOOK_AGAIN_S = 15.0
"""Between looks at a turn of which nothing was heard: its agent may have died and its turn gone on elsewhere."""

TYPING_AFTER_S = 1.0
TYPING_EVERY_S = 4.5
"""Telegram shows it for 5 seconds, Discord for 10."""

REFUSALS = (BadRequest, InvalidInput, Conflict, Forbidden, TooLarge)
UNFINISHED = ("pending", "running")


class Attendant:
    """Works for the channel: a task for each chat in which something is to be answered."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting: dict[str, deque[Inbound]] = {}  # by session; the first one is in hand

    def attend(self, inbound: Inbound) -> None:
        """Have a message answered, after those before it in its session."""
        queue = self._waiting.setdefault(inbound.session_id, deque())
        queue.append(inbound)
        if len(queue) == 1:
            self._channel.spawn(self._work, inbound.session_id, queue)

    async def _work(self, session_id: str, queue: deque[Inbound]) -> None:
        while queue:
            current_envelope.set(None)  # what one message was marked with is not the next one's
            await self._answer(queue[0])
            queue.popleft()
        del self._waiting[session_id]

    async def _answer(self, inbound: Inbound) -> None:
        channel = self._channel
        place = Place(chat=inbound.chat, thread=inbound.thread or None, reply_to=question_of(inbound))
        draft = Draft(channel, place, answer_key(inbound.id, 0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_typing, place)
            text = await self._outcome(inbound, draft)
            nursery.cancel_scope.cancel()
        platform = channel.platform
        room = platform.text_limit - platform.length(wording.REPEAT_MARK)
        parts = split_text(text, room, platform.length) if text else []
        await channel.ask_store(AnswerInbound(inbound_id=inbound.id, parts=parts, now=channel.clock.now()))
        channel.deliverer.wake()

    async def _keep_typing(self, place: Place) -> None:
        await trio.sleep(TYPING_AFTER_S)
        while True:
            if not self._channel.deliverer.is_paused:
                await self._channel.platform.typing(place)
            await trio.sleep(TYPING_EVERY_S)

    # The turn ---------------------------------------------------------------------------------------------------------

    async def _outcome(self, inbound: Inbound, draft: Draft) -> str:
        """What is to be said; nothing where the session was deleted meanwhile."""
        after: int | None = None
        turn_id = inbound.turn_id
        try:
            if turn_id is None:
                accepted = await self._chat(inbound)
                if accepted.ended is not None:
                    return wording.answer_of(accepted.ended)
                turn_id, after = accepted.turn_id, accepted.after
            return wording.answer_of(await self._ended(inbound, turn_id, after, draft))
        except NotFound:
            return ""
        except REFUSALS as error:
            return f"I cannot take that: {error.detail}"
        except (TransientFailure, NeedsOperator):
            raise
        except Exception as error:  # noqa: BLE001 - over one message no channel may break again and again
            await self._report(inbound, error)
            return wording.BROKEN

    async def _report(self, inbound: Inbound, error: Exception) -> None:
        stack = "".join(traceback.format_exception(error))
        text = f"message {inbound.id} could not be answered: {describe(error)}"
        await self._channel.tell(RecordProblem(source=self._channel.path, message=text, traceback=stack))

    async def _chat(self, inbound: Inbound) -> Accepted:
        """Give the agent the message. Given again it is the same turn, so nothing is answered twice."""
        channel = self._channel
        if not inbound.is_trusted:
            channel.mark(f"{inbound.channel} {inbound.sender_name}")
        chat = Chat(
            session_id=inbound.session_id,
            content=wording.question_for(inbound),
            media=inbound.media,
            channel=inbound.channel,
            idempotency_key=inbound.key,
        )
        principal = principal_of(inbound, channel.settings)
        pauses = iter(AGENT_AWAY_S)
        while True:
            try:
                return await channel.system.ask(chat, principal=principal, sender=channel.path)
            except (Unavailable, DeliveryFailure, TooManyRequests) as error:
                pause_s = next(pauses, AGENT_AWAY_S[-1])
                log.info("a message is given to the agent again", actor=channel.path, reason=error.detail)
                await trio.sleep(pause_s)

    async def _ended(self, inbound: Inbound, turn_id: str, after: int | None, draft: Draft) -> Turn:
        """The turn, once it has ended.

        Raises:
            NotFound: it was deleted with its session.
        """
        topic = session_topic(inbound.session_id)
        while True:
            with self._channel.system.bus.subscribe(topic, after) as subscription:
                turn = await self._stored(turn_id) if after is None or subscription.has_gap else None
                if turn is not None and turn.state not in UNFINISHED:
                    return turn
                await self._follow(subscription, inbound, turn_id, draft)
            turn = await self._stored(turn_id)
            if turn.state not in UNFINISHED:
                return turn
            after = None

    async def _stored(self, turn_id: str) -> Turn:
        return await self._channel.ask_store(GetTurn(turn_id=turn_id))

    async def _follow(self, subscription: Subscription, inbound: Inbound, turn_id: str, draft: Draft) -> None:
        """Show what comes of the turn, until it has ended or nothing is heard of it."""
        look_at = trio.current_time() + LOOK_AGAIN_S
        while trio.current_time() < look_at:
            events: list[Event] = []
            with trio.move_on_at(min(look_at, draft.due_at)):
                events = await subscription.take()
                if not events:
                    return
                look_at = trio.current_time() + LOOK_AGAIN_S
            for event in events:
                data = cast("dict[str, object]", event.data())
                if data.get("turn_id") != turn_id:
                    continue
                match event.name:
                    case "chunk":
                        draft.add(str(data.get("content", "")))
                    case "approval_required":
                        await self._ask_approval(inbound, data)
                    case "stream_end":
                        return
                    case _:
                        pass  # nothing that is shown in a chat
            await draft.show()

    async def _ask_approval(self, inbound: Inbound, data: dict[str, object]) -> None:
        channel = self._channel
        text = wording.approval_line(str(data.get("tool")), data.get("input"), str(data.get("reason", "")))
        line = Line(
            key=f"approval:{data.get('request_id')}:{inbound.id}",
            channel=inbound.channel,
            chat=inbound.chat,
            thread=inbound.thread,
            text=text,
        )
        await channel.ask_store(AddOutgoing(line=line, now=channel.clock.now()))
        channel.deliverer.wake()

"""One channel: an actor for as long as the connection to its platform lasts.

Its life is the connection's: that `listen` fails, ends, or is silent for too long is the actor's end, and its
supervisor starts it anew. What was heard is in the inbox before the platform is told so; what is said is in the outbox
before it is tried. So a new life goes on from there.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, TypeVar

import structlog
import trio

from ...config.logs import Redactor
from ...config.settings import Settings
from ...runtime import Actor, Message, Principal
from ...runtime.errors import (
    Conflict,
    DeliveryFailure,
    Forbidden,
    NotFound,
    TransientFailure,
    Unavailable,
)
from ...storage.inbox import AnswerInbound, Inbound, ListOpenInbound, Recognize, Standing, TakeIn
from ...storage.outbox import RecoverOutbox
from ...storage.tool_calls import CallRecord, ListWaitingCalls
from ..agent import StopTurn
from ..audit.trail import RecordAct
from ..scheduler.clock import Clock, SystemClock
from ..settings import LiveSettings
from ..tools.gate import DecideApproval
from . import wording
from .admission import code_in, digest_of, principal_of, session_base, standing_of
from .attendant import Attendant
from .chat_platform import Heard, Platform
from .deliverer import Deliverer
from .platforms import PlatformInfo
from .protocol import NOTIFICATION

R = TypeVar("R")

log = structlog.get_logger()

SILENCE_LIMIT_S = 180.0
"""Without a proven round trip for so long the connection counts as dead, whatever the platform's class thinks of it."""

FRESH_S = 120.0
"""A round trip so long ago still shows that it runs."""

LAST_WORDS_S = 4.0
"""For the message that is being said when the channel is stopped; less than the child's time to stop."""

TEXT_LIMIT = 100_000
"""Characters of a message that an agent takes."""

STORE_PAUSES_S = (0.05, 0.5)
"""Before the store is asked again for what it failed to do: its writer may just be starting anew."""

AWAY = (Unavailable, DeliveryFailure)


class Channel(Actor):
    """Listens in one task, delivers in another, and attends to each chat in one of its own."""

    has_tasks: ClassVar[bool] = True
    proves_health: ClassVar[bool] = True

    def __init__(
        self,
        info: PlatformInfo,
        connection: tuple[object, ...],
        live: LiveSettings,
        boot_id: str,
        clock: Clock | None = None,
    ) -> None:
        """`connection` is what its settings were when it was made, by which the keeper sees whether they still are."""
        super().__init__()
        self.info = info
        self.connection = connection
        self.clock = clock or SystemClock()
        self.last_heard: float | None = None
        """When a round trip was last proven, on trio's clock; as `ok_in`, in the time of day."""
        self.ok_in: datetime | None = None
        self.claim = f"{boot_id}/{secrets.token_hex(4)}"
        """Of this life alone: where a channel was switched off and on, its incarnations are counted anew."""
        self.deliverer = Deliverer(self)
        self.redactor = Redactor(lambda: live.secrets)
        self._attendant = Attendant(self)
        self._live = live
        self._platform: Platform | None = None

    @property
    def platform(self) -> Platform:
        assert self._platform is not None
        return self._platform

    @property
    def settings(self) -> Settings:
        return self._live.current

    @property
    def is_connected(self) -> bool:
        return self.last_heard is not None and self.system.now() - self.last_heard < FRESH_S

    async def on_start(self) -> None:
        self.spawn(self._live_on)

    async def on_stop(self) -> None:
        """See what is being said to its end, so that nobody has to wonder whether it was, and begin nothing more."""
        with trio.move_on_after(LAST_WORDS_S):
            await self.deliverer.saying.acquire()

    async def ask_store(self, request: Message[R]) -> R:
        """Ask, and ask again where the store may just be starting anew.

        Raises:
            TransientFailure: it cannot be used, so the channel cannot either.
        """
        for pause_s in STORE_PAUSES_S:
            try:
                return await self.ask(request)
            except AWAY:
                await trio.sleep(pause_s)
        try:
            return await self.ask(request)
        except AWAY as error:
            raise TransientFailure(f"nothing can be kept: {error.detail}") from error

    # Its life ---------------------------------------------------------------------------------------------------------

    async def _live_on(self) -> None:
        name = self.info.name
        self._platform = self.info.open(self._live)
        recover = RecoverOutbox(
            channel=name, claim=self.claim, is_idempotent=self.platform.is_idempotent, now=self.clock.now()
        )
        await self.ask_store(recover)
        for inbound in await self.ask_store(ListOpenInbound(channel=name)):
            await self._route(inbound)
        self.spawn(self.deliverer.run)
        self.spawn(self._listen_for_notices)
        self.spawn(self._require_signs_of_life)
        await self.platform.listen(self._hear, self._prove)
        raise TransientFailure(f"the connection to {self.info.title} has ended")

    def _prove(self) -> None:
        self.last_heard, self.ok_in = self.system.now(), self.clock.now()
        self.prove_health()

    async def _require_signs_of_life(self) -> None:
        since = self.system.now()
        while True:
            heard = self.last_heard or since
            left_s = heard + SILENCE_LIMIT_S - self.system.now()
            if left_s <= 0:
                raise TransientFailure(f"{self.info.title} has been silent for {SILENCE_LIMIT_S:g} s")
            await trio.sleep(left_s)

    async def _listen_for_notices(self) -> None:
        """A reminder that has come may be in the outbox."""
        with self.system.bus.subscribe("events") as subscription:
            while events := await subscription.take():
                if any(event.name == NOTIFICATION for event in events):
                    self.deliverer.wake()
        raise TransientFailure("more happened at once than could be followed")

    # What comes in ----------------------------------------------------------------------------------------------------

    async def _hear(self, heard: Heard) -> None:
        """Take in a message; returns when it is on disk."""
        command = wording.command_in(heard.text)
        code = code_in(heard.text) if heard.is_direct else None
        standing = standing_of(self.info, self.settings, heard)
        media, remarks = await self._media(heard, standing)
        taken = await self.ask_store(
            TakeIn(
                channel=self.info.name,
                key=heard.key,
                chat=heard.chat,
                thread=heard.thread or "",
                ref=heard.ref,
                sender=heard.sender,
                sender_name=heard.sender_name,
                is_direct=heard.is_direct,
                text="\n".join([heard.text[:TEXT_LIMIT], *remarks]).strip(),
                media=list(media),
                standing=standing,
                session_base=session_base(self.info.name, heard.chat, heard.thread or ""),
                code_digest=digest_of(code) if code is not None else None,
                answer=wording.ANSWERS[command] if command is not None else None,
                opens_session=command == "new",
                paired_line=wording.PAIRED,
                stranger_line=wording.STRANGER,
                now=self.clock.now(),
            )
        )
        inbound = taken.inbound
        if taken.is_new and inbound is not None:
            if command == "stop":
                self.spawn(self._stop_turn, inbound)
            elif taken.is_open:
                await self._route(inbound)
            elif taken.is_paired:
                await self._record_pairing(inbound)
        self.deliverer.wake()

    async def _media(self, heard: Heard, standing: Standing) -> tuple[Sequence[str], Sequence[str]]:
        """What came with a message; of strangers, and with a repeat, nothing is fetched."""
        if heard.fetch is None:
            return heard.media, ()
        known = await self.ask_store(Recognize(channel=self.info.name, key=heard.key, sender=heard.sender))
        if known.is_known or (standing == "stranger" and not known.is_paired):
            return (), ()
        return await heard.fetch()

    async def _record_pairing(self, inbound: Inbound) -> None:
        act = RecordAct(
            action="channel_paired",
            category="channels",
            description=f"{inbound.sender_name} was paired on {self.info.title}",
            context={"channel": self.info.name, "sender": inbound.sender},
        )
        principal = Principal(f"{inbound.channel}:{inbound.sender}")
        try:
            await self.system.ask(act, principal=principal, sender=self.path)
        except AWAY as error:
            log.warning("a pairing was not audited", actor=self.path, sender=inbound.sender, reason=error.detail)

    async def _route(self, inbound: Inbound) -> None:
        """Give an open message to the agent, or, if it answers a question of ours, to whom that concerns."""
        approved = wording.decision_in(inbound.text) if inbound.is_trusted and inbound.turn_id is None else None
        if approved is not None:
            waiting = await self.ask_store(ListWaitingCalls(session_id=inbound.session_id, limit=500))
            # One that has come since was not what the answer meant.
            asked = [call for call in waiting if call.created_at <= inbound.created_at]
            if asked:
                self.spawn(self._decide, inbound, asked[0], approved)
                return
        self._attendant.attend(inbound)

    async def _decide(self, inbound: Inbound, call: CallRecord, is_approved: bool) -> None:
        principal = principal_of(inbound, self.settings)
        decide = DecideApproval(request_id=call.request_id, approved=is_approved)
        try:
            await self.system.ask(decide, principal=principal, sender=self.path)
        except (Forbidden, Conflict, NotFound, *AWAY) as error:
            line = wording.undecided_line(call, error.detail)
        else:
            line = wording.decided_line(call, is_approved=is_approved)
        await self.ask_store(AnswerInbound(inbound_id=inbound.id, parts=[line], now=self.clock.now()))
        self.deliverer.wake()

    async def _stop_turn(self, inbound: Inbound) -> None:
        stop = StopTurn(session_id=inbound.session_id)
        try:
            await self.system.ask(stop, principal=principal_of(inbound, self.settings), sender=self.path)
        except NotFound:
            return  # nothing is being answered
        except AWAY as error:
            log.info("a turn was not stopped", actor=self.path, session=inbound.session_id, reason=error.detail)

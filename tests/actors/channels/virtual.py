"""A channel in virtual time: the real store's SQL in the loop, a platform that does as it is told."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import ClassVar

import trio
from pocketpaw.actors.agent import Accepted, Chat, Stopped, StopTurn, session_topic
from pocketpaw.actors.channels.channel import Channel
from pocketpaw.actors.channels.chat_platform import Hear, Heard, Place, Platform
from pocketpaw.actors.channels.platforms import PLATFORMS, PlatformInfo
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.runtime import CONNECTOR, Actor, ActorSystem, Child, DynamicSupervisor, Report, Supervisor
from pocketpaw.runtime.cell import Cell
from pocketpaw.storage.database import open_database
from pocketpaw.storage.turns import AddTurn, FinishTurn
from sqlalchemy import text

from ...conftest import run_without_leak
from ..scheduler.virtual import Faults, LoopStore, VirtualClock
from .conftest import FakeHealth, Model

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PATH = "channels/adapters/telegram"
POLL_S = 25.0


@dataclass
class World:
    """What a platform is like, whichever life of the channel looks at it."""

    fails: Callable[[], Exception | None] = lambda: None
    """Asked at each attempt to connect, and with each poll."""
    says: Callable[[str], Exception | None] = lambda _text: None
    """Asked before something is said; with an exception it is not."""
    takes_s: float = 0.01
    is_deaf: bool = False
    returns: bool = False
    edit_every_s: float = 0.0
    attempts: list[float] = field(default_factory=list[float])
    tries: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    shown: list[str] = field(default_factory=list[str])
    edits: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    keys: list[str] = field(default_factory=list[str])
    inbox: list[Heard] = field(default_factory=list[Heard])
    is_typing: int = 0
    said: trio.Event = field(default_factory=trio.Event)

    def say(self, text: str, key: str = "", sender: str = "42", chat: str = "42", *, is_direct: bool = True) -> None:
        key = key or f"{chat}:{len(self.inbox)}"
        self.inbox.append(
            Heard(key=key, chat=chat, sender=sender, sender_name="Ann", text=text, is_direct=is_direct, ref="7")
        )
        self.said.set()


class FakePlatform:
    name: ClassVar[str] = "telegram"
    text_limit: ClassVar[int] = 200
    edit_every_s: ClassVar[float] = 0.0
    is_idempotent: ClassVar[bool] = False

    def __init__(self, world: World) -> None:
        self._world = world

    def length(self, text: str) -> int:
        return len(text)

    async def listen(self, hear: Hear, proven: Callable[[], None]) -> None:
        world = self._world
        world.attempts.append(trio.current_time())
        heard = 0
        while True:
            problem = world.fails()
            if problem is not None:
                raise problem
            if world.returns:
                return
            if world.is_deaf:
                await trio.sleep_forever()
            proven()
            for message in world.inbox[heard:]:
                await hear(message)
                heard += 1
            with trio.move_on_after(POLL_S):
                await world.said.wait()
            world.said = trio.Event()

    async def send(self, place: Place, text: str, key: str) -> str:
        world = self._world
        world.tries.append((trio.current_time(), text))
        await trio.sleep(world.takes_s)
        problem = world.says(text)
        if problem is not None:
            raise problem
        world.shown.append(text)
        world.keys.append(key)
        return str(len(world.shown) - 1)

    async def edit(self, place: Place, ref: str, text: str) -> None:
        problem = self._world.says(text)
        if problem is not None:
            raise problem
        self._world.shown[int(ref)] = text
        self._world.edits.append((ref, text))

    async def typing(self, place: Place) -> None:
        self._world.is_typing += 1


class EchoAgent(Actor):
    """Says again what it is told, in pieces, and commits it as the real one does; that one uses threads."""

    has_tasks = True

    def __init__(self, session_id: str, model: Model) -> None:
        super().__init__()
        self._topic = session_topic(session_id)
        self._model = model
        self._scope = trio.CancelScope()

    async def chat(self, message: Chat) -> Accepted:
        after = self.system.bus.last_seq(self._topic)
        facts = {name: getattr(message, name) for name in ("session_id", "content", "channel", "idempotency_key")}
        turn_id, principal = f"t-{message.idempotency_key}", self.principal.name
        added = await self.ask(AddTurn(turn_id=turn_id, state="running", boot_id="boot", principal=principal, **facts))
        if added.turn.state not in ("pending", "running"):
            return Accepted(added.turn.session_id, added.turn.id, after, ended=added.turn)
        if added.created:
            self._model.asked.append(message.content)
            self._model.askers.append((principal, sorted(self.principal.scopes), self.provenance))
            self.spawn(self._say, added.turn.id, f"echo: {message.content}")
        return Accepted(added.turn.session_id, added.turn.id, after)

    async def stop_turn(self, message: StopTurn) -> Stopped:
        self._scope.cancel()
        return Stopped("ok", message.session_id)

    async def _say(self, turn_id: str, text: str) -> None:
        self._scope = trio.CancelScope()
        said = ""
        size = -(-len(text) // self._model.pieces)
        with self._scope:
            for start in range(0, len(text), size):
                await trio.sleep(self._model.pause_s)
                piece = text[start : start + size]
                said += piece
                self.publish(self._topic, "chunk", {"turn_id": turn_id, "content": piece})
        state = "stopped" if self._scope.cancelled_caught else "done"
        await self.ask(FinishTurn(turn_id=turn_id, boot_id="boot", state=state, content=said))
        self.publish(self._topic, "stream_end", {"turn_id": turn_id})


class FakeInfo(PlatformInfo):
    """Telegram, but for what speaks to it."""

    world: ClassVar[World]

    def open(self, live: LiveSettings) -> Platform:
        paced = type("PacedPlatform", (FakePlatform,), {"edit_every_s": self.world.edit_every_s})
        return paced(self.world)


@dataclass
class Running:
    system: ActorSystem
    world: World
    model: Model
    problems: list[str]
    reports: list[Report]

    @property
    def node(self) -> Cell:
        node = self.system.nodes[PATH]
        assert isinstance(node, Cell)
        return node

    @property
    def channel(self) -> Channel:
        assert isinstance(self.node.actor, Channel)
        return self.node.actor


RunVirtual = Callable[..., AbstractAsyncContextManager[Running]]


@asynccontextmanager
async def virtual_channel(
    live: LiveSettings, world: World, model: Model | None = None, boot: str = "boot", *, is_open: bool = False
) -> AsyncGenerator[Running]:
    """Run a channel on the world's platform; in a second one the database is the same."""
    info = PLATFORMS["telegram"]
    facts = {name: getattr(info, name) for name in ("name", "title", "prefix", "needs", "speaker", "extra", "people")}
    fake = type("Info", (FakeInfo,), {"world": world})(**facts, is_open=is_open)
    database = open_database(f"sqlite:///{live.home.root}/pocketpaw.db")
    writer, reader = database.connect_writer(), database.connect_reader()
    for connection in (writer, reader):
        connection.execute(text("SELECT 1"))
        connection.rollback()
    store = partial(LoopStore, writer, reader, Faults())
    model, problems, reports = model or Model(), list[str](), list[Report]()
    clock = VirtualClock(START)
    adapter = Child(
        Channel,
        fake,
        fake.connection(live.current),
        live,
        boot,
        clock,
        id="telegram",
        backoff=CONNECTOR,
        on_limit="park",
        max_restarts=10,
        max_seconds=600.0,
        probe_s=60.0,
    )
    tree = Supervisor(
        "root",
        [
            Supervisor("store", [Child(store, id="writer"), Child(store, id="reader")]),
            Child(FakeHealth, problems, id="health"),
            DynamicSupervisor("agents", partial(EchoAgent, model=model)),
            Supervisor("channels", [Supervisor("adapters", [adapter])]),
        ],
    )
    try:
        async with run_without_leak(tree, reports.append) as system:
            yield Running(system, world, model, problems, reports)
    finally:
        writer.close()
        reader.close()
        database.close()

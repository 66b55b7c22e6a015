"""The keeper of channels: has an actor for each that is to run, says how each is, and changes what they hang on."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog
import trio

from ...config.logs import Redactor
from ...runtime import Actor, Child, Done, DynamicSupervisor, SupervisorNode
from ...runtime.cell import Cell
from ...runtime.errors import BadRequest, InvalidInput, NotBuilt, NotFound, PocketPawError
from ...runtime.node import Node
from ...storage.inbox import PruneChannels
from ...storage.outbox import SumUpOutbox
from ...storage.pairings import DropPairing, KeepPairingCode, ListPairings, Pairing
from ...storage.tables import utc_now
from ..access.scopes import refuse_wider
from ..settings import ChangeSettings, LiveSettings
from .admission import CODE_ALPHABET, CODE_LENGTH, digest_of
from .alarm import Alarm
from .channel import Channel
from .media import forget_old_media
from .platforms import PLATFORMS, PlatformInfo, platform_named
from .protocol import (
    ADAPTERS,
    ChannelState,
    ChannelStatus,
    ChannelToggled,
    GetChannelProblems,
    GetChannelsStatus,
    GetChannelStatus,
    ListChannelPairings,
    MakePairingCode,
    PairingCode,
    SaveChannel,
    ToggleChannel,
    Unpair,
)

log = structlog.get_logger()

AUTOSTART = "autostart"

LOOK_S = 10.0
"""That each channel that is to run has its actor is seen to this often: an operator may have restarted the others."""

START_WAIT_S = 3.0
"""How long a start waits to see whether it works; it goes on anyway."""

PRUNE_FIRST_S, PRUNE_EVERY_S = 60.0, 86_400.0
HISTORY = timedelta(days=7)
"""What is done with is kept for so long: longer than any platform repeats a message, or the outbox tries one."""

CODE_LIFETIME = timedelta(minutes=15)


@dataclass
class Switches:
    """What operators have switched since the daemon's start; outlives the keeper, which may crash."""

    is_on: dict[str, bool] = field(default_factory=dict[str, bool])


class ChannelsKeeper(Actor):
    """Answers from what is there now; channels are started and stopped in a task of its own."""

    has_tasks = True
    concurrency = 16

    def __init__(self, live: LiveSettings, boot_id: str, switches: Switches) -> None:
        super().__init__()
        self._live = live
        self._boot_id = boot_id
        self._switches = switches
        self._redactor = Redactor(lambda: live.secrets)
        self._changing = trio.Lock()
        self._saving = trio.Lock()  # `channel_autostart` is read, changed and written back
        self._changed = trio.Event()

    async def on_start(self) -> None:
        self.spawn(self._keep_in_step)
        self.spawn(self._follow_settings)
        self.spawn(self._keep_small)
        self.spawn(Alarm(self, self._live).run)

    # What operators use -----------------------------------------------------------------------------------------------

    async def get_channels_status(self, message: GetChannelsStatus) -> dict[str, ChannelStatus]:
        return {name: self._status(info) for name, info in PLATFORMS.items()}

    async def get_channel_status(self, message: GetChannelStatus) -> ChannelStatus:
        return self._status(_known(message.channel))

    async def save_channel(self, message: SaveChannel) -> Done:
        info = _known(message.channel)
        async with self._saving:
            await self.ask(ChangeSettings(changes=self._changes(info, message.config)))
        await self._bring_in_step()
        return Done()

    def _changes(self, info: PlatformInfo, config: Mapping[str, object]) -> dict[str, object]:
        changes: dict[str, object] = {}
        for name, value in config.items():
            if name == AUTOSTART:
                changes["channel_autostart"] = self._autostart(info, value)
                continue
            setting = info.setting_named(name)
            if setting is None:
                known = ", ".join((*info.settings, AUTOSTART))
                raise InvalidInput(
                    f"{info.title} has no setting {name!r}: expected some of {known}", field=["config", name]
                )
            changes[setting] = value
        return changes

    async def toggle_channel(self, message: ToggleChannel) -> ChannelToggled:
        info = _known(message.channel)
        is_start = message.action == "start"
        if is_start and not info.speaker:
            raise NotBuilt(f"the channel {info.name} is not built yet: it can be set up, but not started")
        if not info.is_configured(self._live.current):
            raise BadRequest(f"{info.title} is not configured: it needs {' and '.join(info.needs)}")
        self._switches.is_on[info.name] = is_start
        node = self._node(info.name)
        if is_start and node is not None and node.state in ("parked", "backoff"):
            await self._dismiss(info.name)  # an operator does not wait for the next probe
        await self._bring_in_step()
        log.info("a channel was switched", actor=self.path, channel=info.name, on=is_start, by=self.principal.name)
        if is_start:
            await self._see_it_start(info)
        return ChannelToggled(info.name, configured=True, running=self._status(info).running)

    async def make_pairing_code(self, message: MakePairingCode) -> PairingCode:
        info = _known(message.channel)
        if not info.speaker:
            raise NotBuilt(f"the channel {info.name} is not built yet: nobody can be paired there")
        refuse_wider(self.principal, self._live.current.channel_scopes)
        code = "".join(secrets.choice(CODE_ALPHABET) for _ in range(CODE_LENGTH))
        now = utc_now()
        expires_at = now + CODE_LIFETIME
        made_by = self.principal.name
        await self.ask(
            KeepPairingCode(digest=digest_of(code), channel=info.name, made_by=made_by, expires_at=expires_at, now=now)
        )
        shown = f"{code[:5]}-{code[5:]}"
        log.info("a pairing code was made", actor=self.path, channel=info.name, by=made_by)
        return PairingCode(info.name, shown, expires_at, f"Send {shown} to the bot on {info.title}, in a direct chat.")

    async def list_channel_pairings(self, message: ListChannelPairings) -> list[Pairing]:
        return await self.ask(ListPairings())

    async def unpair(self, message: Unpair) -> Done:
        info = _known(message.channel)
        await self.ask(DropPairing(channel=info.name, sender=message.sender))
        log.info("a pairing was ended", actor=self.path, channel=info.name, by=self.principal.name)
        return Done()

    async def get_channel_problems(self, message: GetChannelProblems) -> list[str]:
        return [
            f"{outbox.channel}: {outbox.given_up} messages could not be delivered in the last 24 hours"
            for outbox in await self.ask(SumUpOutbox(now=utc_now()))
            if outbox.given_up
        ]

    def _autostart(self, info: PlatformInfo, value: object) -> dict[str, bool]:
        if not isinstance(value, bool):
            raise InvalidInput(f"expected true or false, got {value!r}", field=["config", AUTOSTART])
        return {**self._live.current.channel_autostart, info.name: value}

    # The channels' actors ---------------------------------------------------------------------------------------------

    async def _follow_settings(self) -> None:
        while True:
            with self.system.bus.subscribe("events") as subscription:
                while events := await subscription.take():
                    if any(event.name == "settings_changed" for event in events):
                        self._changed.set()
            self._changed.set()  # it was cut off, and may have missed a change

    async def _keep_in_step(self) -> None:
        while True:
            self._changed = trio.Event()
            await self._bring_in_step()
            with trio.move_on_after(LOOK_S if self._wanted() else float("inf")):
                await self._changed.wait()

    async def _keep_small(self) -> None:
        """Once a day, forget what is done with, and the files that came with it long ago."""
        await trio.sleep(PRUNE_FIRST_S)
        while True:
            now = utc_now()
            try:
                await self.ask(PruneChannels(before=now - HISTORY))
                await trio.to_thread.run_sync(forget_old_media, self._live.home, now)
            except (PocketPawError, OSError) as error:
                reason = error.detail if isinstance(error, PocketPawError) else str(error)
                log.warning("what is old was not forgotten", actor=self.path, reason=reason)
            await trio.sleep(PRUNE_EVERY_S)

    def _wanted(self) -> Mapping[str, PlatformInfo]:
        return {name: info for name, info in PLATFORMS.items() if self._is_wanted(info)}

    def _is_wanted(self, info: PlatformInfo) -> bool:
        settings = self._live.current
        autostart = settings.channel_autostart.get(info.name, True)
        is_on = self._switches.is_on.get(info.name, autostart)
        return bool(info.speaker) and is_on and info.is_configured(settings)

    async def _bring_in_step(self) -> None:
        """Have an actor for each channel that is to run, on the settings as they are now, and no other."""
        async with self._changing:
            wanted = self._wanted()
            present = {node.name: node for node in self._supervisor().which_children()}
            async with trio.open_nursery() as nursery:
                for name in wanted.keys() | present.keys():
                    info = wanted.get(name)
                    connection = info.connection(self._live.current) if info is not None else None
                    if name not in present or _connection_of(present[name]) != connection:
                        nursery.start_soon(self._renew, name, info, name in present)

    async def _renew(self, name: str, info: PlatformInfo | None, is_present: bool) -> None:
        if is_present:
            await self._dismiss(name)
        if info is not None:
            try:
                await self._start(info)
            except PocketPawError as error:  # it is looked at again
                log.info("a channel was not started", actor=self.path, channel=name, reason=error.detail)

    async def _start(self, info: PlatformInfo) -> Node:
        supervisor = self._supervisor()
        assert isinstance(supervisor.spec, DynamicSupervisor)
        connection = info.connection(self._live.current)
        policy: dict[str, Any] = {**supervisor.spec.child_options, "id": info.name}
        return await supervisor.start_child(Child(Channel, info, connection, self._live, self._boot_id, **policy))

    async def _dismiss(self, name: str) -> None:
        try:
            await self._supervisor().terminate_child(name)
        except NotFound:
            return  # it has gone by itself

    async def _see_it_start(self, info: PlatformInfo) -> None:
        with trio.move_on_after(START_WAIT_S):
            while self._status(info).state == "starting":  # noqa: ASYNC110 it is another actor's state
                await trio.sleep(0.05)

    def _supervisor(self) -> SupervisorNode:
        node = self.system.node(ADAPTERS)
        assert isinstance(node, SupervisorNode)
        return node

    # What is there now ------------------------------------------------------------------------------------------------

    def _status(self, info: PlatformInfo) -> ChannelStatus:
        settings = self._live.current
        node, channel = self._node(info.name), self._channel(info.name)
        is_running = channel is not None and channel.is_connected
        told: dict[str, object] = {}
        if info.mode:
            told["mode"] = getattr(settings, info.mode)
        if node is not None and node.last_error and not is_running:
            told["last_error"] = self._redactor.text(node.last_error)
        if channel is not None:
            told["last_ok_in"], told["last_ok_out"] = channel.ok_in, channel.deliverer.ok_at
        return ChannelStatus(
            configured=info.is_configured(settings),
            running=is_running,
            autostart=settings.channel_autostart.get(info.name, True),
            restarts=node.restarts if node is not None else 0,
            state=_state(node, channel),
            incarnation=node.number if node is not None else 0,
            **{name: value for name, value in told.items() if value is not None},  # pyright: ignore[reportArgumentType] - each is of its field
        )

    def _channel(self, name: str) -> Channel | None:
        """The actor that runs for a channel, if it does."""
        node = self._node(name)
        if node is None or node.state != "running":
            return None
        return node.actor if isinstance(node.actor, Channel) else None

    def _node(self, name: str) -> Cell | None:
        node = self.system.nodes.get(f"{ADAPTERS}/{name}")
        return node if isinstance(node, Cell) else None


def _state(node: Cell | None, channel: Channel | None) -> ChannelState:
    if node is None:
        return "off"
    if channel is not None:
        if channel.is_connected:
            return "connected"
        return "starting" if channel.last_heard is None else "silent"
    if node.state in ("parked", "stopping"):
        return node.state
    return "backoff" if node.state in ("crashed", "backoff", "stopped") else "starting"


def _connection_of(node: Node) -> tuple[object, ...]:
    assert isinstance(node, Cell)
    return node.spec.args[1]


def _known(name: str) -> PlatformInfo:
    info = platform_named(name)
    if info is None:
        raise NotFound(f"there is no channel {name!r}: expected one of {', '.join(PLATFORMS)}")
    return info

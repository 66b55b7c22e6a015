"""The kits: what is installed, what its panels show, and its workflows, which the scheduler runs.

Invariant: a kit is in the store before the scheduler has its workflows, and until it has them the kit is not settled
there; so what comes in between, a crash or a scheduler that is away, is made good.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

import msgspec
import structlog
import trio

from ...runtime import Actor, Principal
from ...runtime.errors import Forbidden, InvalidInput, NotFound, PocketPawError
from ...storage.history import GetHistory
from ...storage.jobs import ListJobs
from ...storage.kits import (
    OWNER_PREFIX,
    ChangeKit,
    DropKit,
    GetStoredKit,
    KeepKit,
    ListFailedWorkflows,
    ListStoredKits,
    SettleKit,
    StoredKit,
)
from ...storage.tables import utc_now
from ..health import EVENTS, SystemEvent
from ..scheduler.intentions import SetWorkflows, Workflow, intention_session
from .catalogue import built_in_kit, built_in_kits
from .format import KitConfig, read_kit
from .problems import GetKitProblems
from .protocol import (
    ActivateKit,
    CatalogEntry,
    DeactivateKit,
    GetKit,
    GetKitData,
    GetKitSource,
    InstallCatalogKit,
    InstallKit,
    Kit,
    KitAnswer,
    KitCatalog,
    KitChanged,
    KitData,
    KitInstalled,
    KitList,
    ListKitCatalog,
    ListKits,
    RemoveKit,
    SourceData,
    WorkflowResult,
)
from .sources import API, SOURCES, WORKFLOW

log = structlog.get_logger()

SOURCE_S = 5.0
"""For each source: one that hangs must not keep the other panels empty."""

SETTLE_S = 60.0
"""How often it is looked whether the scheduler has missed something."""

RESERVED = "catalog"
"""Stands in the place of a kit's id where the catalogue is asked for."""

LATEST = 10
"""Messages among which a workflow's last answer is looked for."""


class Kits(Actor):
    """Keeps nothing itself: what is not in the store is not so. One change is made after the other."""

    concurrency = 16
    has_tasks = True

    def __init__(self) -> None:
        super().__init__()
        self._changing = trio.Lock()
        self._built_in: dict[str, KitConfig] | None = None  # until they have been read

    async def on_start(self) -> None:
        self.spawn(self._keep_settled)

    async def _keep_settled(self) -> None:
        while True:
            try:
                async with self._changing:
                    await self._settle_all()
            except PocketPawError as error:
                log.warning("the kits cannot be looked after", actor=self.path, reason=error.detail)
            await trio.sleep(SETTLE_S)

    async def _settle_all(self) -> None:
        for stored in await self.ask(ListStoredKits()):
            if stored.settled or (stored.active and _problem(stored) is not None):  # of the latter health tells
                continue
            try:
                await self._settle(stored)
            except PocketPawError as error:
                log.warning("a kit was not switched", actor=self.path, kit=stored.id, reason=error.detail)

    async def list_kit_catalog(self, message: ListKitCatalog) -> KitCatalog:
        if self._built_in is None:
            self._built_in = await trio.to_thread.run_sync(built_in_kits)
        installed = {stored.id for stored in await self.ask(ListStoredKits())}
        entries = [
            _entry(kit_id, config, is_installed=kit_id in installed) for kit_id, config in self._built_in.items()
        ]
        return KitCatalog(entries, len(entries))

    async def list_kits(self, message: ListKits) -> KitList:
        """Without those that cannot be read, of which health tells."""
        kits = [kit for stored in await self.ask(ListStoredKits()) if (kit := _shown_if_readable(stored)) is not None]
        return KitList(kits, len(kits))

    async def get_kit(self, message: GetKit) -> KitAnswer:
        return KitAnswer(_shown(await self.ask(GetStoredKit(kit_id=message.kit_id))))

    async def get_kit_problems(self, message: GetKitProblems) -> list[str]:
        unreadable = [
            f"the kit {stored.id} cannot be read: {problem}"
            for stored in await self.ask(ListStoredKits())
            if (problem := _problem(stored)) is not None
        ]
        failed = [
            f"the workflow {workflow.name!r} of the kit {workflow.kit_id} has failed: {workflow.error}"
            for workflow in await self.ask(ListFailedWorkflows())
        ]
        return unreadable + failed

    async def install_catalog_kit(self, message: InstallCatalogKit) -> KitInstalled:
        await trio.to_thread.run_sync(built_in_kits)
        config = built_in_kit(message.kit_id)
        return await self._install(message.kit_id, config, message.user_values, is_active=True)

    async def install_kit(self, message: InstallKit) -> KitInstalled:
        config = await trio.to_thread.run_sync(read_kit, message.yaml)
        if config.meta.built_in:
            raise InvalidInput("the kit cannot be used: it is not built in - at `$.meta.built_in`", field="yaml")
        kit_id = message.kit_id or _id_from(config.meta.name)
        if kit_id == RESERVED:
            raise InvalidInput(f"no kit may be called {RESERVED!r}: give it another id", field="kit_id")
        return await self._install(kit_id, config, message.user_values, is_active=False)

    async def remove_kit(self, message: RemoveKit) -> KitChanged:
        async with self._changing:
            stored = await self.ask(GetStoredKit(kit_id=message.kit_id))
            await self._switch(stored, is_active=False)
            await self.ask(DropKit(kit_id=stored.id))
        self._tell("kit_removed", stored.id, "removed")
        return KitChanged(True, f"Kit {stored.id} removed")

    async def activate_kit(self, message: ActivateKit) -> KitChanged:
        async with self._changing:
            stored = await self.ask(GetStoredKit(kit_id=message.kit_id))
            values = _shown(stored).config.values({**stored.user_values, **message.user_values})
            await self._switch(msgspec.structs.replace(stored, user_values=values), is_active=True)
        self._tell("kit_activated", stored.id, "activated")
        return KitChanged(True, f"Kit {stored.id} activated")

    async def deactivate_kit(self, message: DeactivateKit) -> KitChanged:
        async with self._changing:
            stored = await self.ask(GetStoredKit(kit_id=message.kit_id))
            await self._switch(stored, is_active=False)
        self._tell("kit_deactivated", stored.id, "deactivated")
        return KitChanged(True, f"Kit {stored.id} deactivated")

    async def _install(
        self, kit_id: str, config: KitConfig, values: Mapping[str, str], *, is_active: bool
    ) -> KitInstalled:
        stored = StoredKit(
            id=kit_id,
            config=msgspec.to_builtins(config),
            user_values=config.values(dict(values)),
            active=is_active,
            settled=not is_active,
            principal=self.principal.name,
            scopes=sorted(self.principal.scopes),
            installed_at=utc_now(),
        )
        _workflows_of(stored)  # it is not kept where they cannot be made
        async with self._changing:
            await self.ask(KeepKit(kit=stored))
            if is_active:
                await self._settle(stored)
        self._tell("kit_installed", kit_id, "installed")
        return KitInstalled(kit_id, _shown(stored), is_active)

    async def _switch(self, stored: StoredKit, *, is_active: bool) -> None:
        """Have a kit on or off, for whoever asks."""
        principal, scopes = self.principal.name, sorted(self.principal.scopes)
        changed = msgspec.structs.replace(stored, active=is_active, settled=False, principal=principal, scopes=scopes)
        _workflows_of(changed)  # it stays as it is where they cannot be made
        await self.ask(ChangeKit(kit=changed))
        await self._settle(changed)

    async def _settle(self, stored: StoredKit) -> None:
        """Have the scheduler know the workflows of a kit as they now are, on behalf of who switched it."""
        principal = Principal(stored.principal, frozenset(stored.scopes))
        command = SetWorkflows(owner=OWNER_PREFIX + stored.id, workflows=_workflows_of(stored))
        await self.system.ask(command, principal=principal, sender=self.path)
        await self.ask(SettleKit(kit_id=stored.id))

    def _tell(self, name: str, kit_id: str, done: str) -> None:
        self.publish(EVENTS, name, SystemEvent(name, f"the kit {kit_id} was {done}", {"kit_id": kit_id}))

    async def get_kit_data(self, message: GetKitData) -> KitData:
        kit = _shown(await self.ask(GetStoredKit(kit_id=message.kit_id)))
        data: dict[str, object] = {}
        errors: dict[str, str] = {}

        async def resolve(source: str) -> None:
            try:
                data[source] = await self._resolve(kit, source)
            except PocketPawError as error:
                data[source], errors[source] = None, error.detail

        async with trio.open_nursery() as nursery:
            for source in kit.config.sources():
                nursery.start_soon(resolve, source)
        return KitData({source: data[source] for source in kit.config.sources()}, errors)

    async def get_kit_source(self, message: GetKitSource) -> SourceData:
        kit = _shown(await self.ask(GetStoredKit(kit_id=message.kit_id)))
        return SourceData(message.source, await self._resolve(kit, message.source))

    async def _resolve(self, kit: Kit, name: str) -> object:
        """Ask whoever knows; on behalf of whoever asks us, who sees no more in a kit than without it."""
        kind, colon, rest = name.partition(":")
        if kind == WORKFLOW and colon:
            return await self._workflow_result(kit, rest)
        source = SOURCES.get(rest if kind == API and colon else name)
        if source is None:
            raise NotFound(f"there is no source {name[:80]!r}", source=name[:80])
        self._require(source.scope)
        return source.shown(await self.ask(source.question(), timeout_s=SOURCE_S))

    async def _workflow_result(self, kit: Kit, workflow: str) -> object:
        if workflow not in kit.config.workflows:
            raise NotFound(f"the kit {kit.id} has no workflow {workflow[:80]!r}", source=workflow[:80])
        self._require("sessions")
        owner, name = OWNER_PREFIX + kit.id, _job_name(kit, workflow)
        for job in await self.ask(ListJobs(kind="intention"), timeout_s=SOURCE_S):
            if (job.owner, job.name) == (owner, name):
                text, at = await self._last_answer(intention_session(job.id))
                return msgspec.to_builtins(WorkflowResult(text, at, job.next_slot, intention_session(job.id)))
        return msgspec.to_builtins(WorkflowResult(None, None, None, None))

    async def _last_answer(self, session_id: str) -> tuple[str | None, datetime | None]:
        try:
            history = await self.ask(GetHistory(session_id=session_id, limit=LATEST), timeout_s=SOURCE_S)
        except NotFound:
            return None, None  # it has never run
        answers = [message for message in history if message.role == "assistant"]
        return (answers[-1].content, answers[-1].timestamp) if answers else (None, None)

    def _require(self, scope: str) -> None:
        if not self.principal.may(scope):
            raise Forbidden(f"Missing required scope: {scope}")


def _workflows_of(stored: StoredKit) -> list[Workflow]:
    """What the scheduler is to have of a kit. Raises: InvalidInput, if its values make no instruction."""
    if not stored.active:
        return []
    kit = _shown(stored)
    return [
        Workflow(_job_name(kit, name), kit.config.instruction(workflow, kit.user_values), workflow.schedule)
        for name, workflow in kit.config.workflows.items()
    ]


def _job_name(kit: Kit, workflow: str) -> str:
    return f"{kit.config.meta.name[:100]}: {workflow}"


def _shown(stored: StoredKit) -> Kit:
    """Raises: InvalidInput, if it was written by a version that knew other fields."""
    try:
        config = msgspec.convert(stored.config, KitConfig)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the kit {stored.id} cannot be read: {error}", kit_id=stored.id) from None
    return Kit(stored.id, config, stored.user_values, stored.installed_at, stored.active)


def _problem(stored: StoredKit) -> str | None:
    try:
        _shown(stored)
    except InvalidInput as error:
        return error.detail.partition(": ")[2]
    return None


def _shown_if_readable(stored: StoredKit) -> Kit | None:
    return _shown(stored) if _problem(stored) is None else None


def _entry(kit_id: str, config: KitConfig, *, is_installed: bool) -> CatalogEntry:
    meta = config.meta
    preview = ", ".join(section.title for section in config.layout.sections)
    facts = kit_id, meta.name, meta.description, meta.icon, meta.category, meta.author, meta.tags
    return CatalogEntry(*facts, preview, is_installed)


def _id_from(name: str) -> str:
    """An id made of a kit's name. Raises: InvalidInput where there is nothing to make it of."""
    made = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64].strip("-")
    if not made:
        raise InvalidInput("its name has no letter that an id could be made of: give it one", field="kit_id")
    return made

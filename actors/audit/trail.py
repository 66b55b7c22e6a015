"""The audit trail: takes acts, has them on disk before it answers, knows whether the chain is as it was written.

What the store does in a transaction of its own (the calls of tools) it enters there itself. Where the store cannot be
used, acts are kept in memory and in the log until it can.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Literal, cast

import msgspec
import structlog
import trio

from ...config.logs import Redactor
from ...runtime import SYSTEM, Actor, Done, Message
from ...runtime.errors import PocketPawError, Unavailable
from ...storage.audit import Act, AppendToAudit, AuditExtent, AuditHead, GetAuditExtent, PageAudit
from ...storage.audit_archives import ArchiveAudit, DropArchived
from ...storage.tables import JsonObject
from ..settings import LiveSettings
from .archive import ArchiveWriter
from .head_file import FILE, Known, load_head, save_head
from .refusals import Refusals
from .verification import check_archives, check_chain, check_known

log = structlog.get_logger()

Status = Literal["success", "refused", "failed", "interrupted"]
"""`refused` is by who asks, `failed` by what happened; of an `interrupted` act nobody knows whether it was done."""

FOLDER = "audit"
UNSAVED_KEPT = 10_000
SAVED_TOGETHER = 200
SAVE_S = 5.0
KEEP_HEAD_EVERY_S = 5.0
TEXT_SHOWN = 500
ITEMS_SHOWN = 50


class RecordAct(Message[Done], to="audit/trail"):
    """Put an act of whoever sends this into the audit. The answer means that it is on disk, or will be.

    A refused one that comes again within a minute is only counted.
    """

    action: str
    category: str
    description: str
    context: JsonObject = msgspec.field(default_factory=JsonObject)
    status: Status = "success"


class AuditArchived(msgspec.Struct, frozen=True):
    """`file` is where the entries are now; empty if there was none."""

    status: str
    entries: int
    file: str


class RotateAudit(Message[AuditArchived], to="audit/trail"):
    """Move the whole audit into an archive file; the chain goes on from its end."""


class AuditVerdict(msgspec.Struct, frozen=True):
    """`problems` say what is wrong, by entry. `missing` are archives that are not where they were put."""

    entries: int
    problems: list[str]
    missing: list[str]
    head: AuditHead


class VerifyAudit(Message[AuditVerdict], to="audit/trail"):
    """Look at the whole chain and the archives; or, if not thoroughly, at what has come since the last time."""

    thoroughly: bool = True


class TrailState(msgspec.Struct, frozen=True):
    """`unsaved` acts wait for the store; `lost` ones were too many to keep."""

    unsaved: int
    lost: int


class GetTrailState(Message[TrailState], to="audit/trail"):
    """How many acts are not on disk."""


class AuditTrail(Actor):
    """Acts reach the store in the order in which they came, several at once where they are many."""

    concurrency = 64
    has_tasks = True
    handler_timeout_s = None  # a long chain takes its time to be read
    mailbox_capacity = 10_000

    def __init__(self, live: LiveSettings) -> None:
        super().__init__()
        self._root = live.home.root
        self._redactor = Redactor(lambda: live.secrets)
        self._refusals = Refusals()
        self._unsaved: deque[Act] = deque()
        self._lost = 0
        self._saving = trio.Lock()
        self._changing = trio.Lock()
        self._learning = trio.Lock()
        self._known = Known()
        """The chain as it was last kept: it must not go away again."""
        self._verified: AuditHead | None = None
        """How far the chain was looked at, and found in order, by this life."""
        self._found: list[str] = []
        """What the latest thorough look has found."""
        self._problem = ""
        """What the end that was kept shows to be wrong; until a rotation nothing is written over it."""
        self._kept: Known | None = None
        """What is in the file."""
        self._has_learned = False
        self._failed_at = float("-inf")
        """When the store last took nothing (trio's clock): nobody else waits for it soon after."""

    @property
    def folder(self) -> Path:
        """Where the archives are."""
        return self._root / FOLDER

    async def on_start(self) -> None:
        if self.incarnation == 1:
            self._take([Act(actor=SYSTEM.name, action="start", category="daemon", description="The daemon started.")])
        self.spawn(self._keep_head)
        self.spawn(self._keep_saving)

    async def on_stop(self) -> None:
        with trio.move_on_after(1.0):
            self._take(self._refusals.ended(float("inf")))
            await self._save(is_urgent=True)
            await self._save_head()

    async def record_act(self, message: RecordAct) -> Done:
        act = Act(
            actor=self.principal.name,
            action=message.action,
            category=message.category,
            description=self._redactor.text(message.description)[:TEXT_SHOWN],
            context={name: self._shown(value) for name, value in message.context.items()},
            status=message.status,
            trace_id=self.trace_id,
        )
        if message.status == "refused" and not self._refusals.is_first(act, self.system.now()):
            return Done()
        self._take([act])
        await self._save()
        return Done()

    async def verify_audit(self, message: VerifyAudit) -> AuditVerdict:
        async with self._changing:
            extent = await self._learn()
            problems = [self._problem] if self._problem else await check_known(self.ask, extent, self._known)
            known = self._verified or self._known.head
            is_whole = message.thoroughly or bool(problems) or known.id < extent.base.id
            head, found = await check_chain(self.ask, extent.base if is_whole else known)
            problems += found
            missing: list[str] = []
            if message.thoroughly:
                wrong, missing = await check_archives(self.ask, self.folder)
                problems += wrong
                self._found = problems
            else:
                problems += [problem for problem in self._found if problem not in problems]
            if not problems:
                self._known, self._verified = Known(head, self._known.archived), head
            return AuditVerdict(extent.entries, problems, missing, extent.head)

    async def rotate_audit(self, message: RotateAudit) -> AuditArchived:
        async with self._changing:
            await self._save()
            extent = await self._learn()
            if not extent.entries:
                return AuditArchived("ok", 0, "")
            path = self.folder / f"audit-{extent.base.id + 1}-{extent.head.id}.jsonl"
            try:
                digest = await self._write_archive(path, extent.base, extent.head.id)
            except OSError as error:
                raise Unavailable(f"the archive {path} cannot be written: {error.strerror}") from error
            if self._kept is not None:
                await self._keep(Known(self._known.head, extent.head.id))
            await self.ask(ArchiveAudit(head=extent.head, file=path.name, digest=digest))
            self._known, self._verified = Known(extent.head, extent.head.id), extent.head
            self._problem, self._found = "", []
            log.info("audit archived", actor=self.path, file=str(path), entries=extent.entries, hash=extent.head.hash)
            await self._drop_archived()
            await self._save_head()
            return AuditArchived("ok", extent.entries, str(path))

    async def get_trail_state(self, message: GetTrailState) -> TrailState:
        return TrailState(len(self._unsaved), self._lost)

    def _shown(self, value: object) -> object:
        """The value without secrets, and in bounds."""
        clean = self._redactor.value(value)
        if isinstance(clean, str):
            return clean[:TEXT_SHOWN]
        if isinstance(clean, list):
            return [self._shown(item) for item in cast("list[object]", clean)[:ITEMS_SHOWN]]
        return clean

    def _take(self, acts: list[Act]) -> None:
        """Keep acts until the store has them; beyond what can be kept, the oldest go, and are counted."""
        self._unsaved.extend(acts)
        while len(self._unsaved) > UNSAVED_KEPT:
            self._unsaved.popleft()
            self._lost += 1

    async def _save(self, *, is_urgent: bool = False) -> None:
        """Bring what there is to disk, as far as the store takes it. One that answers too late may get it twice."""
        async with self._saving:
            while self._unsaved and (is_urgent or self.system.now() - self._failed_at >= SAVE_S):
                acts = [self._unsaved.popleft() for _ in range(min(SAVED_TOGETHER, len(self._unsaved)))]
                lost, is_saved = self._lost, False
                try:
                    if not self._has_learned:
                        await self._learn()
                    await self.ask(AppendToAudit(acts=[*_gap(lost), *acts]), timeout_s=SAVE_S)
                    is_saved = True
                except PocketPawError as error:
                    self._failed_at = self.system.now()
                    log.warning("acts are not in the audit yet", actor=self.path, acts=len(acts), reason=error.detail)
                    return
                finally:
                    if is_saved:
                        self._lost -= lost
                    else:
                        self._unsaved.extendleft(reversed(acts))

    async def _write_archive(self, path: Path, base: AuditHead, up_to: int) -> str:
        writer = await trio.to_thread.run_sync(ArchiveWriter, path, base)
        try:
            place = base.id
            while entries := await self.ask(PageAudit(after=place, up_to=up_to)):
                await trio.to_thread.run_sync(writer.add, entries)
                place = int(entries[-1].id)
            return await trio.to_thread.run_sync(writer.finish)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(writer.abandon)

    async def _drop_archived(self) -> None:
        while await self.ask(DropArchived()):
            pass

    async def _learn(self) -> AuditExtent:
        """Where the chain is; the first time, what was kept of its end is compared with it."""
        async with self._learning:
            extent = await self.ask(GetAuditExtent(), timeout_s=SAVE_S)
            if not self._has_learned:
                await self._compare(extent)
                self._has_learned = True
            return extent

    async def _compare(self, extent: AuditExtent) -> None:
        kept = await trio.to_thread.run_sync(load_head, self._root)
        if isinstance(kept, Known):
            self._known = self._kept = kept
            self._problem = "; ".join(await check_known(self.ask, extent, kept))
        elif isinstance(kept, str):
            self._problem = kept
        elif extent.head.id:
            self._problem = f"{self._root / FILE} is gone: nobody can say whether the end was cut off"
        else:
            await self._keep(Known())  # before there is any act, so that none can be without it
        log.info("audit", actor=self.path, entries=extent.entries, last=extent.head.id, hash=extent.head.hash)
        await self._drop_archived()

    async def _keep_saving(self) -> None:
        while True:
            await self._save()
            await trio.sleep(SAVE_S)
            self._take(self._refusals.ended(self.system.now()))

    async def _keep_head(self) -> None:
        while True:
            async with self._changing:
                await self._save_head()
            await trio.sleep(KEEP_HEAD_EVERY_S)

    async def _save_head(self) -> None:
        """Keep where the chain ends, if it goes on from what was known."""
        try:
            extent = await self._learn()
            now = Known(extent.head, self._known.archived)
            if self._problem or now == self._kept or await check_known(self.ask, extent, self._known):
                return
        except PocketPawError as error:
            log.warning("the end of the audit was not kept", actor=self.path, reason=error.detail)
        else:
            await self._keep(now)

    async def _keep(self, known: Known) -> None:
        try:
            await trio.to_thread.run_sync(save_head, self._root, known)
        except OSError as error:
            log.warning("the end of the audit was not kept", actor=self.path, reason=error.strerror)
        else:
            self._known = self._kept = known


def _gap(lost: int) -> list[Act]:
    """Says in the audit itself that something is missing there."""
    if not lost:
        return []
    text = f"{lost} acts are missing here: the storage could not be used, and they were too many to keep"
    return [Act(actor=SYSTEM.name, action="lose_acts", category="audit", description=text, status="failed")]

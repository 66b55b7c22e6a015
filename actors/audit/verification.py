"""Whether the audit is as it was written: its chain, its end as it was last known, and its archives."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from typing import Protocol, TypeVar

import trio

from ...runtime import Message
from ...storage.audit import AuditExtent, AuditHead, CheckAuditPage, GetAuditHash
from ...storage.audit_archives import ListAuditArchives
from .archive import digest_of
from .head_file import Known

R = TypeVar("R")

NAMED = 20
"""Problems that are named one by one; more are counted."""

PAUSE_S = 0.005
"""Between two pages, so that a long chain leaves others their turn."""


class Ask(Protocol):
    def __call__(self, message: Message[R], /) -> Awaitable[R]: ...


async def check_chain(ask: Ask, start: AuditHead) -> tuple[AuditHead, list[str]]:
    """Follow the chain from a place in it to its end: where that is, and what is wrong on the way."""
    place, problems = start, list[str]()
    while True:
        page = await ask(CheckAuditPage(after=place))
        place = page.head
        problems += page.problems
        if page.is_end:
            return place, _shortened(problems)
        await trio.sleep(PAUSE_S)


async def check_known(ask: Ask, extent: AuditExtent, last: Known) -> list[str]:
    """Whether the place that was last known as the end is still in the chain, and only what we archived is not."""
    known = last.head
    if extent.base.id > last.archived:
        gone = _numbers(last.archived + 1, extent.base.id)
        return [f"the beginning was cut off: {gone} noted as archived, which this daemon never did"]
    if known.id < extent.base.id:
        return []  # it has gone into an archive meanwhile
    if known.id > extent.head.id:
        gone = _numbers(extent.head.id + 1, known.id)
        return [f"the end was cut off: {gone} gone, as it was last known to go on to entry {known.id}"]
    there = extent.base.hash if known.id == extent.base.id else await ask(GetAuditHash(id=known.id))
    if there is not None and there != known.hash:
        return [f"entry {known.id} is not the one that was there: the chain was made anew, up to it at least"]
    return []  # one that is missing in the middle is found by following the chain


async def check_archives(ask: Ask, folder: Path) -> tuple[list[str], list[str]]:
    """What is wrong with the archives; and which are not there, as their owner may have put them elsewhere."""
    problems: list[str] = []
    missing: list[str] = []
    end = AuditHead().id
    for archive in await ask(ListAuditArchives()):
        if archive.first_id != end + 1:
            problems.append(f"the archive {archive.file} does not begin where the one before it ends")
        end = archive.last_id
        try:
            found = await trio.to_thread.run_sync(digest_of, folder / archive.file)
        except OSError as error:
            problems.append(f"the archive {archive.file} cannot be read: {error.strerror}")
            continue
        if found is None:
            missing.append(archive.file)
        elif found != archive.digest:
            problems.append(f"the archive {archive.file} was changed")
    return problems, missing


def _shortened(problems: list[str]) -> list[str]:
    if len(problems) <= NAMED:
        return problems
    return [*problems[:NAMED], f"and {len(problems) - NAMED} more"]


def _numbers(first: int, last: int) -> str:
    return f"entry {first} is" if first == last else f"entries {first} to {last} are"

"""The importer: has an existing PocketPaw's home read, and each owner here take what is theirs.

Invariant: the old home is only read. What is taken keeps its name, so what was taken once is known the next time.
"""

from __future__ import annotations

import structlog

from ...runtime import Actor
from ..health import EVENTS, SystemEvent
from ..settings import LiveSettings
from .old_files import find_home
from .protocol import ImportHome, ImportReport
from .takeover import Takeover, off_the_loop

log = structlog.get_logger()


class Importer(Actor):
    """One import after the other."""

    handler_timeout_s = None  # a home may hold ten thousand sessions

    def __init__(self, live: LiveSettings) -> None:
        super().__init__()
        self._live = live

    async def import_home(self, message: ImportHome) -> ImportReport:
        home = await off_the_loop(find_home, message.path)
        work = Takeover(self, self._live, home, is_dry=message.dry_run)
        report = ImportReport(str(home), message.dry_run, await work.done())
        if not message.dry_run:
            counts = {kind: len(taken.taken) for kind, taken in report.kinds.items() if taken.taken}
            told = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in counts.items()) or "nothing new"
            log.info("a home was imported", actor=self.path, home=str(home), by=self.principal.name, **counts)
            event = SystemEvent("home_imported", f"imported from {home}: {told}", {"path": str(home), **counts})
            self.publish(EVENTS, event.event_type, event)
        return report

"""The composition root: the whole daemon on one page. Start order is top to bottom, stop order the reverse."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import trio

from ..actors.agent import Agent, AgentContext
from ..actors.guard import Guard
from ..actors.health import Health
from ..actors.identity import Identity
from ..actors.inspector import Inspector
from ..actors.models.embedded import EmbeddedModel
from ..actors.models.router import Router
from ..actors.recovery import Recovery
from ..actors.reporter import Reporter
from ..actors.settings import LiveSettings, SettingsKeeper
from ..config import logs
from ..http.listener import Http
from ..storage.store import Storage, StoreReader, StoreWriter
from .child import CONNECTOR, Child
from .spec import DynamicSupervisor, Supervisor
from .system import ActorSystem

SHUTDOWN_S = 10.0
"""For the whole tree to stop; whatever is left then is ended with the process."""

SWITCH_INTERVAL_S = 0.001
"""How long a busy thread may keep the others from the interpreter: the default of 5 ms is felt in every answer."""


@dataclass(frozen=True)
class Parts:
    """What the tree is made of besides actors."""

    live: LiveSettings
    storage: Storage
    boot_id: str
    on_bound: Callable[[str], None]


def tree(parts: Parts) -> Supervisor:
    """The supervision tree, as data."""
    live, storage = parts.live, parts.storage
    settings = live.current
    agents = AgentContext(live, Identity(live.home.identity), parts.boot_id)
    return Supervisor(
        "root",
        [
            Supervisor(
                "store",
                [Child(StoreWriter, storage, id="writer"), Child(StoreReader, storage, id="reader")],
                strategy="rest_for_one",
            ),
            Child(SettingsKeeper, live, id="settings"),
            Child(Health, live),
            Child(Guard, live),
            Child(Inspector, live),
            Supervisor(
                "models",
                [
                    # One answer that crashes it ends all others: park late, and look again soon.
                    Child(Router, live, on_limit="park", max_restarts=10, max_seconds=60.0, probe_s=5.0),
                    Child(
                        EmbeddedModel,
                        id="embedded",
                        lazy=True,
                        passivate_after_s=settings.embedded_idle_s,
                        start_timeout_s=60.0,
                        on_limit="park",
                        max_restarts=10,
                        max_seconds=60.0,
                    ),
                ],
            ),
            DynamicSupervisor("agents", partial(Agent, context=agents), passivate_after_s=settings.agent_idle_s),
            Child(Recovery, parts.boot_id, wait=False, backoff=CONNECTOR, on_limit="park"),
            Child(Http, live, parts.on_bound),
        ],
    )


async def run(live: LiveSettings, announce: Callable[[str], None]) -> None:
    """Run the daemon until SIGTERM or SIGINT. `announce` is called with each address that it serves.

    Raises:
        RootGaveUp: the tree could not be kept alive.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    storage = Storage(live.home.database_url(live.current))
    redactor = logs.Redactor(lambda: live.secrets)
    reporter = Reporter(redactor)
    logs.configure(
        sys.stderr,
        redactor,
        form=live.current.log_format,
        level=lambda: live.current.log_level,
        context=reporter.context,
    )
    parts = Parts(live, storage, secrets.token_hex(8), announce)
    system = ActorSystem(tree(parts), on_report=reporter.report)
    reporter.attach(system)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_on_signal, system)
        await system.run()
        nursery.cancel_scope.cancel()


async def _stop_on_signal(system: ActorSystem) -> None:
    """The first signal asks; the second one does not ask again."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            break
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop, system, nursery.cancel_scope)
            async for number in signals:
                os._exit(128 + number)


async def _stop(system: ActorSystem, stopped: trio.CancelScope) -> None:
    left = await system.stop(SHUTDOWN_S)
    if left or system.abandoned:
        sys.stderr.write(f"pocketpaw: left behind: {', '.join(left) or 'threads that do not end'}\n")
        sys.stderr.flush()
        os._exit(1)
    stopped.cancel()

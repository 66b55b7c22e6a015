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

from ..actors.access.api_keys import ApiKeys
from ..actors.access.guard import Guard
from ..actors.access.oauth import OAuth
from ..actors.agent import Agent, AgentContext
from ..actors.audit.auditor import SELF_AUDIT, Auditor
from ..actors.audit.trail import AuditTrail
from ..actors.channels.keeper import ChannelsKeeper, Switches
from ..actors.files.keeper import FilesKeeper
from ..actors.health import Health
from ..actors.identity import Identity, IdentityKeeper
from ..actors.importing.importer import Importer
from ..actors.inspector import Inspector
from ..actors.kits.keeper import Kits
from ..actors.mcp.keeper import McpKeeper
from ..actors.memory import MemoryKeeper
from ..actors.metrics.metrics import Metrics
from ..actors.models.embedded import EmbeddedModel
from ..actors.models.installer import Installer
from ..actors.models.router import Router
from ..actors.recovery import Recovery
from ..actors.reporter import Reporter
from ..actors.scheduler.scheduler import Scheduler
from ..actors.settings import LiveSettings, SettingsKeeper
from ..actors.skills.keeper import Skills
from ..actors.tools.catalogue import Catalogue
from ..actors.tools.daemon import DaemonTools
from ..actors.tools.files import Files
from ..actors.tools.gate import Gate
from ..actors.tools.recall import Recall
from ..actors.tools.reminders import ReminderTools
from ..actors.tools.search import Search
from ..actors.tools.shell import Shell, ShellTool
from ..actors.tools.skill_reader import SkillReader
from ..actors.tools.web import PageReader, Web
from ..actors.tunnel.cloudflared import Cloudflared
from ..actors.tunnel.exposure import Exposure
from ..actors.tunnel.keeper import TunnelKeeper
from ..actors.webhooks.webhooks import Webhooks
from ..config import logs
from ..http.listener import Http
from ..storage.store import Storage, StoreReader, StoreWriter
from .child import CONNECTOR, Child
from .spec import DynamicSupervisor, Supervisor
from .system import ActorSystem

SHUTDOWN_S = 10.0
"""For the whole tree to stop; whatever is left then is ended with the process."""

TOOL_IDLE_S = 120.0
"""A tool's process is ended after this time without a call."""

STANDING = (SELF_AUDIT,)
"""What the daemon itself does by schedule."""

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
    catalogue, exposure = _catalogue(), Exposure(live)
    agents = AgentContext(live, Identity(live.home.identity), catalogue, parts.boot_id)
    return Supervisor(
        "root",
        [
            Supervisor(
                "store",
                [Child(StoreWriter, storage, id="writer"), Child(StoreReader, storage, id="reader")],
                strategy="rest_for_one",
            ),
            Child(SettingsKeeper, live, id="settings"),
            Supervisor(
                "audit",
                [
                    Child(AuditTrail, live, id="trail", on_limit="park", probe_s=30.0),
                    Child(Auditor, live, on_limit="park", probe_s=30.0),
                ],
            ),
            Child(Health, live),
            Child(Guard, live),
            Supervisor(
                "access",
                [
                    Child(ApiKeys, id="keys", on_limit="park", probe_s=30.0),
                    Child(OAuth, live, id="oauth", on_limit="park", probe_s=30.0),
                ],
            ),
            Child(Inspector, live),
            Supervisor(
                "models",
                [
                    # One answer that crashes it ends all others: park late, and look again soon.
                    Child(Router, live, on_limit="park", max_restarts=10, max_seconds=60.0, probe_s=5.0),
                    Child(Installer, live, on_limit="park", probe_s=30.0),
                    Child(
                        EmbeddedModel,
                        id="embedded",
                        lazy=True,
                        passivate_after_s=settings.embedded_idle_s,
                        start_timeout_s=60.0,
                        on_limit="park",
                        max_restarts=30,
                        max_seconds=60.0,
                    ),
                ],
            ),
            Child(IdentityKeeper, live, id="identity", on_limit="park", probe_s=30.0),
            Child(MemoryKeeper, live, id="memory", on_limit="park", probe_s=30.0),
            Child(Skills, live, on_limit="park", probe_s=30.0),
            Child(FilesKeeper, live, id="files", on_limit="park", probe_s=30.0),
            Child(Metrics, live, on_limit="park", probe_s=30.0),
            Supervisor(
                "mcp",
                [
                    DynamicSupervisor("servers", backoff=CONNECTOR, max_restarts=10, max_seconds=600.0, probe_s=60.0),
                    Child(McpKeeper, live, catalogue, id="keeper", on_limit="park", probe_s=30.0),
                ],
                strategy="rest_for_one",
            ),
            Supervisor(
                "tools",
                [
                    Child(Gate, live, catalogue, parts.boot_id, on_limit="park", probe_s=5.0),
                    Child(Files, live, on_limit="park", probe_s=30.0),
                    Child(Search, lazy=True, passivate_after_s=TOOL_IDLE_S, start_timeout_s=30.0, on_limit="park"),
                    Child(ShellTool, live, id="shell", on_limit="park", probe_s=30.0),
                    DynamicSupervisor(
                        "shells", Shell, passivate_after_s=TOOL_IDLE_S, start_timeout_s=30.0, shutdown_s=1.0
                    ),
                    Child(Web, live, on_limit="park", probe_s=30.0),
                    Child(
                        PageReader,
                        id="page",
                        lazy=True,
                        passivate_after_s=TOOL_IDLE_S,
                        start_timeout_s=30.0,
                        on_limit="park",
                    ),
                    Child(Recall, id="memory", on_limit="park", probe_s=30.0),
                    Child(SkillReader, id="skills", on_limit="park", probe_s=30.0),
                    Child(DaemonTools, id="daemon", on_limit="park", probe_s=30.0),
                    Child(ReminderTools, live, id="reminders", on_limit="park", probe_s=30.0),
                ],
            ),
            DynamicSupervisor("agents", partial(Agent, context=agents), passivate_after_s=settings.agent_idle_s),
            Child(Webhooks, live, on_limit="park", probe_s=30.0),
            Supervisor(
                "channels",
                [
                    DynamicSupervisor("adapters", backoff=CONNECTOR, max_restarts=10, max_seconds=600.0, probe_s=60.0),
                    Child(ChannelsKeeper, live, parts.boot_id, Switches(), id="keeper", on_limit="park", probe_s=30.0),
                ],
                strategy="rest_for_one",
            ),
            Child(Scheduler, live, parts.boot_id, STANDING, on_limit="park", probe_s=30.0),
            Child(Kits, on_limit="park", probe_s=30.0),
            Child(Importer, live, on_limit="park", probe_s=30.0),
            Child(Recovery, parts.boot_id, wait=False, backoff=CONNECTOR, on_limit="park"),
            Supervisor(
                "tunnel",
                [
                    Child(
                        Cloudflared,
                        live,
                        exposure,
                        lazy=True,
                        backoff=CONNECTOR,
                        on_limit="park",
                        max_restarts=10,
                        max_seconds=600.0,
                        probe_s=60.0,
                    ),
                    Child(TunnelKeeper, live, exposure, id="keeper", shutdown_s=1.0, on_limit="park", probe_s=30.0),
                ],
            ),
            Child(Http, live, parts.on_bound),
        ],
    )


def _catalogue() -> Catalogue:
    """The tools that are built in, under the addresses that the tree gives them."""
    catalogue = Catalogue()
    catalogue.add(Files.infos("tools/files"))
    catalogue.add(ShellTool.infos("tools/shell"))
    catalogue.add(Web.infos("tools/web"), Web.is_offered)
    catalogue.add(Recall.infos("tools/memory"))
    catalogue.add(SkillReader.infos("tools/skills"))
    catalogue.add(DaemonTools.infos("tools/daemon"))
    catalogue.add(ReminderTools.infos("tools/reminders"))
    return catalogue


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

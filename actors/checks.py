"""The health checks: one function each, which says what it finds wrong and what to do about it.

That a check raises or hangs is for the health engine to see to.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol, TypeVar

import trio

from ..config import Vault
from ..config.load import VAULT
from ..runtime import ActorSystem, Message
from ..runtime.errors import NeedsOperator, PocketPawError
from ..runtime.node import Node
from ..storage.failures import DatabaseDamaged, DatabaseDisplaced
from ..storage.soundness import CheckStorage, ProbeStorage
from .channels.protocol import GetChannelProblems
from .kits.problems import GetKitProblems
from .mcp.protocol import GetMcpProblems
from .models.router import CheckBackends
from .settings import LiveSettings
from .tunnel.protocol import GetTunnelStatus

R = TypeVar("R")

MB = 1024 * 1024
DISK_WARNING_BYTES = 500 * MB
DISK_CRITICAL_BYTES = 50 * MB

READ_WHOLE_BYTES = 1024 * MB
"""A larger database is not read from end to end: that would keep the disk busy for too long."""

STARTING_TOO_LONG_S = 10.0
LAG_S = 0.25
RECENT_S = 60.0

NAMED = 20
"""Actors in trouble that are named one by one; more are counted."""

IssueStatus = Literal["warning", "critical"]

_one_thread = trio.CapacityLimiter(1)  # so that a disk that hangs takes one thread, however often it is looked at


class Ask(Protocol):
    def __call__(self, message: Message[R], /) -> Awaitable[R]: ...


@dataclass(frozen=True)
class Hitch:
    """Something that held the daemon up for a while."""

    at: datetime
    path: str
    text: str


@dataclass(frozen=True)
class Surroundings:
    """What a check may look at."""

    live: LiveSettings
    system: ActorSystem
    ask: Ask
    hitches: Sequence[Hitch]
    """The latest ones, oldest first."""


@dataclass(frozen=True)
class Finding:
    """Something wrong. `subject` tells several findings of one check apart; the same trouble has the same subject."""

    status: IssueStatus
    message: str
    fix_hint: str
    subject: str = ""


@dataclass(frozen=True)
class Check:
    id: str
    name: str
    category: str
    every_s: float
    timeout_s: float
    look: Callable[[Surroundings], Awaitable[list[Finding]]]


CHECKS: dict[str, Check] = {}
"""Every check, by id."""


def check(
    name: str, category: str, *, every_s: float, timeout_s: float = 5.0
) -> Callable[[Callable[[Surroundings], Awaitable[list[Finding]]]], Check]:
    """Register a check under its function's name."""

    def register(look: Callable[[Surroundings], Awaitable[list[Finding]]]) -> Check:
        made = CHECKS[look.__name__] = Check(look.__name__, name, category, every_s, timeout_s, look)
        return made

    return register


@check("Configuration", "config", every_s=60.0)
async def configuration(around: Surroundings) -> list[Finding]:
    """Whatever is set can be used."""
    return [
        Finding("warning", problem.message, problem.fix_hint, problem.setting or "file")
        for problem in around.live.problems
        if problem.setting != VAULT
    ]


@check("Vault", "config", every_s=60.0)
async def vault(around: Surroundings) -> list[Finding]:
    """The vault can be opened, now and when the settings were read last."""
    now = Vault(around.live.home)
    await trio.to_thread.run_sync(now.refresh, abandon_on_cancel=True, limiter=_one_thread)
    if now.problem is not None:
        return [Finding("critical", f"the vault cannot be opened: {now.problem}", now.problem.fix_hint)]
    if around.live.vault.problem is not None or any(problem.setting == VAULT for problem in around.live.problems):
        return [
            Finding("warning", "the vault can be opened again, but its secrets are not used", "Restart the daemon.")
        ]
    return []


@check("Storage", "storage", every_s=300.0, timeout_s=8.0)
async def storage(around: Surroundings) -> list[Finding]:
    """The database takes a write, and the write is on disk."""
    try:
        await around.ask(ProbeStorage())
    except DatabaseDamaged as error:
        hint = (
            "Put a good copy (a .backup file beside it) in its place, or move it away with its .made file to begin "
            "anew; then restart."
        )
        return [Finding("critical", error.detail, hint)]
    except DatabaseDisplaced as error:
        hint = (
            "Put the file back, or restart the daemon to go on with what is there now; nothing is written until then."
        )
        return [Finding("critical", error.detail, hint)]
    except NeedsOperator as error:
        return [Finding("critical", error.detail, "Correct database_url, then restart.")]
    except PocketPawError as error:
        hint = "Make room on the disk and see that the folder can be written to; it is tried again by itself."
        return [Finding("critical", error.detail, hint)]
    return []


@check("Database", "storage", every_s=86_400.0, timeout_s=20.0)
async def database(around: Surroundings) -> list[Finding]:
    """The database can be read from end to end."""
    try:
        report = await around.ask(CheckStorage())
        if report.size_bytes <= READ_WHOLE_BYTES:
            report = await around.ask(CheckStorage(thoroughly=True))
    except PocketPawError:
        return []  # that it cannot be used at all is what the check of the storage says
    if report.problem is None:
        return []
    hint = "Stop the daemon, copy the file aside, and put a good copy (a .backup file beside it) in its place."
    return [Finding("critical", f"the database {report.database} is damaged: {report.problem}", hint)]


@check("Disk space", "storage", every_s=60.0)
async def disk_space(around: Surroundings) -> list[Finding]:
    """There is room left where the home folder is."""
    root = around.live.home.root
    try:
        usage = await trio.to_thread.run_sync(shutil.disk_usage, root, abandon_on_cancel=True, limiter=_one_thread)
    except OSError as error:
        hint = "Put it back, or mount its disk again; then restart the daemon."
        return [Finding("critical", f"the home folder {root} cannot be seen: {error.strerror}", hint)]
    if usage.free >= DISK_WARNING_BYTES:
        return []
    status = "critical" if usage.free < DISK_CRITICAL_BYTES else "warning"
    return [Finding(status, f"{usage.free // MB} MB are left on the disk of {root}", "Make room on that disk.")]


@check("Models", "models", every_s=300.0, timeout_s=20.0)
async def models(around: Surroundings) -> list[Finding]:
    """Every configured model backend can be reached; without any, nobody gets an answer."""
    hint = "See that it runs and can be reached, and that its settings are right."
    try:
        backends = await around.ask(CheckBackends())
    except PocketPawError as error:
        return [Finding("critical", f"no model can be asked: {error.detail}", hint)]
    missing = [backend for backend in backends if not backend.available]
    status = "critical" if len(missing) == len(backends) else "warning"
    return [
        Finding(status, f"the model backend {backend.name} is not available: {backend.detail}", hint, backend.name)
        for backend in missing
    ]


@check("MCP servers", "mcp", every_s=60.0)
async def mcp_servers(around: Surroundings) -> list[Finding]:
    """What is configured can be used."""
    hint = "Correct mcp_servers.json in the home folder, then restart the daemon, or change a server through the API."
    return [Finding("warning", text, hint, text) for text in await around.ask(GetMcpProblems())]


@check("Kits", "kits", every_s=300.0)
async def kits(around: Surroundings) -> list[Finding]:
    """Every installed kit can be read, and its workflows come to a good end."""
    hint = "Look into the workflow's session and at GET kits; a kit that cannot be read has to be installed anew."
    try:
        problems = await around.ask(GetKitProblems())
    except PocketPawError:
        return []  # that they cannot be looked at is what the checks of the storage and of the actors say
    return [Finding("warning", text, hint, text) for text in problems]


@check("Tunnel", "remote", every_s=30.0)
async def tunnel(around: Surroundings) -> list[Finding]:
    """What is open leads here, and what is closed has ended. Why one is down is what the check of the actors says."""
    if not around.live.is_tunnelled:
        return []
    status = await around.ask(GetTunnelStatus())
    if status.state == "connecting":
        hint = "See that this machine reaches the internet, also at port 7844; it is tried again by itself."
        return [Finding("warning", f"the tunnel at {status.url} has no connection", hint)]
    if status.state == "stopping":
        hint = "Nothing, unless it stays so: then end that process. Until then everybody needs a credential."
        return [Finding("warning", "the tunnel is closed, and cloudflared has not ended yet", hint)]
    return []


@check("Channels", "channels", every_s=60.0)
async def channels(around: Surroundings) -> list[Finding]:
    """What is to be said on chat platforms arrives."""
    hint = "The log says why each of them could not; nothing of them is tried again."
    try:
        problems = await around.ask(GetChannelProblems())
    except PocketPawError:
        return []  # as with the kits
    return [Finding("warning", text, hint, text.partition(":")[0]) for text in problems]


@check("Actors", "runtime", every_s=10.0)
async def actors(around: Surroundings) -> list[Finding]:
    """Every supervised child is up, or meant not to be."""
    found = [finding for node in around.system.nodes.values() if (finding := _trouble(node)) is not None]
    findings = found[:NAMED]
    if len(found) > NAMED:
        findings.append(Finding("warning", f"{len(found) - NAMED} more actors are in trouble", _SEE_TREE, "more"))
    if around.system.abandoned:
        text = f"{around.system.abandoned} former incarnations ignore every request to end, and still run"
        findings.append(Finding("warning", text, "Restart the daemon when it is convenient.", "abandoned"))
    return findings


@check("Event loop", "runtime", every_s=10.0)
async def event_loop(around: Surroundings) -> list[Finding]:
    """Nothing holds up the loop, or one of the threads."""
    since = datetime.now(UTC) - timedelta(seconds=RECENT_S)
    findings = [
        Finding("warning", f"{hitch.path or 'the daemon'}: {hitch.text}", "Its stack is in health/errors.", hitch.path)
        for hitch in {hitch.path: hitch for hitch in around.hitches if hitch.at >= since}.values()
    ]
    lag_s = around.system.watchdog.lag_s
    if lag_s > LAG_S and not findings:
        text = f"the loop is {lag_s:.2f} s late"
        findings.append(Finding("warning", text, "The machine may be overloaded: look at what else runs on it.", "lag"))
    return findings


_SEE_TREE = "GET runtime/tree shows each actor."


def _trouble(node: Node) -> Finding | None:
    if node.state == "parked":
        failure = node.life.exit.failure if node.life is not None and node.life.exit is not None else None
        mend = "Correct that" if isinstance(failure, NeedsOperator) else "Remove the cause"
        hint = f"{mend}, then POST runtime/actors/{node.path}/restart; it is also tried again by itself now and then."
        return Finding("warning", f"{node.path} is down: {node.last_error}", hint, node.path)
    if node.state == "backoff":
        text = f"{node.path} has failed and is about to be started again: {node.last_error}"
        return Finding("warning", text, "Nothing, unless it stays so.", node.path)
    if node.state == "crashed":
        return Finding("warning", f"{node.path} has crashed: {node.last_error}", _SEE_TREE, node.path)
    if node.state == "starting" and node.system.now() - node.since > STARTING_TOO_LONG_S:
        text = f"{node.path} has been starting for more than {STARTING_TOO_LONG_S:g} s"
        return Finding("warning", text, "Nothing, unless it stays so.", node.path)
    return None

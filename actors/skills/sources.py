"""Where skills come from: a folder or a zip on this machine, or a git repository on the web."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from ipaddress import IPv6Address
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import trio

from ...runtime.errors import Forbidden, InvalidInput, NotFound, TimedOut, TooLarge, Unavailable
from .files import MB

CLONE_TIMEOUT_S = 120.0
CLONE_LIMIT_BYTES = 200 * MB
CLONE_LIMIT_ENTRIES = 20_000
LOOK_S = 0.25
"""How often a clone's size is looked at."""

STDERR_KEPT_BYTES = 4_096
LAST_WORDS_S = 1.0
"""For what git said last to arrive, although a helper of its may hold the pipe open."""

SOURCE_LIMIT = 2_000

FORMS = "a folder or a zip on this machine (/… or ~/…), https://host/repository, or owner/repository[/skill]"

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"
_SHORT = re.compile(rf"({_PART}/{_PART})((?:/{_PART}){{0,6}})")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f]")


class LocalSource(msgspec.Struct, frozen=True):
    path: str


class GitSource(msgspec.Struct, frozen=True):
    """`wanted` is the name or the path of the one skill that is meant; empty for all that there are.

    `is_ours` says that the operator chose the server, by `skills_git_base`.
    """

    url: str
    wanted: str
    is_ours: bool


def parse_source(source: str, git_base: str) -> LocalSource | GitSource:
    """What a person meant by `source`. Raises: InvalidInput, Forbidden"""
    source = source.strip()
    if not source or len(source) > SOURCE_LIMIT:
        raise InvalidInput(f"source: expected {FORMS}", field="source")
    if source.startswith(("/", "~", "./", "../")):
        return LocalSource(source)
    base = git_base.rstrip("/")
    if short := _SHORT.fullmatch(source):
        return GitSource(f"{base}/{short[1].removesuffix('.git')}.git", short[2].strip("/"), is_ours=True)
    url, _, wanted = source.partition("#")
    is_ours = url.startswith(f"{base}/")
    if not url.startswith("https://") and not is_ours:
        raise InvalidInput(f"source: {source[:200]!r} is none of {FORMS}", field="source")
    if _UNPRINTABLE.search(source):
        raise InvalidInput("source: an address has no white space in it", field="source")
    try:
        parts = urlsplit(url)
        has_user = "@" in parts.netloc
        is_whole = bool(parts.hostname) and parts.path.strip("/") != "" and parts.port != 0
    except ValueError:
        has_user, is_whole = False, False
    if has_user:
        raise Forbidden("source: an address with a user or a password in it would be seen by others on this machine")
    if not is_whole:
        raise InvalidInput(f"source: {url[:200]!r} is no address of a repository", field="source")
    return GitSource(url, wanted.strip("/"), is_ours)


async def clone(source: GitSource, target: Path) -> None:
    """Fetch the newest commit of a repository into the folder `target`, which git makes; nothing is left running.

    Raises: Unavailable, NotFound, TimedOut, TooLarge, Forbidden for a server that is not public.
    """
    url, options = (source.url, []) if source.is_ours else await _pinned(source.url)
    scheme = url.partition(":")[0]
    command = ["git", *_FIXED_OPTIONS, *options, "clone", *_CLONE_OPTIONS, "--", url, str(target)]
    try:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=_environment(target.parent, scheme),
            cwd=target.parent,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise Unavailable("git is not installed on this machine: install it, or upload the skill as a zip") from None
    stderr = bytearray()
    try:
        with trio.fail_after(CLONE_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                drained = trio.Event()
                nursery.start_soon(_drain, process, stderr, drained)
                nursery.start_soon(_watch_size, target)
                await process.wait()
                with trio.move_on_after(LAST_WORDS_S):
                    await drained.wait()
                nursery.cancel_scope.cancel()
    except trio.TooSlowError:
        raise TimedOut(f"the repository was not fetched within {CLONE_TIMEOUT_S:g} s") from None
    except BaseExceptionGroup as group:
        too_large = group.subgroup(TooLarge)
        if too_large is None:
            raise
        raise _too_large() from None
    finally:
        await _kill(process)
    if process.returncode:
        raise _failure(stderr.decode(errors="replace"))


_FIXED_OPTIONS = (
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "core.fsmonitor=false"),
    *("-c", "core.protectHFS=true"),
    *("-c", "core.protectNTFS=true"),
    *("-c", "credential.helper="),
    *("-c", "http.followRedirects=false"),  # a server that was judged must not send us to one that was not
    *("-c", "http.lowSpeedLimit=1000"),
    *("-c", "http.lowSpeedTime=30"),  # so that git ends by itself should the daemon be killed
    *("-c", "gc.auto=0"),
    *("-c", "transfer.fsckObjects=true"),
)
_CLONE_OPTIONS = ("--quiet", "--depth=1", "--single-branch", "--no-tags", "--no-recurse-submodules", "--template=")


def _environment(folder: Path, scheme: str) -> dict[str, str]:
    """Nothing of the daemon's own: no credential of the user is used, and no configuration."""
    passed = {
        name: os.environ[name] for name in ("PATH", "LANG", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR") if name in os.environ
    }
    return {
        **passed,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_ALLOW_PROTOCOL": scheme,
    }


async def _pinned(url: str) -> tuple[str, list[str]]:
    """Have git connect to an address that was judged, as the egress guard has the tools; raises Forbidden.

    The URL is written as it was judged: git would resolve a host that is written otherwise (`host.`) by itself.
    """
    from ..tools.addresses import is_public, own_networks
    from ..tools.egress import parse, resolve  # here: an HTTP client is 4 MB that not everybody needs

    parsed = parse(url)
    host = parsed.raw_host.decode()
    addresses = await resolve(host)
    own = own_networks()
    for address in addresses:
        if not is_public(address) or any(address in network for network in own):
            raise Forbidden(
                f"source: {host} leads to {address}, no public address; skills_git_base can name that server"
            )
    listed = ",".join(f"[{address}]" if isinstance(address, IPv6Address) else str(address) for address in addresses)
    return str(parsed), ["-c", f"http.curloptResolve={host}:{parsed.port or 443}:{listed}"]


async def _drain(process: trio.Process, stderr: bytearray, drained: trio.Event) -> None:
    assert process.stderr is not None
    async for data in process.stderr:
        stderr += data
        del stderr[:-STDERR_KEPT_BYTES]
    drained.set()


async def _watch_size(target: Path) -> None:
    while True:
        await trio.sleep(LOOK_S)
        if await trio.to_thread.run_sync(_is_too_large, target):
            raise _too_large()


def _is_too_large(folder: Path) -> bool:
    size = entries = 0
    for place, folders, files in os.walk(folder):
        entries += len(folders) + len(files)
        for name in files:
            try:
                size += os.lstat(Path(place, name)).st_size
            except FileNotFoundError:
                continue  # git has renamed it
        if size > CLONE_LIMIT_BYTES or entries > CLONE_LIMIT_ENTRIES:
            return True
    return False


def _too_large() -> TooLarge:
    return TooLarge(
        f"the repository has more than {CLONE_LIMIT_BYTES // MB} MB, or more than {CLONE_LIMIT_ENTRIES:,} files"
    )


async def _kill(process: trio.Process) -> None:
    """End git and what it has started, whichever way we leave."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # nothing of the group is left
    with trio.CancelScope(shield=True):
        await process.wait()
    if process.stderr is not None:
        await process.stderr.aclose()


def _failure(stderr: str) -> NotFound | Unavailable | Forbidden:
    lines = [line.strip() for line in stderr.splitlines() if line.startswith(("fatal:", "error:", "remote:"))]
    said = "; ".join(lines)[:500] or "git failed and did not say why"
    if "could not read Username" in stderr or "Authentication failed" in stderr or "not found" in stderr:
        return NotFound(f"there is no such repository, or it is not public: {said}")
    if "redirect" in stderr or re.search(r"returned error: 30\d", stderr):
        return Forbidden(f"the repository has moved; give its new address: {said}")
    return Unavailable(f"the repository could not be fetched: {said}")

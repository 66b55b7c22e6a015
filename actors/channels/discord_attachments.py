"""Files that came with a message, fetched to disk."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import httpcore2
import httpx2
import trio

from ..models.connections import HTTP_ERRORS, Connections
from ..settings import LiveSettings
from .discord_message import Attachment

CONNECT_S = 10.0
WITHIN_S = 60.0
"""For all files of a message, as others wait meanwhile."""
LONGEST_NAME = 100

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class NotFetched(Exception):
    """Why a file is not there, in words for whoever reads the message."""


class Attachments:
    """Fetches what Discord's own servers keep, without the bot's token; `schemes` are the addresses' kinds."""

    def __init__(self, connections: Connections, folder: Path, live: LiveSettings, schemes: Sequence[str]) -> None:
        self._connections = connections
        self._folder = folder
        self._live = live
        self._schemes = schemes

    async def fetch(self, attachments: Sequence[Attachment]) -> tuple[list[str], list[str]]:
        """Fetch what can be; give the paths, and a line about each that is missing: no message is lost for a file."""
        deadline = trio.current_time() + WITHIN_S
        paths: list[str] = []
        missing: list[str] = []
        for attachment in attachments:
            try:
                paths.append(str(await self._fetch(attachment, deadline)))
            except NotFetched as reason:
                missing.append(f"[The file {attachment.filename} was not fetched: {reason}.]")
        return paths, missing

    async def _fetch(self, attachment: Attachment, deadline: float) -> Path:
        self._check(attachment.size)
        path = self._folder / f"{attachment.id}-{_UNSAFE.sub('_', attachment.filename)[-LONGEST_NAME:]}"
        partial = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
        try:
            with trio.fail_at(deadline):
                await trio.Path(self._folder).mkdir(mode=0o700, parents=True, exist_ok=True)
                await self._download(attachment.url, partial)
                await trio.Path(partial).replace(path)
            return path
        except HTTP_ERRORS as error:
            raise NotFetched("Discord's server broke the connection") from error
        except trio.TooSlowError as error:
            raise NotFetched(f"it did not arrive within {WITHIN_S:g} s") from error
        except OSError as error:
            raise NotFetched(f"it cannot be stored: {error.strerror}") from error
        finally:
            with trio.CancelScope(shield=True):
                await trio.Path(partial).unlink(missing_ok=True)

    async def _download(self, address: str, path: Path) -> None:
        try:
            url = httpx2.URL(address)
        except httpx2.InvalidURL:
            raise NotFetched("its address is none") from None
        if url.scheme not in self._schemes or not url.host:
            raise NotFetched("its address is none that is fetched from")
        target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        headers = [(b"host", url.netloc), (b"user-agent", b"pocketpaw"), (b"accept-encoding", b"identity")]
        extensions = {"timeout": {"connect": CONNECT_S}}
        request = httpcore2.Request("GET", target, headers=headers, extensions=extensions)
        response = await self._connections.send(request)
        try:
            if response.status != 200:
                raise NotFetched(f"Discord's server answers with the status {response.status}")
            await self._store(response, path)
        finally:
            await response.aclose()

    async def _store(self, response: httpcore2.Response, path: Path) -> None:
        stored = 0
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        async with trio.wrap_file(os.fdopen(descriptor, "wb")) as file, aclosing(response.aiter_stream()) as pieces:
            async for piece in pieces:
                stored += len(piece)
                self._check(stored)
                await file.write(piece)

    def _check(self, size: int) -> None:
        limit_mb = self._live.current.media_max_file_size_mb
        if size > limit_mb * 1_000_000:
            raise NotFetched(f"it is larger than {limit_mb} MB")

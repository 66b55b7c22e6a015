"""Multipart forms: one file goes to disk as it comes, so that its size costs no memory."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import IO

import trio
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ..runtime.errors import InvalidInput, TooLarge
from .call import Call
from .transport import ClientDisconnected

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # whoever sends what is no form is told, not the log

FIELD_LIMIT_BYTES = 10_000
"""Of all fields that are no file, with the names and headers of all."""
PARTS_LIMIT = 20
FRAME_BYTES = 10_000
"""What a form with one file has besides it, at most."""


class Upload:
    """A form with one file, whose content is at `path`; the other fields are texts."""

    def __init__(self, path: Path, file: IO[bytes], limit_bytes: int) -> None:
        self.path = path
        self.filename = ""
        self.fields: dict[str, str] = {}
        self.is_whole = False
        self._file = file
        self._limit_bytes = limit_bytes
        self._parts = 0
        self._small_bytes = 0
        self._file_bytes = 0
        self._has_file = False
        self._header = self._value = b""
        self._disposition = b""
        self._name = ""
        self._is_file = False
        self._text = bytearray()

    # What python-multipart calls, in a thread -------------------------------------------------------------------------

    def on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > PARTS_LIMIT:
            raise TooLarge(f"expected a form of at most {PARTS_LIMIT} fields")
        self._disposition = b""
        self._text.clear()

    def on_header_begin(self) -> None:
        self._header = self._value = b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += self._small(data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._small(data[start:end])

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._is_file = b"filename" in options
        if not self._name:
            raise InvalidInput("a field of the form has no name", field=["body"])
        if self._is_file and self._has_file:
            raise InvalidInput("expected one file, and there is another one", field=["body", self._name])
        if self._is_file:
            self._has_file = True
            self.filename = options[b"filename"].decode(errors="replace")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file:
            self._text += self._small(data[start:end])
            return
        self._file_bytes += end - start
        if self._file_bytes > self._limit_bytes:
            raise too_large(self._limit_bytes)
        self._file.write(data[start:end])

    def on_part_end(self) -> None:
        if not self._is_file:
            self.fields[self._name] = self._text.decode(errors="replace")

    def on_end(self) -> None:
        if not self._has_file:
            raise InvalidInput("expected a file", field=["body", "file"], type="missing")
        self._file.flush()
        self.is_whole = True

    def _small(self, data: bytes) -> bytes:
        self._small_bytes += len(data)
        if self._small_bytes > FIELD_LIMIT_BYTES:
            raise TooLarge(f"expected at most {FIELD_LIMIT_BYTES:,} bytes besides the file")
        return data


def is_form(call: Call) -> bool:
    """Whether the request brings a multipart form."""
    return call.request.headers.get("Content-Type", "").lower().startswith("multipart/form-data")


@asynccontextmanager
async def uploaded(call: Call, folder: Path, prefix: str, *, limit_bytes: int) -> AsyncGenerator[Upload]:
    """Write the form's file to a new one in `folder`, there for the block; its name begins with `prefix`.

    Raises: InvalidInput, TooLarge
    """
    _, options = parse_options_header(call.request.headers.get("Content-Type", ""))
    announced = call.request.content_length
    if announced is not None and announced > limit_bytes + FRAME_BYTES:
        raise too_large(limit_bytes)
    path = folder / f"{prefix}{secrets.token_hex(8)}"
    try:
        file = await trio.to_thread.run_sync(_create, path)
        with file:
            upload = Upload(path, file, limit_bytes)
            await _receive(call, upload, options.get(b"boundary", b""))
        yield upload
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(partial(path.unlink, missing_ok=True))  # of gigabytes it takes its time


def too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(f"expected a file of at most {limit_bytes // 1_000_000} MB")


async def _receive(call: Call, upload: Upload, boundary: bytes) -> None:
    callbacks = {name: getattr(upload, name) for name in _CALLBACKS}
    try:
        parser = MultipartParser(boundary, callbacks)  # pyright: ignore[reportArgumentType] - it is a dict of these
        while True:
            event = await call.receive()
            if event["type"] != "http.request":
                raise ClientDisconnected("the client went away while it was sending")
            await trio.to_thread.run_sync(parser.write, event["body"])
            if not event["more_body"]:
                break
        parser.finalize()
    except FormParserError as error:
        raise InvalidInput(f"the body is no multipart form: {error}", field=["body"]) from None
    if not upload.is_whole:
        raise InvalidInput("the form breaks off before its end", field=["body"])


_CALLBACKS = (
    "on_part_begin",
    "on_header_begin",
    "on_header_field",
    "on_header_value",
    "on_header_end",
    "on_headers_finished",
    "on_part_data",
    "on_part_end",
    "on_end",
)


def _create(path: Path) -> IO[bytes]:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    return path.open("xb")

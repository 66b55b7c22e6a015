"""Files: browsed, read, downloaded, written and uploaded, inside the jail that the settings name."""

from __future__ import annotations

import os
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import msgspec
from quart import Response
from quart.wrappers.response import ResponseBody
from werkzeug.http import http_date

from ..actors.files.downloads import Download, OpenFile, open_file, open_zip, pull
from ..actors.files.keeper import (
    UPLOAD_PREFIX,
    BrowseFolder,
    FileWritten,
    KeepUpload,
    ListRecentFiles,
    WriteContent,
)
from ..runtime.errors import Conflict, UnsupportedMedia
from .call import Call
from .errors import Problem
from .multipart import is_form, uploaded
from .ranges import Unsatisfiable, has_it, requested_part
from .route import get, post
from .transport import ClientDisconnected

COPY_TIMEOUT_S = 600.0

INERT = ("image/", "audio/", "video/", "text/plain", "application/pdf", "application/json")
"""What a browser shows without doing anything; all but SVG, which may have scripts in it."""
SANDBOX = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""A page from a file is shown as in an origin of its own, without scripts: it must not act on this one."""
ANY = "*/*"


class FilePath(msgspec.Struct, frozen=True):
    """Where a file or folder is; `~` is the user's home, a relative path starts at the jail's top."""

    path: str


class Pulled(ResponseBody):
    """A body that is made as it is sent."""

    def __init__(self, download: Download) -> None:
        self._download = download

    async def __aenter__(self) -> Pulled:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._download.close()

    def __aiter__(self) -> Pulled:
        return self

    async def __anext__(self) -> bytes:
        try:
            data = await pull(self._download)
        except Conflict as error:  # the length is announced: to close the connection is all that tells the client
            raise ClientDisconnected(f"cut off: {error.detail}") from error
        if not data:
            raise StopAsyncIteration
        return data


async def get_content(call: Call, message: FilePath) -> Response:
    """Read a file, or the one part of it that `Range` names; of several, the whole.

    What could act as a page (HTML, SVG, …) is sandboxed.
    """
    return await _send_file(call, message.path, "inline")


async def download_file(call: Call, message: FilePath) -> Response:
    """Download a file; it can be resumed by `Range`."""
    return await _send_file(call, message.path, "attachment")


async def download_zip(call: Call, message: FilePath) -> Response:
    """Download a folder with all below it as a zip, made while it is sent.

    Links are not followed. What could not be put in is listed in the zip, in a file of its own.
    """
    made = await open_zip(call.live, message.path)
    headers = {
        "Content-Type": "application/zip",
        "Content-Disposition": _disposition("attachment", made.name),
        "Cache-Control": "private, no-store",
    }
    return _send(call, made, HTTPStatus.OK, headers)


async def upload_file(call: Call) -> FileWritten:
    """Upload a file, as the `file` of a form.

    The form's `path` is the folder to put it in, by default where browsing starts. What is there already is not
    replaced unless `replace` is true.
    """
    if not is_form(call):
        raise UnsupportedMedia("expected a form with a file, multipart/form-data")
    limit_bytes = call.live.current.media_max_file_size_mb * 1_000_000
    async with uploaded(call, call.live.home.uploads, UPLOAD_PREFIX, limit_bytes=limit_bytes) as upload:
        keep = KeepUpload(
            staged=upload.path.name,
            folder=upload.fields.get("path", ""),
            filename=upload.filename,
            replace=upload.fields.get("replace", "").lower() in ("true", "1", "on"),
        )
        return await call.ask(keep, timeout_s=COPY_TIMEOUT_S)


async def _send_file(call: Call, path: str, disposition: str) -> Response:
    file = await open_file(call.live, path)
    try:
        return _answer(call, file, disposition)
    except BaseException:
        file.close()
        raise


def _answer(call: Call, file: OpenFile, disposition: str) -> Response:
    headers = _headers(file, disposition)
    if has_it(call.request, file.tag, file.modified):
        file.close()
        return _empty(HTTPStatus.NOT_MODIFIED, headers)
    try:
        part = requested_part(call.request, file.size, file.tag, file.modified)
    except Unsatisfiable:
        file.close()
        problem = Problem(f"the file has {file.size} bytes", "range_not_satisfiable")
        headers = {"Content-Type": "application/json", "Content-Range": f"bytes */{file.size}"}
        return Response(msgspec.json.encode(problem), HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE.value, headers)
    if part is None:
        return _send(call, file, HTTPStatus.OK, {**headers, "Content-Length": str(file.size)})
    first, length = part
    file.choose(first, length)
    headers["Content-Range"] = f"bytes {first}-{first + length - 1}/{file.size}"
    return _send(call, file, HTTPStatus.PARTIAL_CONTENT, {**headers, "Content-Length": str(length)})


def _send(call: Call, download: Download, status: HTTPStatus, headers: dict[str, str]) -> Response:
    if call.request.method == "HEAD":
        download.close()
        return _empty(status, headers)
    return Response(Pulled(download), status.value, headers)


def _empty(status: HTTPStatus, headers: dict[str, str]) -> Response:
    """The head of a response whose body is not sent."""
    response = Response(b"", status.value, headers)
    response.headers.pop("Content-Length", None)
    if "Content-Length" in headers:
        response.headers["Content-Length"] = headers["Content-Length"]
    return response


def _headers(file: OpenFile, disposition: str) -> dict[str, str]:
    headers = {
        "Content-Type": file.media_type,
        "Content-Disposition": _disposition(disposition, file.name),
        "Accept-Ranges": "bytes",
        "ETag": f'"{file.tag}"',
        "Cache-Control": "private, no-cache",
        "Cross-Origin-Resource-Policy": "same-origin",  # an image or script of the user's is no other page's to load
    }
    if file.modified is not None:
        headers["Last-Modified"] = http_date(file.modified)
    if not file.media_type.startswith(INERT) or file.media_type.startswith("image/svg"):
        headers["Content-Security-Policy"] = SANDBOX
    return headers


def _disposition(kind: str, name: str) -> str:
    """RFC 6266: the name in ASCII for those who know nothing else, and as it is."""
    plain = "".join(char if " " <= char <= "~" and char not in '"\\%' else "_" for char in name)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(os.fsencode(name), safe='')}"


READ, WRITE = "files:read", "files:write"
_NO_FILE: dict[HTTPStatus, tuple[str, Any]] = {HTTPStatus.UNSUPPORTED_MEDIA_TYPE: ("It is a folder, or none.", Problem)}
_PARTS: dict[HTTPStatus, tuple[str, Any]] = {
    **_NO_FILE,
    HTTPStatus.PARTIAL_CONTENT: ("The part that was asked for.", None),
    HTTPStatus.NOT_MODIFIED: ("The client has it already.", None),
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: ("The file has no such part.", Problem),
}
_ZIP: dict[HTTPStatus, tuple[str, Any]] = {
    **_NO_FILE,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ("The folder is too large for a zip.", Problem),
}
_RANGE = {name: {"type": "string"} for name in ("Range", "If-Range", "If-None-Match", "If-Modified-Since")}
ROUTES = [
    get("/files/browse", BrowseFolder, scope=READ, responses=_NO_FILE),
    get("/files/content", get_content, scope=READ, produces=ANY, responses=_PARTS, headers=_RANGE),
    get("/files/download", download_file, scope=READ, produces=ANY, responses=_PARTS, headers=_RANGE),
    get("/files/download-zip", download_zip, scope=READ, produces="application/zip", responses=_ZIP),
    get("/files/recent", ListRecentFiles, scope=READ),
    post("/files/write", WriteContent, scope=WRITE),
    post("/files/upload", upload_file, scope=WRITE, takes_upload=True),
]

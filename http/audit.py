"""The audit, and the daemon's look at its own security."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Literal

import msgspec
from quart import Response
from quart.wrappers.response import ResponseBody

from ..actors.audit.auditor import RunSecurityAudit, RunSelfAudit, SecurityReport
from ..actors.audit.trail import AuditArchived, RotateAudit
from ..runtime.errors import PocketPawError
from ..storage.audit import AuditEntry, GetAuditExtent, ListAudit, PageAudit
from ..storage.self_audits import GetSelfAudit, ListSelfAudits, SelfAuditReport
from .call import Call
from .route import JSON, delete, get, post
from .transport import ClientDisconnected

AUDIT_S = 600.0
"""A long audit takes its time to be read."""

CSV = "text/csv; charset=utf-8"
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""With one of these a spreadsheet takes a cell for a formula (https://owasp.org/www-community/attacks/CSV_Injection)."""


class Wanted(msgspec.Struct, frozen=True):
    format: Literal["csv", "json"] = "json"


class Exported(ResponseBody):
    """The whole audit, oldest first, a page at a time as it is taken; what is appended meanwhile is not in it."""

    def __init__(self, call: Call, after: int, up_to: int, form: Form) -> None:
        self._call = call
        self._place = after
        self._up_to = up_to
        self._form = form
        self._parts = 0
        self._is_over = False

    async def __aenter__(self) -> Exported:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True

    def __aiter__(self) -> Exported:
        return self

    async def __anext__(self) -> bytes:
        if self._is_over:
            raise StopAsyncIteration
        try:
            entries = await self._call.ask(PageAudit(after=self._place, up_to=self._up_to))
        except PocketPawError as error:  # a part would look like the whole: to close the connection tells the client
            raise ClientDisconnected(f"cut off: {error.detail}") from error
        if not entries and self._place < self._up_to:
            raise ClientDisconnected("cut off: the rest was archived meanwhile")
        if entries:
            self._place = int(entries[-1].id)
        else:
            self._is_over = True
        self._parts += 1
        return self._form(entries, self._parts)


Form = Callable[[list[AuditEntry], int], bytes]
"""Writes the n-th part; the last is empty."""


async def export_audit(call: Call, message: Wanted) -> Response:
    """Download the whole audit, oldest first, with the hashes by which anybody can check it."""
    extent = await call.ask(GetAuditExtent())
    headers = {
        "Content-Type": JSON if message.format == "json" else CSV,
        "Content-Disposition": f'attachment; filename="pocketpaw-audit.{message.format}"',
        "Cache-Control": "private, no-store",
    }
    form = _as_json if message.format == "json" else _as_csv
    return Response(Exported(call, extent.base.id, extent.head.id, form), 200, headers)


async def rotate_audit(call: Call, message: RotateAudit) -> AuditArchived:
    """Move the whole audit into an archive file in the home folder; the chain goes on from its end."""
    return await call.ask(message, timeout_s=AUDIT_S)


async def run_security_audit(call: Call, message: RunSecurityAudit) -> SecurityReport:
    """Look at everything that keeps this daemon safe; with `fix`, mend what can be mended, and look again."""
    return await call.ask(message, timeout_s=AUDIT_S)


async def run_self_audit(call: Call, message: RunSelfAudit) -> SelfAuditReport:
    """Look at the daemon's security and health now, and keep the report; of several on a day the latest counts."""
    return await call.ask(message, timeout_s=AUDIT_S)


def _as_json(entries: list[AuditEntry], part: int) -> bytes:
    lines = b",\n".join(msgspec.json.encode(entry) for entry in entries)
    if part == 1:
        return b"[\n" + lines if entries else b"[]\n"
    return b",\n" + lines if entries else b"\n]\n"


def _as_csv(entries: list[AuditEntry], part: int) -> bytes:
    text = io.StringIO()
    table = csv.writer(text)
    if part == 1:
        table.writerow(AuditEntry.__struct_fields__)
    for entry in entries:
        table.writerow(_cell(getattr(entry, name)) for name in AuditEntry.__struct_fields__)
    return text.getvalue().encode()


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode().strip('"')
    return f"'{text}" if text.startswith(FORMULA) else text


SCOPE = "admin"
ROUTES = [
    get("/audit", ListAudit, scope=SCOPE),
    delete("/audit", rotate_audit, scope=SCOPE),
    get("/audit/export", export_audit, scope=SCOPE, produces=f"{JSON}, text/csv"),
    post("/security-audit", run_security_audit, scope=SCOPE, audit="audit"),
    get("/self-audit/reports", ListSelfAudits, scope=SCOPE),
    get("/self-audit/reports/{date}", GetSelfAudit, scope=SCOPE),
    post("/self-audit/run", run_self_audit, scope=SCOPE, audit="audit"),
]

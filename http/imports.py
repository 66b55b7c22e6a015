"""Taking over what an existing PocketPaw's home holds."""

from __future__ import annotations

from ..actors.importing.protocol import ImportHome, ImportReport
from .call import Call
from .route import post

IMPORT_S = 3_600.0
"""A home may hold ten thousand sessions, and a small machine takes its time."""


async def import_home(call: Call, message: ImportHome) -> ImportReport:
    """Take over what an existing PocketPaw's home on the daemon's machine holds; nothing is changed there.

    `path` is its full path. With `dry_run` nothing is taken here either, and the answer says what would have been. What
    is set or said here stays as it is; a second time it takes only what is new there.
    """
    return await call.ask(message, timeout_s=IMPORT_S)


ROUTES = [post("/import", import_home, scope="admin")]

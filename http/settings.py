"""What the operator sets."""

from __future__ import annotations

from typing import cast

from ..actors.settings import Changed, ChangeSettings, GetSettings
from .call import Call
from .route import get, put


async def change_settings(call: Call, body: dict[str, object]) -> Changed:
    """Change settings: `{"settings": {…}}` or the flat object. Takes effect at once where it can.

    A secret that is written back as it was shown, masked, is left as it is; null puts a setting back to its default.
    """
    inner = body.get("settings")
    changes = cast("dict[str, object]", inner) if len(body) == 1 and isinstance(inner, dict) else body
    return await call.ask(ChangeSettings(changes=changes))


ROUTES = [
    get("/settings", GetSettings, scope="settings:read"),
    put("/settings", change_settings, scope="settings:write"),
]

"""What the operator sets."""

from __future__ import annotations

from typing import cast

import msgspec

from ..actors.settings import Changed, ChangeSettings, GetSettings, RotateVaultKey
from ..config import Settings
from .call import Call
from .route import get, post, put

SettingsChanges = msgspec.defstruct(
    "SettingsChanges",
    [(field.name, field.type | None | msgspec.UnsetType, msgspec.UNSET) for field in msgspec.structs.fields(Settings)],
    forbid_unknown_fields=True,
)


class SettingsWritten(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    settings: SettingsChanges  # pyright: ignore[reportInvalidTypeForm] - made of the table above


async def change_settings(call: Call, body: dict[str, object]) -> Changed:
    """Change settings: `{"settings": {…}}` or the flat object. Takes effect at once where it can.

    A secret that is written back as it was shown, masked, is left as it is; null puts a setting back to its default.
    """
    return await call.ask(wanted_changes(body))


def wanted_changes(body: dict[str, object]) -> ChangeSettings:
    """The message for either form."""
    inner = body.get("settings")
    return ChangeSettings(
        changes=cast("dict[str, object]", inner) if len(body) == 1 and isinstance(inner, dict) else body
    )


ROUTES = [
    get("/settings", GetSettings, scope="settings:read"),
    put("/settings", change_settings, scope="settings:write", described_as=[SettingsChanges, SettingsWritten]),
    post("/vault/rotate", RotateVaultKey, scope="admin"),
]

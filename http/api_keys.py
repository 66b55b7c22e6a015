"""API keys: made, listed, rotated, revoked."""

from __future__ import annotations

import msgspec

from ..actors.access.api_keys import CreateApiKey, ListApiKeys, RevokeApiKey, RotateApiKey
from .call import Call
from .route import delete, get, post


class Revoked(msgspec.Struct, frozen=True):
    ok: bool = True


async def revoke_api_key(call: Call, message: RevokeApiKey) -> Revoked:
    """Revoke an API key: what comes with it is refused from now on."""
    await call.ask(message)
    return Revoked()


SCOPE = "admin"
ROUTES = [
    get("/auth/api-keys", ListApiKeys, scope=SCOPE),
    post("/auth/api-keys", CreateApiKey, scope=SCOPE),
    delete("/auth/api-keys/{key_id}", revoke_api_key, scope=SCOPE),
    post("/auth/api-keys/{key_id}/rotate", RotateApiKey, scope=SCOPE),
]

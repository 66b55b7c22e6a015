"""Grants: what a person has allowed beyond one call, for a session or for good."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, bindparam, delete, or_, select

from ..runtime.errors import NotFound
from ..runtime.message import Done, Message
from .registry import command, query
from .tables import grants


class Grant(msgspec.Struct, frozen=True):
    """Calls of `tool` that match `pattern` may be made for `principal`, also where content of the kinds in `provenance`
    may have provoked them; in one session, or in every one if `session_id` is None."""

    id: int
    tool: str
    pattern: str
    principal: str
    session_id: str | None
    provenance: list[str]


class ListGrants(Message[list[Grant]], to="store/reader"):
    """List the grants for a tool that hold in a session, or every grant."""

    tool: str | None = None
    session_id: str | None = None


class RevokeGrant(Message[Done], to="store/writer"):
    """Take a grant back."""

    grant_id: int


_GRANTS = select(
    grants.c.id, grants.c.tool, grants.c.pattern, grants.c.principal, grants.c.session_id, grants.c.provenance
).order_by(grants.c.id)
_FOR_CALL = _GRANTS.where(
    grants.c.tool == bindparam("tool"),
    or_(grants.c.session_id.is_(None), grants.c.session_id == bindparam("session_id")),
)
_DELETE = delete(grants).where(grants.c.id == bindparam("grant_id"))


@query
def list_grants(connection: Connection, message: ListGrants) -> list[Grant]:
    if message.tool is None:
        rows = connection.execute(_GRANTS)
    else:
        rows = connection.execute(_FOR_CALL, {"tool": message.tool, "session_id": message.session_id})
    return [Grant(*row) for row in rows]


@command
def revoke_grant(connection: Connection, message: RevokeGrant) -> Done:
    if connection.execute(_DELETE, {"grant_id": message.grant_id}).rowcount == 0:
        raise NotFound(f"there is no grant {message.grant_id}", grant_id=message.grant_id)
    return Done()

"""The installed kits: what each consists of, what its user has set, and whether it is switched on."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from ..runtime.errors import Conflict, NotFound
from ..runtime.message import Done, Message
from .registry import command, query, recurring_query
from .tables import JsonObject, jobs, kits, runs

OWNER_PREFIX = "kit:"
"""Before a kit's id, the owner of its jobs."""


class StoredKit(msgspec.Struct, frozen=True, kw_only=True):
    """`config` is the kit's content, as it was when it was installed.

    Its workflows run as `principal` with `scopes`. `settled` says whether the scheduler has them as `active` says.
    """

    id: str
    config: JsonObject
    user_values: dict[str, str]
    active: bool
    settled: bool
    principal: str
    scopes: list[str]
    installed_at: datetime


class FailedWorkflow(msgspec.Struct, frozen=True):
    """A workflow whose latest run has not come to a good end."""

    kit_id: str
    name: str
    error: str


class KeepKit(Message[Done], to="store/writer"):
    """Keep a new kit; an id that is taken is a conflict."""

    kit: StoredKit


class ChangeKit(Message[Done], to="store/writer"):
    """Put another state of a kit, and nothing of its content, in the place of the one before."""

    kit: StoredKit


class SettleKit(Message[Done], to="store/writer"):
    """Note that the scheduler has a kit's workflows as it should."""

    kit_id: str


class DropKit(Message[Done], to="store/writer"):
    """Forget a kit."""

    kit_id: str


class GetStoredKit(Message[StoredKit], to="store/reader"):
    """Look a kit up."""

    kit_id: str


class ListStoredKits(Message[list[StoredKit]], to="store/reader"):
    """List the kits, the first installed first."""


class ListFailedWorkflows(Message[list[FailedWorkflow]], to="store/reader"):
    """List the workflows of kits whose latest run failed or was interrupted."""


_NAMES = StoredKit.__struct_fields__
_KITS = select(*(kits.c[name] for name in _NAMES))
_BY_ID = kits.c.id == bindparam("kit_id")
_ONE = _KITS.where(_BY_ID)
_LIST = _KITS.order_by(kits.c.installed_at, kits.c.id)
_INSERT = insert(kits)
_CHANGE = (
    update(kits)
    .where(_BY_ID)
    .values(
        user_values=bindparam("new_values"),
        active=bindparam("is_active"),
        settled=bindparam("is_settled"),
        principal=bindparam("new_principal"),
        scopes=bindparam("new_scopes"),
    )
)
_SETTLE = update(kits).where(_BY_ID).values(settled=True)
_DELETE = delete(kits).where(_BY_ID)
_LATEST = select(func.max(runs.c.id)).where(runs.c.state != "skipped").group_by(runs.c.job_id)
_FAILED = (
    select(jobs.c.owner, jobs.c.name, runs.c.error)
    .join_from(runs, jobs, runs.c.job_id == jobs.c.id)
    .where(
        jobs.c.owner.startswith(OWNER_PREFIX, autoescape=True),
        runs.c.id.in_(_LATEST),
        runs.c.state.in_(("failed", "interrupted")),
    )
    .order_by(jobs.c.owner, jobs.c.name)
)


@command
def keep_kit(connection: Connection, message: KeepKit) -> Done:
    try:
        connection.execute(_INSERT, msgspec.structs.asdict(message.kit))
    except IntegrityError as error:
        raise Conflict(f"the kit {message.kit.id!r} is installed already", kit_id=message.kit.id) from error
    return Done()


@command
def change_kit(connection: Connection, message: ChangeKit) -> Done:
    kit = message.kit
    values = {
        "kit_id": kit.id,
        "new_values": kit.user_values,
        "is_active": kit.active,
        "is_settled": kit.settled,
        "new_principal": kit.principal,
        "new_scopes": kit.scopes,
    }
    if connection.execute(_CHANGE, values).rowcount == 0:
        raise no_kit(kit.id)
    return Done()


@command
def settle_kit(connection: Connection, message: SettleKit) -> Done:
    if connection.execute(_SETTLE, {"kit_id": message.kit_id}).rowcount == 0:
        raise no_kit(message.kit_id)
    return Done()


@command
def drop_kit(connection: Connection, message: DropKit) -> Done:
    if connection.execute(_DELETE, {"kit_id": message.kit_id}).rowcount == 0:
        raise no_kit(message.kit_id)
    return Done()


@query
def get_stored_kit(connection: Connection, message: GetStoredKit) -> StoredKit:
    row = connection.execute(_ONE, {"kit_id": message.kit_id}).first()
    if row is None:
        raise no_kit(message.kit_id)
    return StoredKit(**dict(zip(_NAMES, row, strict=True)))


@recurring_query
def list_stored_kits(connection: Connection, _message: ListStoredKits) -> list[StoredKit]:
    return [StoredKit(**dict(zip(_NAMES, row, strict=True))) for row in connection.execute(_LIST)]


@query
def list_failed_workflows(connection: Connection, _message: ListFailedWorkflows) -> list[FailedWorkflow]:
    return [
        FailedWorkflow(owner.removeprefix(OWNER_PREFIX), name, error or "it was cut off")
        for owner, name, error in connection.execute(_FAILED)
    ]


def no_kit(kit_id: str) -> NotFound:
    return NotFound(f"no kit {kit_id!r} is installed", kit_id=kit_id)

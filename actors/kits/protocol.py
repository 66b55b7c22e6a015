"""What can be asked of the kits, and what is answered."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from ...runtime import Message
from .format import KitConfig, KitId, Value

KEEPER = "kits"

UserValues = Annotated[dict[str, Value], Meta(max_length=20)]


class CatalogEntry(msgspec.Struct, frozen=True):
    """`preview` names what its panels show."""

    id: str
    name: str
    description: str
    icon: str
    category: str
    author: str
    tags: list[str]
    preview: str
    installed: bool


class KitCatalog(msgspec.Struct, frozen=True):
    catalog: list[CatalogEntry]
    count: int


class Kit(msgspec.Struct, frozen=True):
    """An installed kit. While it is `active`, its workflows are intentions of the scheduler."""

    id: str
    config: KitConfig
    user_values: dict[str, str]
    installed_at: datetime
    active: bool


class KitList(msgspec.Struct, frozen=True):
    kits: list[Kit]
    count: int


class KitAnswer(msgspec.Struct, frozen=True):
    kit: Kit


class KitInstalled(msgspec.Struct, frozen=True):
    id: str
    kit: Kit
    activated: bool


class KitChanged(msgspec.Struct, frozen=True):
    success: bool
    message: str


class KitData(msgspec.Struct, frozen=True):
    """By source, what the kit's panels show; null where that cannot be had, with the reason in `errors`."""

    data: dict[str, object]
    errors: dict[str, str]


class SourceData(msgspec.Struct, frozen=True):
    source: str
    data: object


class WorkflowResult(msgspec.Struct, frozen=True):
    """What a workflow said last; null before its first run. `next_run` is null while the kit is not active."""

    text: str | None
    at: datetime | None
    next_run: datetime | None
    session_id: str | None


class ListKitCatalog(Message[KitCatalog], to=KEEPER):
    """List the kits that come with PocketPaw."""


class InstallCatalogKit(Message[KitInstalled], to=KEEPER):
    """Install a kit of the catalogue and activate it; `user_values` sets what its user_config asks for."""

    kit_id: str
    user_values: UserValues = msgspec.field(default_factory=dict[str, str])


class InstallKit(Message[KitInstalled], to=KEEPER):
    """Install a kit of one's own, written in YAML; it is not active yet.

    Without `kit_id` its name makes one. `user_values` sets what its user_config asks for.
    """

    yaml: Annotated[str, Meta(min_length=1)]
    kit_id: KitId | None = None
    user_values: UserValues = msgspec.field(default_factory=dict[str, str])


class ListKits(Message[KitList], to=KEEPER):
    """List the installed kits, the first installed first."""


class GetKit(Message[KitAnswer], to=KEEPER):
    """Show an installed kit."""

    kit_id: str


class RemoveKit(Message[KitChanged], to=KEEPER):
    """Uninstall a kit; its workflows come no more, and the sessions that they ran in stay."""

    kit_id: str


class ActivateKit(Message[KitChanged], to=KEEPER):
    """Have a kit's workflows run by their schedules, for whoever activates it and with no more than their scopes.

    `user_values` changes what its user_config asks for; what is left out stays. An active one may be activated again.
    """

    kit_id: str
    user_values: UserValues = msgspec.field(default_factory=dict[str, str])


class DeactivateKit(Message[KitChanged], to=KEEPER):
    """Pause a kit: its workflows come no more until it is activated again."""

    kit_id: str


class GetKitData(Message[KitData], to=KEEPER):
    """What all panels of a kit show now, as far as whoever asks may see it."""

    kit_id: str


class GetKitSource(Message[SourceData], to=KEEPER):
    """What one source says now: `metrics` or `api:metrics`, or `workflow:NAME` for what a workflow said last."""

    kit_id: str
    source: str

"""Kits: ready-made sets of panels and workflows, of the catalogue or of one's own."""

from __future__ import annotations

from ..actors.kits.protocol import (
    ActivateKit,
    DeactivateKit,
    GetKit,
    GetKitData,
    GetKitSource,
    InstallCatalogKit,
    InstallKit,
    ListKitCatalog,
    ListKits,
    RemoveKit,
)
from .route import delete, get, post

SCOPE = "kits"
ROUTES = [
    get("/kits/catalog", ListKitCatalog, scope=SCOPE),
    post("/kits/catalog/{kit_id}/install", InstallCatalogKit, scope=SCOPE),
    get("/kits", ListKits, scope=SCOPE),
    post("/kits/install", InstallKit, scope=SCOPE),
    get("/kits/{kit_id}", GetKit, scope=SCOPE),
    delete("/kits/{kit_id}", RemoveKit, scope=SCOPE),
    post("/kits/{kit_id}/activate", ActivateKit, scope=SCOPE),
    post("/kits/{kit_id}/deactivate", DeactivateKit, scope=SCOPE),
    get("/kits/{kit_id}/data", GetKitData, scope=SCOPE),
    get("/kits/{kit_id}/data/{source}", GetKitSource, scope=SCOPE),
]

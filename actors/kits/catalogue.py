"""The kits that come with PocketPaw: one YAML file each, in config/kits."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ...runtime.errors import NotFound
from .format import KitConfig, read_kit

FOLDER = Path(__file__).parents[2] / "config" / "kits"


@cache
def built_in_kits() -> dict[str, KitConfig]:
    """The kits by id, which is the file's name. It computes for a moment, the first time."""
    return {path.stem: read_kit(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.yaml"))}


def built_in_kit(kit_id: str) -> KitConfig:
    """Raises: NotFound."""
    kit = built_in_kits().get(kit_id)
    if kit is None:
        raise NotFound(f"there is no kit {kit_id!r} in the catalogue", kit_id=kit_id)
    return kit

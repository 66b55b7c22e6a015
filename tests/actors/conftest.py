"""A home, the settings in it, and the store's actors on a real database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.config import open_home
from pocketpaw.runtime import Child, Supervisor
from pocketpaw.storage.store import Storage, StoreReader, StoreWriter

MakeLive = Callable[..., LiveSettings]


@pytest.fixture
def make_live(tmp_path: Path) -> MakeLive:
    """`make_live(web_port=1)` opens the settings with these on the command line; a second call finds the same home."""

    def make(**overrides: object) -> LiveSettings:
        return LiveSettings(open_home(tmp_path / "home"), {}, overrides)

    return make


@pytest.fixture
def live(make_live: MakeLive) -> LiveSettings:
    return make_live()


@pytest.fixture
def make_store(live: LiveSettings) -> Callable[[], Supervisor]:
    """`make_store()` is the store as the daemon has it; a second one finds the same database."""

    def make() -> Supervisor:
        storage = Storage(live.home.database_url(live.current))
        actors = [Child(StoreWriter, storage, id="writer"), Child(StoreReader, storage, id="reader")]
        return Supervisor("store", actors, strategy="rest_for_one")

    return make


@pytest.fixture
def store(make_store: Callable[[], Supervisor]) -> Supervisor:
    return make_store()

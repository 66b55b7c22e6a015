from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from pocketpaw.actors.channels import keeper
from pocketpaw.actors.channels.media import KEPT, forget_old_media, media_folder
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.config import open_home

from .conftest import WITHIN_S, RunChannels

HOUR = timedelta(hours=1)


def put(path: Path, at: datetime) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"jpeg")
    os.utime(path, (at.timestamp(), at.timestamp()))
    return path


def test_old_files_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    home, now = open_home(tmp_path / "home"), datetime.now(UTC)
    assert forget_old_media(home, now) == 0
    media = media_folder(home, "telegram")
    old = [put(media / "old.jpg", now - KEPT - HOUR), put(media_folder(home, "slack") / "old", now - KEPT - HOUR)]
    kept = [put(media / "new.jpg", now - KEPT + HOUR), put(media.parent / "session.json", now - KEPT - HOUR)]
    outside = put(tmp_path / "outside", now - KEPT - HOUR)
    (media / "link").symlink_to(outside)
    assert forget_old_media(home, now) == 2
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in [*kept, outside, media / "link"])


async def test_the_keeper_sees_to_it(
    run_channels: RunChannels, live: LiveSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "PRUNE_FIRST_S", 0.0)
    old = put(media_folder(live.home, "telegram") / "old.jpg", datetime.now(UTC) - KEPT - HOUR)
    async with run_channels():
        with trio.fail_after(WITHIN_S):
            while old.exists():  # noqa: ASYNC110 another actor's doing
                await trio.sleep(0.01)

"""What every platform that something speaks to has in common."""

from __future__ import annotations

import pytest
from pocketpaw.actors.channels.platforms import PLATFORMS
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.runtime.errors import NeedsOperator, NotBuilt

from ..conftest import MakeLive

SPOKEN = [name for name, info in PLATFORMS.items() if info.speaker]


def test_the_first_four_channels_are_built() -> None:
    assert set(SPOKEN) == {"telegram", "discord", "slack"}  # the fourth is the webhook


@pytest.mark.parametrize("name", SPOKEN)
async def test_a_platform_that_is_not_set_up_names_what_is_missing(name: str, live: LiveSettings) -> None:
    info = PLATFORMS[name]
    assert not info.is_configured(live.current)
    with pytest.raises(NeedsOperator, match=info.needs[0]):
        info.open(live)


@pytest.mark.parametrize("name", SPOKEN)
async def test_a_platform_is_one_as_the_channel_needs_it(name: str, make_live: MakeLive) -> None:
    info = PLATFORMS[name]
    live = make_live(**dict.fromkeys(info.needs, "xoxb-a-token"))
    platform = info.open(live)
    assert platform.name == name
    assert platform.text_limit >= 1_000
    assert platform.length("abc") < platform.length("abc" * 100) <= platform.text_limit
    assert platform.edit_every_s >= 0
    for method in ("listen", "send", "edit", "typing"):
        assert callable(getattr(platform, method))


def test_a_platform_that_nothing_speaks_to_says_so(live: LiveSettings) -> None:
    with pytest.raises(NotBuilt, match="matrix"):
        PLATFORMS["matrix"].open(live)

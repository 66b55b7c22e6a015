"""Ways to break the gate."""

from __future__ import annotations

import msgspec
import pytest
import trio
from pocketpaw.actors.agent import Accepted, ResumeTurns
from pocketpaw.actors.tools.gate import ListApprovals
from pocketpaw.storage.tool_calls import ListCalls
from test_turn_loop import *  # noqa
from test_turn_loop import Bench, Call, Deeds, House, OpenHouse, Script, house, use, put, look, names


async def test_int(house: OpenHouse) -> None:
    script, deeds = Script(use(Call("look", {"path": "/x", "n": 2**80}))), Deeds()
    async with house(script, deeds) as home:
        heard = await home.chat("go")
        assert heard[-1][1]["state"] == "done"
        print(script.told)


async def test_deep(house: OpenHouse) -> None:
    deep: object = 1
    for _ in range(950):
        deep = [deep]
    script, deeds = Script(use(Call("look", {"path": deep}))), Deeds()
    async with house(script, deeds) as home:
        heard = await home.chat("go")
        print(script.told, home.system.cell("tools/gate").incarnation)
        assert heard[-1][1]["state"] == "done"

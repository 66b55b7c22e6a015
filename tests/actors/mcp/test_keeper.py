"""The keeper: what is configured runs, what is not does not, and the file is never lost."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import trio
from pocketpaw.actors.mcp import presets
from pocketpaw.actors.mcp.naming import tool_name
from pocketpaw.actors.mcp.presets import PRESETS, Preset
from pocketpaw.actors.mcp.protocol import (
    AddMcpServer,
    GetMcpProblems,
    GetMcpStatus,
    Installed,
    InstallMcpPreset,
    ListMcpPresets,
    RemoveMcpServer,
    ToggleMcpServer,
    TryMcpServer,
)
from pocketpaw.runtime import CONNECTOR, Backoff, Message, SupervisorNode
from pocketpaw.runtime.errors import InvalidInput, NotFound, PocketPawError, Unavailable

from ...conftest import Eventually
from .conftest import GONE, Mcp, RunMcp, stdio


def add(name: str, *options: str, **fields: object) -> AddMcpServer:
    server = stdio(name, *options, **fields)
    server["args"] = tuple(server["args"])  # pyright: ignore[reportArgumentType] it is a list of texts
    return AddMcpServer(**server)  # pyright: ignore[reportArgumentType] its fields are those


def trial(name: str, *options: str, **fields: object) -> TryMcpServer:
    described = add(name, *options, **fields)
    return TryMcpServer(name=name, command=described.command, args=described.args, timeout=described.timeout)


def saved(mcp: Mcp) -> dict[str, dict[str, object]]:
    return {server["name"]: server for server in json.loads(mcp.file.read_text())["servers"]}


async def test_nothing_configured_is_nothing_running(run_mcp: RunMcp) -> None:
    async with run_mcp() as mcp:
        assert await mcp.system.ask(GetMcpStatus()) == {}
        assert await mcp.tools() == {}
        assert not mcp.file.exists()


async def test_a_server_is_added_used_turned_off_and_on_and_removed(run_mcp: RunMcp) -> None:
    async with run_mcp() as mcp:
        await mcp.system.ask(add("fake"))
        await mcp.connected()
        assert (await mcp.call("echo", text="hi")).text == "fake: hi"

        assert (await mcp.system.ask(ToggleMcpServer(name="fake"))).enabled is False
        status = await mcp.until(lambda status: status.state == "disabled")
        assert (status.enabled, status.connected, status.tool_count) == (False, False, 0)
        with pytest.raises(Unavailable, match="it is disabled"):
            await mcp.call("echo", text="hi")
        assert saved(mcp)["fake"]["enabled"] is False

        assert (await mcp.system.ask(ToggleMcpServer(name="fake"))).enabled is True
        await mcp.connected()

        await mcp.system.ask(RemoveMcpServer(name="fake"))
        assert await mcp.system.ask(GetMcpStatus()) == {}
        assert saved(mcp) == {}
        with pytest.raises(NotFound):
            await mcp.call("echo", text="hi")


async def test_agents_are_offered_what_is_connected_and_what_comes_back_but_not_what_is_parked(
    run_mcp: RunMcp, eventually: Eventually
) -> None:
    async with run_mcp(stdio("fake"), max_restarts=1, backoff=Backoff(min_s=0.3, max_s=0.3)) as mcp:

        def is_offered() -> bool:
            return mcp.catalogue.get("mcp__fake__echo") is not None

        await eventually(is_offered)
        for restarts in range(2):
            await mcp.until(lambda status, restarts=restarts: status.connected and status.restarts == restarts)
            with pytest.raises(GONE, match="status 3"):
                await mcp.call("crash")
            assert is_offered()
        await mcp.until(lambda status: status.state == "parked")
        await mcp.system.ask(add("other", enabled=False))
        await eventually(lambda: not is_offered())


async def test_a_tool_that_comes_later_is_offered(run_mcp: RunMcp, eventually: Eventually) -> None:
    async with run_mcp(stdio("fake")) as mcp:
        await mcp.connected()
        await mcp.call("grow")
        name = tool_name("fake", "extra.12")
        await eventually(lambda: mcp.catalogue.get(name) is not None)


async def test_a_server_that_is_changed_is_started_anew_and_the_others_are_left_alone(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake"), stdio("other")) as mcp:
        await mcp.connected()
        await mcp.connected("other")
        incarnation = mcp.system.node("mcp/servers/other").life
        await mcp.system.ask(add("fake", env={"MODE": "second"}))
        with trio.fail_after(10):
            while True:
                try:
                    environment = (await mcp.call("environment")).text
                except PocketPawError:
                    await trio.sleep(0.01)
                else:
                    if json.loads(environment).get("MODE") == "second":
                        break
        assert mcp.system.node("mcp/servers/other").life is incarnation


async def test_one_bad_server_keeps_no_other_waiting(run_mcp: RunMcp) -> None:
    async with run_mcp(
        stdio("hangs", "--hang-in-initialize"),
        stdio("exits", "--exit", "1"),
        {"name": "missing", "command": "no-such-program"},
        stdio("fake"),
        backoff=CONNECTOR,
    ) as mcp:
        await mcp.connected()
        status = await mcp.system.ask(GetMcpStatus())
        assert {name: found.connected for name, found in status.items()} == {
            "hangs": False,
            "exits": False,
            "missing": False,
            "fake": True,
        }


@pytest.mark.parametrize(
    "message", [RemoveMcpServer(name="fake"), ToggleMcpServer(name="fake")], ids=["remove", "toggle"]
)
async def test_what_is_not_there_is_not_found(run_mcp: RunMcp, message: Message[object]) -> None:
    async with run_mcp() as mcp:
        with pytest.raises(NotFound, match="there is no MCP server 'fake'"):
            await mcp.system.ask(message)


async def test_a_server_is_tried_without_being_saved(run_mcp: RunMcp) -> None:
    async with run_mcp() as mcp:
        found = await mcp.system.ask(trial("fake"))
        assert (found.connected, found.error) == (True, "")
        assert "mcp__fake__echo" in [tool.name for tool in found.tools]
        refused = await mcp.system.ask(trial("fake", "--exit", "4"))
        assert (refused.connected, refused.tools) == (False, [])
        assert refused.error == "it exited with status 4: there is no model of that name"
        hanging = await mcp.system.ask(trial("fake", "--hang-in-initialize", timeout=0.3))
        assert hanging.error == "it did not say within 0.3 s what it offers"
        assert await mcp.system.ask(GetMcpStatus()) == {}
        assert not mcp.file.exists()
        with trio.fail_after(10):
            while supervisor(mcp).which_children():  # noqa: ASYNC110 it is ended by another actor
                await trio.sleep(0.01)


async def test_a_file_that_cannot_be_read_is_reported_kept_and_used_once_it_is_mended(run_mcp: RunMcp) -> None:
    async with run_mcp(text="{ broken") as mcp:
        (problem,) = await mcp.system.ask(GetMcpProblems())
        assert "mcp_servers.json, line 1: invalid JSON" in problem
        assert mcp.problems == [problem]
        assert await mcp.system.ask(GetMcpStatus()) == {}
        with pytest.raises(Unavailable, match=r"nothing was saved, as .* correct that file first"):
            await mcp.system.ask(add("fake"))
        assert mcp.file.read_text() == "{ broken"
        mcp.file.write_text(json.dumps({"servers": [stdio("other")]}))
        await mcp.system.ask(add("fake"))
        await mcp.connected("other")
        assert await mcp.system.ask(GetMcpProblems()) == []


async def test_what_somebody_wrote_into_the_file_meanwhile_is_not_lost(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake")) as mcp:
        await mcp.connected()
        mcp.file.write_text(json.dumps({"servers": [stdio("fake"), stdio("by-hand")]}))
        await mcp.system.ask(add("added"))
        assert list(saved(mcp)) == ["fake", "by-hand", "added"]
        await mcp.connected("by-hand")


async def test_changes_at_the_same_time_do_not_lose_one_another(run_mcp: RunMcp) -> None:
    async with run_mcp() as mcp:
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(mcp.system.ask, add(f"s{number}", enabled=False))
        assert set(saved(mcp)) == {f"s{number}" for number in range(10)}


async def test_a_keeper_that_crashes_finds_its_servers_and_their_tools_again(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake")) as mcp:
        await mcp.connected()
        life = mcp.system.node("mcp/servers/fake").life
        mcp.system.node("mcp/keeper").kill(RuntimeError("planned"))
        await mcp.connected()
        assert mcp.system.node("mcp/servers/fake").life is life
        assert (await mcp.call("echo", text="hi")).text == "fake: hi"


async def test_servers_come_back_when_their_supervisor_is_started_anew(
    run_mcp: RunMcp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketpaw.actors.mcp.keeper.LOOK_S", 0.1)
    async with run_mcp(stdio("fake")) as mcp:
        await mcp.connected()
        owner = mcp.system.node("mcp")
        assert isinstance(owner, SupervisorNode)
        await owner.restart_child("servers")
        await mcp.connected()


async def test_secrets_stand_in_no_answer_and_are_hidden_from_the_log(run_mcp: RunMcp) -> None:
    secret = "sk-canary-0123456789"
    async with run_mcp() as mcp:
        await mcp.system.ask(add("fake", "--exit", "1", env={"CANARY": secret}))
        status = await mcp.until(lambda status: status.error)
        assert secret in mcp.live.secrets
        assert secret not in repr(status)
        assert secret not in mcp.file.read_text()
        assert mcp.live.secret("mcp/fake/env/CANARY") == secret


def test_the_catalogue_describes_servers_that_could_be_started() -> None:
    assert len(PRESETS) >= 10
    for preset in PRESETS.values():
        env = {key.key: "value" for key in preset.env_keys}
        config = preset.config(env, ["argument"] if preset.needs_args else [])
        assert config.check().name == preset.id


async def test_the_catalogue_says_what_is_installed(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("time", enabled=False)) as mcp:
        views = {view.id: view for view in await mcp.system.ask(ListMcpPresets())}
    assert [id_ for id_, view in views.items() if view.installed] == ["time"]
    assert views["filesystem"].needs_args
    assert views["brave-search"].env_keys[0].key == "BRAVE_API_KEY"


@pytest.mark.parametrize(
    ("message", "error", "text"),
    [
        (InstallMcpPreset(preset_id="nothing"), NotFound, "there is no preset 'nothing'"),
        (InstallMcpPreset(preset_id="brave-search"), InvalidInput, "brave-search needs BRAVE_API_KEY"),
        (InstallMcpPreset(preset_id="filesystem"), InvalidInput, "filesystem needs arguments"),
    ],
)
async def test_a_preset_that_lacks_something_is_not_installed(
    run_mcp: RunMcp, message: InstallMcpPreset, error: type[Exception], text: str
) -> None:
    async with run_mcp() as mcp:
        with pytest.raises(error, match=text):
            await mcp.system.ask(message)
        assert not mcp.file.exists()


async def test_a_preset_is_installed_and_connected(run_mcp: RunMcp, monkeypatch: pytest.MonkeyPatch) -> None:
    command = add("x")
    fake = Preset(
        id="fake",
        name="Fake",
        description="A fake",
        icon="x",
        category="dev",
        docs_url="",
        command=(command.command, *command.args[:2]),
    )
    monkeypatch.setattr(presets, "PRESETS", {"fake": fake})
    monkeypatch.setattr("pocketpaw.actors.mcp.keeper.PRESETS", {"fake": fake})
    async with run_mcp() as mcp:
        installed = await mcp.system.ask(InstallMcpPreset(preset_id="fake", extra_args=("--name", "mine")))
        assert isinstance(installed, Installed)
        assert installed.connected
        assert "mcp__fake__echo" in [tool.name for tool in installed.tools]
        assert (await mcp.call("echo", text="hi")).text == "mine: hi"


def supervisor(mcp: Mcp) -> SupervisorNode:
    node = mcp.system.node("mcp/servers")
    assert isinstance(node, SupervisorNode)
    return node


def test_a_daemon_without_a_server_does_not_load_what_they_need() -> None:
    code = (
        "import sys, pocketpaw.actors.mcp.keeper, pocketpaw.http.mcp; print({'mcp', 'pydantic'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"

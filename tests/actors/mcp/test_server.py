"""One MCP server as an actor: a real process that speaks the protocol, or does not."""

from __future__ import annotations

import json
import sys

import msgspec
import pytest
import trio
import trio.testing
from pocketpaw.actors.mcp import server as server_module
from pocketpaw.actors.mcp import session as session_module
from pocketpaw.actors.mcp.content import OUTPUT_LIMIT
from pocketpaw.actors.mcp.protocol import ListPrompts, ListResources, Offer, ReadResource
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.actors.tools.protocol import Execute, ToolOutput, ToolProgress
from pocketpaw.runtime import CONNECTOR
from pocketpaw.runtime.errors import NotFound, TimedOut, Unavailable

from .conftest import GONE, RunMcp, stdio


async def test_a_servers_tools_are_listed_and_called(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake")) as mcp:
        status = await mcp.connected()
        tools = await mcp.tools()
        output = await mcp.call("echo", text="hello")
    assert (status.state, status.error, status.restarts, status.tool_count) == ("connected", "", 0, len(tools))
    echo, wait = tools["mcp__fake__echo"], tools["mcp__fake__wait"]
    assert (echo.effect, echo.scope, echo.address) == ("read", "mcp", "mcp/servers/fake")
    assert wait.effect == "execute"
    assert echo.parameters["properties"] == {"text": {"type": "string"}}
    assert output == ToolOutput("fake: hello", source="mcp fake")


async def test_a_failure_is_said_in_the_servers_words(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake")) as mcp:
        await mcp.connected()
        assert await mcp.call("fail") == ToolOutput("it went wrong", is_error=True, source="mcp fake")
        assert await mcp.call("refuse") == ToolOutput("I refuse", is_error=True, source="mcp fake")


async def test_what_is_no_text_is_described_and_what_is_too_long_is_cut(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake")) as mcp:
        await mcp.connected()
        assert (await mcp.call("picture")).text == "[an image, image/png, 0.0 KB]"
        big = await mcp.call("big", size=OUTPUT_LIMIT + 7)
    assert big.text.startswith("x" * OUTPUT_LIMIT)
    assert big.text.endswith("[7 more characters were left out: ask for less at once to see them]")


async def test_a_message_beyond_the_limit_ends_the_connection(run_mcp: RunMcp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketpaw.actors.mcp.stdio_streams.MESSAGE_LIMIT_BYTES", 1024 * 1024)
    async with run_mcp(stdio("fake")) as mcp:
        await mcp.connected()
        with pytest.raises(GONE, match="it sent a message of more than 1 MB"):
            await mcp.call("big", size=2_000_000)
        await mcp.until(lambda status: status.connected and status.restarts == 1)
        assert (await mcp.call("echo", text="again")).text == "fake: again"


async def test_progress_is_passed_on(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake")) as mcp:
        await mcp.connected()
        *progress, output = await mcp.events("progress", {})
    assert progress == [ToolProgress(f"step {step}", step, 3.0) for step in (1, 2, 3)]
    assert output == ToolOutput("done", source="mcp fake")


async def test_whoever_leaves_has_the_server_leave_off_and_disturbs_nobody(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake")) as mcp:
        await mcp.connected()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mcp.wait_for, 60.0)
            await trio.testing.wait_all_tasks_blocked(0.05)
            nursery.cancel_scope.cancel()
        assert (await mcp.call("count")).text == "1"
        assert (await mcp.status("fake")).restarts == 0


async def test_a_call_that_takes_too_long_is_given_up(run_mcp: RunMcp, live: LiveSettings) -> None:
    live.replace(live.loaded)
    async with run_mcp(stdio("fake")) as mcp:
        await mcp.connected()
        set_timeout(live, 0.2)
        with pytest.raises(TimedOut, match=r"fake did not answer wait within 0\.2 s"):
            await mcp.call("wait", seconds=60)
        assert (await mcp.call("count")).text == "1"


async def test_calls_run_beside_one_another(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake")) as mcp:
        await mcp.connected()
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(mcp.wait_for, 0.5)


async def test_tools_that_come_later_are_seen(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake")) as mcp:
        before = await mcp.connected()
        await mcp.call("grow")
        await mcp.until(lambda status: status.tool_count > before.tool_count)
        (name,) = [name for name in await mcp.tools() if "extra" in name]
        output = await mcp.call(name.removeprefix("mcp__fake__"))
    assert name.startswith("mcp__fake__extra_12_")  # as a dot is not for every model, and what is changed is marked
    assert output.text == "I am extra.12"


async def test_a_list_in_pages_is_read_to_its_end(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake"), stdio("paged", "--pages")) as mcp:
        assert (await mcp.connected()).tool_count == (await mcp.connected("paged")).tool_count


async def test_resources_and_prompts_are_listed_and_read(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake")) as mcp:
        await mcp.connected()
        assert await mcp.system.ask(ListResources(server="fake")) == [Offer("memo://one", "A memo")]
        assert await mcp.system.ask(ListPrompts(server="fake")) == [Offer("greet", "Say hello")]
        read = await mcp.system.ask(ReadResource(server="fake", uri="memo://one"))
    assert read == ToolOutput("memo://one:\nremember", source="mcp fake")


async def test_lines_that_are_no_messages_do_no_harm(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake", "--junk")) as mcp:
        await mcp.connected()
        assert (await mcp.call("echo", text="hello")).text == "fake: hello"
        assert (await mcp.status("fake")).restarts == 0


async def test_a_crash_answers_whoever_waits_and_is_healed(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake")) as mcp:
        await mcp.connected()
        failures: list[Exception] = []

        async def wait() -> None:
            with pytest.raises(GONE) as caught:
                await mcp.events("wait", {"seconds": 60})
            failures.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.05)
            with pytest.raises(GONE, match="it exited with status 3: about to crash"):
                await mcp.call("crash")
        assert len(failures) == 1
        assert (await mcp.until(lambda status: status.connected and status.restarts == 1)).error == ""
        assert (await mcp.call("echo", text="healed")).text == "fake: healed"


async def test_a_server_that_is_down_refuses_at_once_and_says_why(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake", "--exit", "7"), backoff=CONNECTOR) as mcp:
        status = await mcp.until(lambda status: status.state == "backoff")
        assert status.error == "it exited with status 7: there is no model of that name"
        with trio.fail_after(0.5), pytest.raises(Unavailable, match=r"cannot be used now, it is backoff \(it exited"):
            await mcp.call("echo", text="hello")


async def test_a_server_that_is_still_connecting_refuses_at_once(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake", "--hang-in-initialize")) as mcp:
        await mcp.until(lambda status: status.state == "connecting")
        with trio.fail_after(0.5), pytest.raises(Unavailable, match="it is connecting"):
            await mcp.call("echo", text="hello")


async def test_a_server_that_hangs_in_initialize_is_given_up_each_time_and_leaves_nothing(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake", "--hang-in-initialize", "--stay", "--child", "60", timeout=0.5)) as mcp:
        status = await mcp.until(lambda status: status.restarts >= 2)
    assert status.error in ("", "it did not say within 0.5 s what it offers")


async def test_what_fails_too_often_is_parked(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake", "--exit", "1"), max_restarts=3) as mcp:
        status = await mcp.until(lambda status: status.state == "parked")
        assert status.restarts == 3
        with pytest.raises(Unavailable, match="it is parked"):
            await mcp.call("echo", text="hello")


async def test_a_program_that_is_not_there_is_for_the_operator(run_mcp: RunMcp) -> None:
    async with run_mcp({"name": "fake", "command": "no-such-program"}) as mcp:
        status = await mcp.until(lambda status: status.state == "parked")
    assert status.restarts == 0
    assert "there is no program 'no-such-program' on the PATH" in status.error


async def test_a_server_that_ignores_everything_is_killed_with_all_that_it_started(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake", "--stay", "--child", "60")) as mcp:
        await mcp.connected()


async def test_a_quiet_server_that_answers_no_ping_is_started_anew(
    run_mcp: RunMcp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "QUIET_S", 0.1)
    monkeypatch.setattr(session_module, "PING_TIMEOUT_S", 0.2)
    async with run_mcp(stdio("fake")) as mcp:
        await mcp.connected()
        await mcp.call("deafen")
        await mcp.until(lambda status: status.connected and status.restarts == 1)
        await trio.sleep(0.5)
        assert (await mcp.status("fake")).restarts == 1  # a quiet server that answers is left alone


async def test_its_environment_holds_what_is_configured_and_nothing_of_ours(
    run_mcp: RunMcp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-daemon")
    async with run_mcp(stdio("fake", env={"API_KEY": "sk-of-the-server"})) as mcp:
        await mcp.connected()
        environment = json.loads((await mcp.call("environment")).text)
    assert environment["API_KEY"] == "sk-of-the-server"
    assert set(environment) <= {"API_KEY", "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "PWD"} | {
        "USER",
        "LOGNAME",
        "SHELL",
    }
    assert "sk-of-the-server" in mcp.live.secrets


async def test_a_tool_that_nobody_has_is_not_found(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake")) as mcp:
        await mcp.connected()
        with pytest.raises(NotFound, match="MCP server fake has no tool mcp__fake__nothing"):
            await mcp.call("nothing")
        with pytest.raises(NotFound, match="no MCP server has a tool mcp__other__echo"):
            await mcp.call("echo", server="other")


async def test_a_server_that_changed_its_mind_is_not_asked_for_a_tool_that_it_had(run_mcp: RunMcp) -> None:
    async with run_mcp(stdio("fake")) as mcp:
        await mcp.connected()
        message = Execute(name="mcp__fake__gone", arguments={}, session_id="s", turn_id="t")
        with pytest.raises(Unavailable, match="MCP server fake offers no tool mcp__fake__gone at present"):
            async with mcp.system.stream(message, to="mcp/servers/fake") as events:
                await anext(events)


ODD = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    head = '{"jsonrpc":"2.0","id":' + json.dumps(asked["id"]) + ','
    if asked["method"] == "initialize":
        info = {"name": "odd", "version": "1"}
        version = asked["params"]["protocolVersion"]
        rest = '"result":' + json.dumps({"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info})
        rest = sys.argv[2] if len(sys.argv) > 2 else rest
    elif asked["method"] == "tools/list":
        rest = '"result":' + json.dumps({"tools": [{"name": "t", "inputSchema": {"type": "object"}}]})
    else:
        rest = sys.argv[1]
    print(head + rest + "}", flush=True)
"""


def odd(*words: str) -> dict[str, object]:
    """A server that answers a call with these words, and `initialize` too if there are more."""
    return {"name": "fake", "transport": "stdio", "command": sys.executable, "args": ["-S", "-c", ODD, *words]}


@pytest.mark.parametrize("code", [-32000, -32001])
async def test_an_error_is_the_servers_own_although_the_sdk_uses_its_code(run_mcp: RunMcp, code: int) -> None:
    async with run_mcp(odd(f'"error":{{"code":{code},"message":"no such ticket"}}')) as mcp:
        await mcp.connected()
        output = await mcp.call("t")
        assert (output.text, output.is_error) == ("no such ticket", True)


@pytest.mark.parametrize("answer", ['"result":null', '"result":{"content":[],"x":' + "[" * 400 + "]" * 400 + "}"])
async def test_an_answer_that_cannot_be_read_is_not_waited_for(run_mcp: RunMcp, answer: str) -> None:
    async with run_mcp(odd(answer)) as mcp:
        await mcp.connected()
        with trio.fail_after(10):
            output = await mcp.call("t")
        assert (output.text, output.is_error) == ("it answered with what cannot be read", True)


async def test_a_server_that_refuses_at_length_is_quoted_in_brief(run_mcp: RunMcp) -> None:
    async with run_mcp(odd("", f'"error":{{"code":-1,"message":"{"no " * 10_000}"}}')) as mcp:
        status = await mcp.until(lambda status: status.error)
        assert status.error.startswith("no no")
        assert len(status.error) <= session_module.QUOTE_LIMIT


def set_timeout(live: LiveSettings, seconds: float) -> None:
    settings = msgspec.structs.replace(live.current, mcp_call_timeout_s=seconds)
    live.replace(msgspec.structs.replace(live.loaded, settings=settings))

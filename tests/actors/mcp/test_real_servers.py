"""MCP servers that nobody here wrote, installed for the test from npm and PyPI (`pytest -m soak`)."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import trio
from pocketpaw.actors.tools.protocol import ToolOutput, ToolProgress
from pocketpaw.runtime.errors import PocketPawError

from ...conftest import Eventually
from ...journeys.daemon import free_port
from .conftest import Mcp, RunMcp, stdio

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:Async generator '(httpx2|httpcore2):ResourceWarning"),
]

NPM = ("everything", "filesystem", "memory")
PYPI = ("time", "git")
CALLS = 100
KILLS = 50

Arguments = dict[str, dict[str, object]]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The servers' programs by name; skips where a registry cannot be reached."""
    folder = tmp_path_factory.mktemp("servers")
    install("npm", "install", "--prefix", folder, "--no-audit", "--no-fund", "--ignore-scripts", *map(npm_name, NPM))
    install(sys.executable, "-m", "venv", folder / "venv")
    install(folder / "venv/bin/pip", "install", "-q", *(f"mcp-server-{name}" for name in PYPI))
    folders = {**dict.fromkeys(NPM, "node_modules/.bin"), **dict.fromkeys(PYPI, "venv/bin")}
    return {name: str(folder / where / f"mcp-server-{name}") for name, where in folders.items()}


def npm_name(name: str) -> str:
    return f"@modelcontextprotocol/server-{name}"


def install(*command: object) -> None:
    words = list(map(str, command))
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"{words[0]} cannot be used here: {error}")
    if done.returncode:
        pytest.skip(f"{' '.join(words[:3])} failed: {done.stderr.strip()[-300:]}")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a file in it, that is a Git repository."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.txt").write_text("alpha\nbeta\n")
    git = ["git", "-C", str(folder), "-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    subprocess.run([*git[:3], "config", "user.name", "Ann"], check=True)
    subprocess.run([*git[:3], "config", "user.email", "ann@example.org"], check=True)
    (folder / "b.txt").write_text("gamma\n")
    return folder


def arguments(server: str, data: Path) -> Arguments:
    """What each tool is called with, in this order."""
    if server == "everything":
        return {
            "echo": {"message": "hello"},
            "get-annotated-message": {"messageType": "success"},
            "get-resource-reference": {"resourceType": "Text", "resourceId": 1},
            "get-structured-content": {"location": "New York"},
            "get-sum": {"a": 2, "b": 3},
            "gzip-file-as-resource": {
                "name": "x.gz",
                "data": "data:text/plain;base64,aGVsbG8=",
                "outputType": "resource",
            },
            "trigger-long-running-operation": {"duration": 1, "steps": 2},
            "simulate-research-query": {"topic": "bees"},
        }
    if server == "filesystem":
        path = str(data / "a.txt")
        return {
            "read_file": {"path": path},
            "read_text_file": {"path": path},
            "read_media_file": {"path": path},
            "read_multiple_files": {"paths": [path]},
            "write_file": {"path": str(data / "c.txt"), "content": "delta"},
            "edit_file": {"path": path, "edits": [{"oldText": "beta", "newText": "BETA"}]},
            "create_directory": {"path": str(data / "d")},
            "list_directory": {"path": str(data)},
            "list_directory_with_sizes": {"path": str(data)},
            "directory_tree": {"path": str(data)},
            "move_file": {"source": str(data / "c.txt"), "destination": str(data / "d/c.txt")},
            "search_files": {"path": str(data), "pattern": "*.txt"},
            "get_file_info": {"path": path},
        }
    if server == "memory":
        return {
            "create_entities": {"entities": [{"name": "Ann", "entityType": "person", "observations": ["likes bees"]}]},
            "create_relations": {"relations": [{"from": "Ann", "to": "Ann", "relationType": "knows"}]},
            "add_observations": {"observations": [{"entityName": "Ann", "contents": ["is tall"]}]},
            "search_nodes": {"query": "bees"},
            "open_nodes": {"names": ["Ann"]},
            "delete_observations": {"deletions": [{"entityName": "Ann", "observations": ["is tall"]}]},
            "delete_relations": {"relations": [{"from": "Ann", "to": "Ann", "relationType": "knows"}]},
            "delete_entities": {"entityNames": ["Ann"]},
        }
    if server == "time":
        return {
            "get_current_time": {"timezone": "Europe/Berlin"},
            "convert_time": {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"},
        }
    repository: dict[str, object] = {"repo_path": str(data)}
    return {
        "git_status": repository,
        "git_diff_unstaged": repository,
        "git_add": {**repository, "files": ["b.txt"]},
        "git_diff_staged": repository,
        "git_commit": {**repository, "message": "second"},
        "git_diff": {**repository, "target": "HEAD~1"},
        "git_reset": repository,
        "git_log": repository,
        "git_create_branch": {**repository, "branch_name": "other"},
        "git_checkout": {**repository, "branch_name": "other"},
        "git_show": {**repository, "revision": "HEAD"},
        "git_branch": {**repository, "branch_type": "local"},
    }


def configured(server: str, program: str, data: Path) -> dict[str, object]:
    args = {"everything": ["stdio"], "filesystem": [str(data)]}.get(server, [])
    env = {"MEMORY_FILE_PATH": str(data / "memory.jsonl")} if server == "memory" else {}
    return {"name": server, "command": program, "args": args, "env": env}


@pytest.mark.parametrize("server", [*NPM, *PYPI])
async def test_every_tool_of_a_real_server_can_be_called(
    run_mcp: RunMcp, programs: dict[str, str], data: Path, server: str
) -> None:
    async with run_mcp(configured(server, programs[server], data)) as mcp:
        await mcp.connected(server)
        await call_them_all(mcp, server, data)
        assert (await mcp.status(server)).restarts == 0


@pytest.fixture
def everything_over_http(programs: dict[str, str]) -> Iterator[str]:
    servers: list[subprocess.Popen[bytes]] = []
    port = free_port()

    def start(kind: str) -> None:
        environment = {"PATH": os.environ["PATH"], "PORT": str(port)}
        command = [programs["everything"], kind]
        quiet = subprocess.DEVNULL
        servers.append(subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet))

    start("streamableHttp")
    yield f"http://127.0.0.1:{port}/mcp"
    for server in servers:
        server.kill()
        server.wait()


async def test_every_tool_of_a_real_server_can_be_called_over_http(
    run_mcp: RunMcp, everything_over_http: str, data: Path
) -> None:
    server = {"name": "everything", "transport": "http", "url": everything_over_http}
    async with run_mcp(server) as mcp:
        await mcp.connected("everything")
        await call_them_all(mcp, "everything", data)


async def call_them_all(mcp: Mcp, server: str, data: Path) -> None:
    prefix = f"mcp__{server}__"
    known = arguments(server, data)
    listed = [name.removeprefix(prefix) for name in await mcp.tools()]
    assert set(known) <= set(listed)
    for tool in [*known, *(name for name in listed if name not in known)]:
        *progress, output = await mcp.events(tool, known.get(tool, {}), server)
        assert isinstance(output, ToolOutput), tool
        assert output.text, tool
        assert output.source == f"mcp {server}"
        assert not output.is_error, (tool, output.text)
        assert all(isinstance(event, ToolProgress) for event in progress)


async def test_a_hundred_calls_half_of_them_cancelled_and_the_server_killed_half_way(
    run_mcp: RunMcp, programs: dict[str, str], data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The fixture sees that no task, process or descriptor is left."""
    outcomes: Counter[str] = Counter()

    async def call(mcp: Mcp, number: int) -> None:
        try:
            if number % 4 == 1:
                await mcp.call("get-sum", "everything", a=number, b=1)
            else:
                await mcp.call("trigger-long-running-operation", "everything", duration=2, steps=4)
            outcomes["answered"] += 1
        except PocketPawError as error:
            outcomes[f"typed error: {error.code}"] += 1
        except trio.Cancelled:
            outcomes["cancelled"] += 1
            raise

    async with run_mcp(configured("everything", programs["everything"], data)) as mcp:
        await mcp.connected("everything")
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as leavers:
                for number in range(CALLS):
                    (leavers if number % 2 == 0 else nursery).start_soon(call, mcp, number)
                await trio.sleep(0.7)
                leavers.cancel_scope.cancel()
            (pid,) = [child.pid for child in psutil.Process().children()]
            os.kill(pid, signal.SIGKILL)
        await mcp.until(lambda status: status.connected and status.restarts == 1, "everything")
        assert "5" in (await mcp.call("get-sum", "everything", a=2, b=3)).text
    print(dict(outcomes))
    assert sum(outcomes.values()) == CALLS
    assert outcomes["cancelled"] == CALLS // 2
    assert outcomes["answered"] == CALLS // 4
    assert outcomes["typed error: unavailable"] + outcomes["typed error: actor_died"] == CALLS // 4
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_fifty_crashes_leave_no_process_no_zombie_and_no_descriptor(
    run_mcp: RunMcp, programs: dict[str, str], data: Path, eventually: Eventually
) -> None:
    servers = [
        configured("everything", programs["everything"], data),
        stdio("fake", "--child", "600"),
        stdio("hangs", "--hang-in-initialize", "--stay", timeout=0.5),
    ]
    async with run_mcp(*servers) as mcp:
        await mcp.connected()
        await mcp.connected("everything")
        me, started = psutil.Process(), time.monotonic()
        descriptors = me.num_fds()
        for kill in range(1, KILLS + 1):
            for child in me.children():
                if is_steady(child):
                    child.kill()
            for name in ("fake", "everything"):
                await mcp.until(lambda status, kill=kill: status.connected and status.restarts == kill, name)
        await eventually(lambda: not any(map(is_zombie, me.children(recursive=True))))
        leaders = me.children()
        hanging = (await mcp.status("hangs")).restarts
        print(
            f"{2 * KILLS} kills and {hanging} given up in {time.monotonic() - started:.0f} s: {len(leaders)} servers, "
            f"no zombie, descriptors {descriptors} -> {me.num_fds()}"
        )
        assert len(leaders) <= len(servers)
        assert abs(me.num_fds() - descriptors) <= 5  # the one that hangs may be between two lives


def is_steady(process: psutil.Process) -> bool:
    """Whether it is one of the servers that work; the one that hangs comes and goes meanwhile."""
    try:
        return "--hang-in-initialize" not in process.cmdline()
    except psutil.Error:
        return False


def is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False

"""Nothing is left of a server, whatever becomes of it or of the daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pocketpaw.actors.mcp import launcher

from .conftest import GONE, PROGRAM, RunMcp, processes_with, stdio

DRIVER = """
import os, sys
from pocketpaw.actors.mcp import stdio
from pocketpaw.actors.mcp.configuration import ServerConfig
from pocketpaw.actors.mcp.link import Link
import trio

async def main():
    config = ServerConfig(name="fake", command=sys.executable, args=("-S", *sys.argv[1:]))
    async with stdio.open_stdio(config, Link()):
        print("open", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def test_a_daemon_that_is_killed_takes_its_servers_and_all_that_they_started_with_it(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", DRIVER, PROGRAM, "--stay", "--child", "60"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "open\n"
        wait_for(lambda: len(processes_with(str(tmp_path))) >= 5)  # with the guard, the server, its child and a sleep
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
    wait_for(lambda: processes_with(str(tmp_path)) == [])


def test_a_server_is_nobodys_parent_from_the_start_and_inherits_nothing(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    code = "import os; print(sorted(os.listdir('/proc/self/fd'), key=int)[:-1]); print(os.wait())"
    command = [sys.executable, "-I", "-S", launcher.__file__, str(read_end), sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, pass_fds=(read_end,), check=False, timeout=20)
    os.close(read_end)
    os.close(write_end)
    assert done.stdout == "['0', '1', '2']\n"
    assert "ChildProcessError: [Errno 10] No child processes" in done.stderr


async def test_servers_are_no_zombies_after_crashes_and_leave_no_descriptors(run_mcp: RunMcp, tmp_path: Path) -> None:
    """The fixture counts descriptors, processes and tasks."""
    async with run_mcp(stdio("fake", "--child", "60")) as mcp:
        await mcp.connected()
        descriptors = open_descriptors()
        for restarts in range(1, 6):
            with pytest.raises(GONE, match="status 3"):
                await mcp.call("crash")
            await mcp.until(lambda status, restarts=restarts: status.connected and status.restarts == restarts)
        assert open_descriptors() == descriptors
        wait_for(lambda: len(processes_with(str(tmp_path))) == 4)  # the server, its guard, its child, that one's sleep


def wait_for(condition: object, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))

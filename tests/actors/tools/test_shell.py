"""The tool `shell`: commands of every kind end, with all that they started, and the daemon goes on meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import psutil
import pytest
import trio
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.actors.tools.protocol import Execute, ToolEvent, ToolOutput, ToolProgress
from pocketpaw.actors.tools.shell import Shell, ShellTool
from pocketpaw.actors.tools.shell_worker import HEAD_BYTES, TAIL_BYTES, KeptOutput
from pocketpaw.runtime import ActorSystem, Child, DynamicSupervisor, Supervisor
from pocketpaw.runtime.errors import ActorDied, Forbidden, InvalidInput

ROOT = Path(__file__).parents[3]

Eventually = Callable[[Callable[[], object]], Awaitable[None]]


class MakeLive(Protocol):
    def __call__(self, **overrides: object) -> LiveSettings: ...


class Running(Protocol):
    def __call__(self, tree: Supervisor) -> AbstractAsyncContextManager[ActorSystem]: ...


class Calls:
    """Calls the tool of the actor at `tools/shell`."""

    def __init__(self, system: ActorSystem) -> None:
        self.system = system

    def stream(self, command: str, session: str = "s", **arguments: object) -> AbstractAsyncContextManager[Events]:
        message = Execute(name="shell", arguments={"command": command, **arguments}, session_id=session, turn_id="t")
        return self.system.stream(message, to="tools/shell")

    async def __call__(self, command: str, session: str = "s", **arguments: object) -> ToolOutput:
        async with self.stream(command, session, **arguments) as events:
            output = [event async for event in events][-1]
        assert isinstance(output, ToolOutput)
        return output

    def pid(self, session: str = "s") -> int:
        """The worker of a session."""
        workers = [child for child in psutil.Process().children() if "ShellWorker" in " ".join(child.cmdline())]
        (worker,) = workers
        assert self.system.node(f"tools/shells/{session}").is_alive
        return worker.pid


class Events(Protocol):
    def __aiter__(self) -> Events: ...
    async def __anext__(self) -> ToolEvent: ...


class Tools(Protocol):
    def __call__(self) -> AbstractAsyncContextManager[Calls]: ...


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "ann"
    home.mkdir()
    return home


@pytest.fixture
def tools(running: Running, make_live: MakeLive, home: Path) -> Tools:
    """`async with tools() as call:` runs the tool, with `home` as its jail."""

    @asynccontextmanager
    async def run() -> AsyncGenerator[Calls]:
        shells = DynamicSupervisor("shells", Shell, passivate_after_s=60.0, start_timeout_s=30.0, shutdown_s=1.0)
        tree = Supervisor("tools", [Child(ShellTool, make_live(file_jail_path=str(home)), id="shell"), shells])
        async with running(Supervisor("root", [tree])) as system:
            yield Calls(system)
        assert running_in(home) == []

    return run


def running_in(folder: Path) -> list[str]:
    """The processes, wherever they hang in the tree, that were started in `folder`."""
    found: list[str] = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(folder):
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass  # ended meanwhile, or not ours to look into
    return found


def body(output: ToolOutput) -> str:
    return output.text.partition("\n")[2]


def test_the_tool_says_what_it_does_and_needs() -> None:
    (info,) = ShellTool.infos("tools/shell")
    assert (info.name, info.effect, info.scope, info.subject) == ("shell", "execute", "admin", "command")
    assert info.parameters["required"] == ["command"]
    assert "exit code" in info.description


async def test_a_command_answers_with_its_exit_code_and_what_it_wrote_in_order(tools: Tools, home: Path) -> None:
    async with tools() as call:
        output = await call("echo out; echo err >&2; echo out; exit 3")
        assert output.text.startswith("[exit code 3, after 0.")
        assert body(output) == "out\nerr\nout\n"
        assert output.is_error
        assert output.source == "shell echo out; echo err >&2; echo out; exit 3"
        output = await call("for n in 1 2 3; do\n  printf $n\ndone")
        assert (output.is_error, body(output), output.source) == (False, "123", "shell for n in 1 2 3; do")
        assert "killed by SIGSEGV" in (await call("kill -SEGV $$")).text
        assert "exit code 127" in (await call("no-such-command")).text
        assert body(await call(r"printf 'caf\xe9'")) == "caf�"


async def test_a_command_finds_its_folder_an_empty_stdin_and_no_secrets(
    tools: Tools, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCKETPAW_ANTHROPIC_API_KEY", "canary")
    monkeypatch.setenv("TZ", "Europe/Paris")
    (home / "work").mkdir()
    (home / "out").symlink_to("..")
    async with tools() as call:
        assert body(await call("pwd; cat; tty")) == f"{home}\nnot a tty\n"
        assert body(await call("pwd", cwd="work")) == f"{home}/work\n"
        names = {line.partition("=")[0] for line in body(await call("env")).splitlines()}
        assert "TZ" in names
        assert names <= {*_KEPT_BY_US, "TERM", "NO_COLOR", "PAGER", "PWD", "SHLVL", "_"}
        assert "canary" not in body(await call("cat /proc/$PPID/environ; tr '\\0' '\\n' < /proc/$PPID/environ"))
        assert body(await call("ls /proc/self/fd")).split() == ["0", "1", "2", "3"]  # the last is its own look at it
        for cwd in ("..", "out", "/etc", ".ssh"):
            with pytest.raises(Forbidden):
                await call("pwd", cwd=cwd)
        for arguments in ({"timeout_s": 601}, {"timeout_s": 0}, {"folder": "work"}):
            with pytest.raises(InvalidInput, match=next(iter(arguments))):
                await call("pwd", "s", **arguments)


async def test_a_command_has_its_limits_and_steps_back_for_the_daemon(tools: Tools) -> None:
    async with tools() as call:
        values = body(await call("ulimit -c; ulimit -n; nice; cat /proc/self/oom_score_adj")).split()
        assert values == ["0", "4096", str(min(19, os.nice(0) + 10)), "1000"]
        assert body(await call("ulimit -d; ulimit -f; ulimit -t")).split().count("unlimited") == 0


async def test_of_a_long_output_the_beginning_and_the_end_are_kept(tools: Tools) -> None:
    async with tools() as call:
        text = body(await call("seq 1 200000"))
        assert text.startswith("1\n2\n3\n")
        assert text.endswith("\n199999\n200000\n")
        assert "bytes left out" in text
        assert len(text) < 50_000


async def test_somebody_who_waits_is_told_how_far_it_is(tools: Tools) -> None:
    async with tools() as call, call.stream("echo working; sleep 1.3; echo done") as events:
        *progress, output = [event async for event in events]
        assert progress == [ToolProgress("working")]
        assert isinstance(output, ToolOutput)
        assert body(output) == "working\ndone\n"


_KEPT_BY_US = {"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "LOGNAME"}

BOMB = "bomb() { bomb | bomb & }; bomb; sleep 30"
FLOOD = "yes | head -c 1G"
SLEEPER = "sleep 1000"
DAEMON = (
    "(setsid nohup sleep 1000 >/dev/null 2>&1 &); setsid sh -c 'setsid sleep 1001 & sleep 1002 &' ; sleep 0.2; echo ok"
)


@pytest.mark.soak  # a fork bomb slows whatever else the machine does
async def test_nothing_is_left_of_commands_that_misbehave_and_the_loop_goes_on_meanwhile(
    tools: Tools, home: Path
) -> None:
    """A8, but for the HTTP server."""
    outputs: dict[str, ToolOutput] = {}
    lags: list[float] = []

    async with tools() as call:

        async def run(command: str, session: str, timeout_s: int) -> None:
            outputs[command] = await call(command, session, timeout_s=timeout_s)

        async def measure() -> None:
            while True:
                due = trio.current_time() + 0.01
                await trio.sleep_until(due)
                lags.append(trio.current_time() - due)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(measure)
            async with trio.open_nursery() as commands:
                for session, command in enumerate((BOMB, FLOOD, SLEEPER, DAEMON)):
                    commands.start_soon(run, command, f"s{session}", 2 if command == SLEEPER else 20)
            assert running_in(home) == []
            memory = max(child.memory_info().rss for child in psutil.Process().children())
            nursery.cancel_scope.cancel()
    print(f"\nlag of the loop: median {sorted(lags)[len(lags) // 2] * 1e3:.1f} ms, worst {max(lags) * 1e3:.0f} ms")
    assert "stopped because it had more than 256 processes" in outputs[BOMB].text
    assert "stopped because it wrote more than 50000000 bytes" in outputs[FLOOD].text
    assert "stopped at its time limit of 2 s" in outputs[SLEEPER].text
    assert outputs[DAEMON].text.startswith("[exit code 0")
    assert "[3 processes that it left in the background were ended]\nok\n" in outputs[DAEMON].text
    assert [command for command, output in outputs.items() if not output.is_error] == [DAEMON]
    assert max(lags) < 2.0
    assert memory < 200 * 2**20


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("while true; do setsid sleep 0.01 & done", marks=pytest.mark.soak),
        pytest.param("comet() { comet & }; comet; sleep 1000", marks=pytest.mark.soak),
        "trap '' TERM INT HUP; while true; do sleep 1000; done",
        "for n in $(seq 50); do (setsid sh -c 'trap \"\" TERM; kill -STOP $$; sleep 1000' &); done; sleep 1000",
        "(setsid sh -c 'while true; do setsid sh -c \"sleep 1000\" & sleep 0.01; done' &); sleep 1000",
    ],
)
async def test_what_hides_from_its_group_or_from_signals_is_ended_too(tools: Tools, home: Path, command: str) -> None:
    async with tools() as call:
        output = await call(command, timeout_s=1)
        assert output.text.startswith("[stopped ")
        assert "could not be ended" not in output.text
        assert running_in(home) == []


async def test_a_command_that_kills_its_guard_is_ended_and_the_next_one_runs(tools: Tools, home: Path) -> None:
    async with tools() as call:
        output = await call("(setsid sleep 1000 &); sleep 0.1; kill -9 $PPID; sleep 1000")
        assert "its guard was killed" in output.text
        assert running_in(home) == []
        assert body(await call("echo next")) == "next\n"
        assert call.system.node("tools/shells/s").number == 1


async def test_a_command_that_stops_its_guard_is_ended_all_the_same(
    tools: Tools, home: Path, eventually: Eventually
) -> None:
    command = "(setsid sleep 1000 &); kill -STOP $PPID; sleep 1000"
    async with tools() as call, trio.open_nursery() as nursery:
        assert "its guard was killed" in (await call(command, timeout_s=1)).text
        assert running_in(home) == []

        async def expect_death() -> None:
            with pytest.raises(ActorDied):
                await call(command)

        nursery.start_soon(expect_death)
        await eventually(lambda: running_in(home) == ["sleep 1000"] * 2)
        os.kill(call.pid(), signal.SIGKILL)
        await eventually(lambda: not running_in(home))


async def test_a_command_that_cannot_be_started_says_why(tools: Tools, home: Path) -> None:
    async with tools() as call:
        assert body(await call("echo \0")) == "it could not be started: embedded null byte\n"
        assert "Argument list too long" in (await call("é" * 99_999)).text
        assert body(await call("echo next")) == "next\n"


async def test_a_command_dies_with_its_guard_even_if_nobody_is_left_to_kill_it(
    tools: Tools, home: Path, eventually: Eventually
) -> None:
    async with tools() as call, trio.open_nursery() as nursery:
        nursery.start_soon(call, "sleep 1000")
        await eventually(lambda: running_in(home) == ["sleep 1000"])
        worker = psutil.Process(call.pid())
        (guard,) = worker.children()
        worker.suspend()
        guard.kill()
        await eventually(lambda: not running_in(home))
        worker.resume()


async def test_whoever_leaves_ends_the_command_and_the_next_one_runs(tools: Tools, home: Path) -> None:
    async with tools() as call:
        for _ in range(2):
            with trio.move_on_after(0.5) as scope:
                await call("(setsid sleep 1000 &); sleep 1000")
            assert scope.cancelled_caught
            started = time.monotonic()
            assert body(await call("echo next")) == "next\n"
            assert running_in(home) == []
            assert time.monotonic() - started < 20
        assert call.system.node("tools/shells/s").number == 1


async def test_a_worker_that_is_killed_takes_everything_with_it(
    tools: Tools, home: Path, eventually: Eventually
) -> None:
    async with tools() as call, trio.open_nursery() as nursery:

        async def expect_death() -> None:
            with pytest.raises(ActorDied):
                await call("(setsid sleep 1000 &); sleep 1000")

        await call("true")
        nursery.start_soon(expect_death)
        await eventually(lambda: len(running_in(home)) >= 2)
        os.kill(call.pid(), signal.SIGKILL)
        await eventually(lambda: not running_in(home))
        assert body(await call("echo next")) == "next\n"


async def test_a_stop_of_the_daemon_ends_a_command_that_runs(tools: Tools, home: Path, eventually: Eventually) -> None:
    async with tools() as call, trio.open_nursery() as nursery:

        async def expect_death() -> None:
            with pytest.raises(ActorDied):
                await call("(setsid sleep 1000 &); sleep 1000")

        nursery.start_soon(expect_death)
        await eventually(lambda: len(running_in(home)) >= 2)
        assert await call.system.stop() == []
        await eventually(lambda: not running_in(home))


async def test_sessions_run_side_by_side_and_one_session_in_order(tools: Tools, home: Path) -> None:
    async with tools() as call, trio.open_nursery() as nursery:
        command = "echo $0 start >> log; sleep 0.3; echo $0 end >> log"
        nursery.start_soon(call, command, "a")
        nursery.start_soon(call, command, "a")
        await trio.sleep(0.1)
        meet = "touch {0}; for n in $(seq 500); do [ -e {1} ] && exit 0; sleep 0.01; done; exit 1"
        nursery.start_soon(call, meet.format("b", "c"), "b")
        assert not (await call(meet.format("c", "b"), "c")).is_error
    words = [line.split()[-1] for line in (home / "log").read_text().splitlines()]
    assert words == ["start", "end", "start", "end"]


PROGRAM = """
import sys, trio
from pocketpaw.actors.tools.shell import RunCommand, Shell
from pocketpaw.runtime import ActorSystem, DynamicSupervisor, Supervisor

async def main():
    shells = DynamicSupervisor("shells", Shell, start_timeout_s=30)
    system = ActorSystem(Supervisor("root", [Supervisor("tools", [shells])]))
    async with trio.open_nursery() as nursery:
        await nursery.start(system.run)
        run = RunCommand(session_id="s", command=sys.argv[2], folder=sys.argv[1], timeout_s=600)
        async with system.stream(run) as events:
            async for event in events:
                pass

trio.run(main)
"""


async def test_nothing_is_left_when_the_daemon_is_killed(home: Path, eventually: Eventually) -> None:
    command = "(setsid nohup sleep 1000 &); (setsid sh -c 'sleep 1001 & sleep 1002' &); sleep 1003"
    daemon = subprocess.Popen([sys.executable, "-c", PROGRAM, str(home), command])  # noqa: ASYNC220 it starts at once
    try:
        await eventually(lambda: len(running_in(home)) >= 5)
    finally:
        daemon.kill()
        daemon.wait()
    await eventually(lambda: not running_in(home))


AS_NOBODY = """
import os, sys
from pocketpaw.actors.tools.contained import Ending, Limits, contain
os.setgid(65534)
os.setuid(65534)
with contain(["/bin/sh", "-c", sys.argv[1]], "/", {"PATH": os.defpath}, Limits(20, processes=64)) as command:
    while command.ending is None:
        os.write(1, command.read(1))
    for data in command.rest():
        os.write(1, data)
print(command.ending.how)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_kernel_keeps_the_number_of_processes_of_whoever_is_not_root() -> None:
    def run(command: str) -> list[str]:
        arguments = [sys.executable, "-c", AS_NOBODY, command]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True).stdout.split()

    soft, hard, user, how = run("grep '^Max processes' /proc/self/limits | awk '{print $3, $4}'; id -u")
    assert (user, how) == ("65534", "exited")
    assert 256 <= int(soft) == int(hard) < 1000
    assert run("for n in $(seq 100); do sleep 1000 & done; wait")[-1] == "swarmed"
    assert run(BOMB.replace("sleep 30", "sleep 1"))[-1] in ("exited", "swarmed")  # it may die of the kernel's limit


def test_kept_output_is_bounded_and_has_both_ends() -> None:
    kept = KeptOutput()
    for _ in range(1000):
        kept.add(b"x" * 1000 + b"\n")
    kept.add(b"the end\n\n")
    assert kept.total == 1_001_009
    assert kept.last_line() == "the end"
    text = kept.text()
    assert f"[… {1_001_009 - HEAD_BYTES - TAIL_BYTES} bytes left out" in text
    assert len(text) < HEAD_BYTES + TAIL_BYTES + 100
    whole = KeptOutput()
    for _ in range(6):
        whole.add(b"y" * 8000)
    assert whole.text() == "y" * 48_000

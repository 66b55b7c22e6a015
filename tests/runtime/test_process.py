"""Actors that are child processes: whatever the child does, it is answered, restarted, and nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import psutil
import pytest
import trio
from pocketpaw.runtime import ActorSystem, Child, ProcessActor, Report, Supervisor, process
from pocketpaw.runtime.errors import ActorDied, AskTimeout, BadRequest, NotFound

from .child_workers import ROOT, Act, Count, Embedded, Here, Item, Text

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]


def root(at_start: str = "", **options: object) -> Supervisor:
    child = Child(Embedded, at_start, id="model", max_restarts=100, start_timeout_s=30.0, **options)  # pyright: ignore[reportArgumentType]
    return Supervisor("root", [child])


async def pid_of(system: ActorSystem) -> int:
    return int((await system.ask(Here())).text)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def children() -> list[int]:
    return [child.pid for child in psutil.Process().children()]


async def read(system: ActorSystem, message: Count) -> list[int]:
    async with system.stream(message) as items:
        return [item.number async for item in items]


async def read_and_kill(system: ActorSystem, pid: int) -> None:
    async with system.stream(Count(up_to=10**9)) as items:
        async for item in items:
            if item.number == 50:
                os.kill(pid, signal.SIGKILL)


async def test_a_child_answers_asks_streams_and_tells(running: Running) -> None:
    async with running(root()) as system:
        assert await system.ask(Act(text="hello")) == Text("hello")
        assert await read(system, Count(up_to=200)) == list(range(200))
        await system.tell(Act(text="told"))
        assert await system.ask(Act(text="x" * 2**20)) == Text("x" * 2**20)
        assert await pid_of(system) != os.getpid()
        assert system.cell("model", Act).processed == {"Act": 3, "Count": 1, "Here": 1}


async def test_an_expected_failure_crosses_the_pipe_with_its_type_and_data(running: Running) -> None:
    async with running(root()) as system:
        with pytest.raises(NotFound, match="no such token") as caught:
            await system.ask(Act(what="refuse"))
        assert caught.value.data == {"token": 7, "since": "2026-01-02T00:00:00Z"}
        with pytest.raises(NotFound, match="no more"):
            await read(system, Count(then="fail"))
        with pytest.raises(BadRequest, match=r"use stream\(\)"):
            await system.ask(Count())
        assert system.node("model").number == 1


async def test_a_crash_says_what_it_was_and_the_next_ask_works(running: Running) -> None:
    reports: list[Report] = []
    async with running(root(), reports.append) as system:
        with pytest.raises(ActorDied, match=r"model crashed .*RuntimeError: as asked"):
            await system.ask(Act(what="crash"))
        assert await system.ask(Act(text="again")) == Text("again")
        assert system.node("model").number == 2
        assert "RuntimeError: as asked" in next(r.text for r in reports if r.exit_kind == "crashed")


async def test_an_exit_is_told_with_its_status_and_last_words(running: Running) -> None:
    async with running(root()) as system:
        with pytest.raises(ActorDied, match="exited with status 7: the last words"):
            await system.ask(Act(what="exit"))


async def test_a_child_that_is_killed_in_the_middle_of_an_answer_is_replaced_each_time_without_a_leak(
    running: Running,
) -> None:
    pids: set[int] = set()
    open_at_first = 0
    async with running(root()) as system:
        for number in range(20):
            pid = await pid_of(system)
            pids.add(pid)
            open_at_first = open_at_first or descriptors()
            assert descriptors() == open_at_first, f"after {number} restarts"
            with pytest.raises(ActorDied, match=f"process {pid} was killed by SIGKILL"):
                await read_and_kill(system, pid)
        assert await pid_of(system) not in pids
        assert system.node("model").number == 21
        assert len(pids) == 20
        assert not any(map(psutil.pid_exists, pids))  # which a zombie would


async def test_a_child_that_is_killed_while_it_starts_is_started_again(
    running: Running, eventually: Eventually
) -> None:
    reports: list[Report] = []
    tree = Supervisor("root", [Child(Embedded, "hang", id="model", wait=False, max_restarts=100)])
    async with running(tree, reports.append) as system:
        for number in (1, 2):
            await eventually(lambda number=number: system.node("model").number == number and children())
            (pid,) = children()
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: system.node("model").number == 3)
    crashes = [report.text for report in reports if report.exit_kind == "crashed"]
    assert len(crashes) == 2
    assert all("was killed by SIGKILL" in text for text in crashes)


async def test_a_child_that_hangs_in_its_start_is_killed(running: Running) -> None:
    reports: list[Report] = []
    child = Child(Embedded, "hang", id="model", start_timeout_s=0.5, restart="temporary", on_limit="park")
    async with running(Supervisor("root", [child]), reports.append):
        assert children() == []
    assert "StartTimeout" in next(report.text for report in reports if report.exit_kind == "crashed")


async def test_a_child_that_cannot_start_says_why(running: Running) -> None:
    reports: list[Report] = []
    child = Child(Embedded, "crash", id="model", start_timeout_s=30, restart="temporary", on_limit="park")
    async with running(Supervisor("root", [child]), reports.append):
        pass
    text = next(report.text for report in reports if report.exit_kind == "crashed")
    assert "exited with status 1: RuntimeError: no model file" in text


async def test_a_child_that_needs_its_operator_is_parked_at_once(running: Running, eventually: Eventually) -> None:
    async with running(root("refuse", on_limit="park")) as system:
        await eventually(lambda: system.node("model").state == "parked")
        assert system.node("model").last_error == "the model is not installed"
        assert system.node("model").number == 1


async def test_what_a_child_prints_disturbs_nobody(running: Running) -> None:
    async with running(root("chat")) as system:  # a megabyte on stderr before it is ready
        assert await system.ask(Act(what="print", text="printed")) == Text("printed")
        assert await system.ask(Act(what="shout", text="shouted")) == Text("shouted")
        assert await system.ask(Act(what="read_stdin")) == Text("''")
        assert system.node("model").number == 1


async def test_rubbish_on_the_frame_pipe_is_the_end_of_that_child(running: Running) -> None:
    async with running(root()) as system:
        with pytest.raises(ActorDied, match="NoFrame"):
            await system.ask(Act(what="write_on_every_pipe"))
        assert await system.ask(Act(text="again")) == Text("again")


async def test_an_asker_that_leaves_has_the_child_leave_off(running: Running) -> None:
    async with running(root()) as system:
        for _ in range(3):
            async with system.stream(Count(up_to=1, then="watch")) as items:
                assert await anext(items) == Item(0)
            async with system.stream(Count(up_to=10**9)) as items:
                assert await anext(items) == Item(0)
        assert await system.ask(Act(text="next")) == Text("next")
        assert system.node("model").number == 1


async def test_a_child_that_does_not_leave_off_is_killed(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "CANCEL_GRACE_S", 0.1)
    async with running(root()) as system:
        async with system.stream(Count(up_to=1, then="sleep")) as items:
            assert await anext(items) == Item(0)
        assert await system.ask(Act(text="next")) == Text("next")
        assert system.node("model").number == 2
        with pytest.raises(AskTimeout):
            await system.ask(Act(what="sleep"), timeout_s=0.1)
        assert await system.ask(Act(text="next")) == Text("next")
        assert system.node("model").number == 3


async def test_what_a_child_started_ends_with_it(running: Running, eventually: Eventually) -> None:
    async with running(root()) as system:
        pids = [int((await system.ask(Act(what="start_child"))).text) for _ in range(2)]
        os.kill(await pid_of(system), signal.SIGKILL)
        await eventually(lambda: not any(map(_is_running, pids)))
        await eventually(lambda: system.node("model").number == 2)
        left = int((await system.ask(Act(what="start_child"))).text)
    await eventually(lambda: not _is_running(left))


async def test_a_child_in_the_middle_of_an_answer_is_gone_after_a_stop_and_what_it_started_too(
    running: Running, eventually: Eventually
) -> None:
    async with running(root(shutdown_s=0.1)) as system, trio.open_nursery() as nursery:
        pid = await pid_of(system)
        started = int((await system.ask(Act(what="start_child"))).text)
        nursery.start_soon(_expect_death, system)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert await system.stop() == []
        assert not psutil.pid_exists(pid)
        await eventually(lambda: not _is_running(started))


async def _expect_death(system: ActorSystem) -> None:
    with pytest.raises(ActorDied):
        await system.ask(Act(what="sleep"))


async def test_a_child_gets_nothing_of_our_environment_that_it_does_not_need(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "known")
    async with running(root()) as system:
        assert await system.ask(Act(what="tell_secret")) == Text("unknown")


DAEMON = """
import trio
from pocketpaw.runtime import ActorSystem, Child, Supervisor
from tests.runtime.child_workers import Act, Embedded, Here

async def main():
    system = ActorSystem(Supervisor("root", [Child(Embedded, id="model", start_timeout_s=30)]))
    async with trio.open_nursery() as nursery:
        await nursery.start(system.run)
        grandchild = await system.ask(Act(what="start_child"))
        print((await system.ask(Here())).text, grandchild.text, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def test_a_child_and_what_it_started_end_when_the_daemon_is_killed() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON], stdout=subprocess.PIPE, text=True, env=environment)
    assert daemon.stdout is not None
    with daemon:
        pids = [int(word) for word in daemon.stdout.readline().split()]
        assert len(pids) == 2
        daemon.kill()
    until = time.monotonic() + 10
    while any(map(_is_running, pids)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(map(_is_running, pids))


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # whoever adopts it may be slow to reap it
    except psutil.NoSuchProcess:
        return False


def test_a_process_actor_handles_one_message_at_a_time() -> None:
    with pytest.raises(TypeError, match="one message at a time"):

        class Two(ProcessActor):  # pyright: ignore[reportUnusedClass]
            concurrency = 2

"""Command-line agents as backends: what they print, how they are called, and that nothing of them is left."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path

import psutil
import pytest
import trio
from pocketpaw.actors.models import cli_run
from pocketpaw.actors.models.cli import CommandLine
from pocketpaw.actors.models.cli_programs import PROGRAMS
from pocketpaw.actors.models.errors import (
    ModelCredentialRefused,
    ModelInterrupted,
    ModelMalformedAnswer,
    ModelNotInstalled,
    ModelRateLimited,
    ModelTimedOut,
    ModelUnreachable,
)
from pocketpaw.actors.models.protocol import (
    ChatMessage,
    Finished,
    Generate,
    GenerationEvent,
    TextDelta,
    ThinkingDelta,
    Usage,
)
from pocketpaw.actors.models.server_backend import Limits

from ...fakes.cli_program import FakeProgram, place

Eventually = Callable[[Callable[[], object]], Awaitable[None]]

SECRET = "sk-canary-0123456789"
HELLO = Generate(messages=(ChatMessage("system", "Be kind."), ChatMessage("user", "hello there")))

# As printed by the programs; the sources stand in cli_lines.py.
CLAUDE = (
    '{"type":"system","subtype":"init","cwd":"/","session_id":"s","tools":[],"model":"claude-sonnet-4-6"}',
    '{"type":"stream_event","event":{"type":"message_start","message":{"model":"claude-sonnet-4-6"}},"session_id":"s"}',
    (
        '{"type":"stream_event","event":{"type":"content_block_delta","index":0,'
        '"delta":{"type":"thinking_delta","thinking":"Hm."}}}'
    ),
    '{"type":"stream_event","event":{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Hel"}}}',
    '{"type":"stream_event","event":{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"lo."}}}',
    '{"type":"assistant","message":{"role":"assistant","content":[{"type":"text","text":"Hello."}]},"session_id":"s"}',
    (
        '{"type":"result","subtype":"success","is_error":false,"num_turns":1,"result":"Hello.","total_cost_usd":0.25,'
        '"usage":{"input_tokens":3,"cache_creation_input_tokens":10,"cache_read_input_tokens":20,"output_tokens":5}}'
    ),
)
CODEX = (
    '{"type":"thread.started","thread_id":"0199a213"}',
    '{"type":"turn.started"}',
    '{"type":"error","message":"Reconnecting... 1/5"}',
    '{"type":"item.completed","item":{"id":"item_0","type":"reasoning","text":"**Thinking**"}}',
    '{"type":"item.completed","item":{"id":"item_1","type":"agent_message","text":"Hello."}}',
    '{"type":"item.completed","item":{"id":"item_2","type":"agent_message","text":"Goodbye."}}',
    '{"type":"turn.completed","usage":{"input_tokens":24,"cached_input_tokens":20,"output_tokens":12}}',
)
GEMINI = (
    "Loaded cached credentials.",
    '{"type":"init","timestamp":"2026-11-22T12:00:00Z","session_id":"s","model":"gemini-3-pro-preview"}',
    '{"type":"message","timestamp":"t","role":"user","content":"Be kind."}',
    '{"type":"message","timestamp":"t","role":"assistant","content":"Hello","delta":true}',
    '{"type":"message","timestamp":"t","role":"assistant","content":".","delta":true}',
    (
        '{"type":"result","timestamp":"t","status":"success","stats":{"total_tokens":9,"input_tokens":7,"output_tokens":2,'
        '"cached":0,"input":7,"duration_ms":1,"tool_calls":0}}'
    ),
)
OPENCODE = (
    '{"type":"step_start","timestamp":1,"sessionID":"ses_1","part":{"id":"prt_1","type":"step-start"}}',
    '{"type":"text","timestamp":2,"sessionID":"ses_1","part":{"id":"prt_2","type":"text","text":"Hello.","time":{"end":1}}}',
    (
        '{"type":"step_finish","timestamp":3,"sessionID":"ses_1","part":{"type":"step-finish","reason":"stop","cost":0.5,'
        '"tokens":{"total":60,"input":9,"output":1,"reasoning":2,"cache":{"write":8,"read":40}}}}'
    ),
)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the programs, alone on the PATH."""
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("POCKETPAW_SECRET", SECRET)
    return folder


def backend(name: str, model: str = "", limits: Limits | None = None) -> CommandLine:
    return CommandLine(name=f"cli:{name}", program=PROGRAMS[name], model=model, limits=limits or Limits())


async def ask(name: str, request: Generate = HELLO, limits: Limits | None = None) -> list[GenerationEvent]:
    return [event async for event in backend(name, limits=limits).generate(request)]


@pytest.mark.parametrize(
    ("name", "lines", "expected"),
    [
        (
            "claude",
            CLAUDE,
            [
                ThinkingDelta("Hm."),
                TextDelta("Hel"),
                TextDelta("lo."),
                Usage(33, 5, 38, "claude-sonnet-4-6", "cli:claude", cost_usd=0.25),
            ],
        ),
        (
            "codex",
            CODEX,
            [
                ThinkingDelta("**Thinking**"),
                TextDelta("Hello."),
                TextDelta("\n\nGoodbye."),
                Usage(24, 12, 36, "cli:codex", "cli:codex"),
            ],
        ),
        (
            "gemini",
            GEMINI,
            [TextDelta("Hello"), TextDelta("."), Usage(7, 2, 9, "gemini-3-pro-preview", "cli:gemini")],
        ),
        ("opencode", OPENCODE, [TextDelta("Hello."), Usage(57, 3, 60, "cli:opencode", "cli:opencode", cost_usd=0.5)]),
        (
            "opencode",
            OPENCODE[:2],
            [TextDelta("Hello."), Usage(5, 2, 7, "cli:opencode", "cli:opencode", estimated=True)],
        ),
    ],
)
async def test_what_each_program_prints_is_understood(
    name: str, lines: tuple[str, ...], expected: list[GenerationEvent], programs: Path
) -> None:
    place(programs, name, lines)
    assert await ask(name) == [*expected, Finished("stop")]


async def test_the_conversation_is_on_stdin_alone_and_nothing_of_ours_is_in_the_environment(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://here")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    program = place(programs, "claude", CLAUDE)
    talk = (*HELLO.messages, ChatMessage("assistant", "hi"), ChatMessage("user", "and now?"))
    async for _ in backend("claude", "opus").generate(Generate(messages=talk)):
        pass
    (call,) = program.calls()
    assert call.stdin == (
        "Be kind.\n\nWhat has been said so far:\n\nUser: hello there\n\nAssistant: hi\n\n"
        "Answer only what comes next.\n\nand now?"
    )
    assert "hello there" not in str(call.arguments)
    assert call.arguments[-2:] == ["--model", "opus"]
    assert call.arguments[call.arguments.index("--tools") + 1] == ""
    assert call.environment["ANTHROPIC_BASE_URL"] == "http://here"
    assert SECRET not in str(call.environment)
    assert call.files == []
    assert _is_gone(program)


async def test_a_dash_for_stdin_stays_last(programs: Path) -> None:
    program = place(programs, "codex", CODEX)
    async for _ in backend("codex", "gpt-5").generate(HELLO):
        pass
    assert program.calls()[0].arguments[-3:] == ["--model", "gpt-5", "-"]


@pytest.mark.parametrize(
    ("name", "lines", "stderr", "failure", "words"),
    [
        (
            "claude",
            ('{"type":"result","subtype":"success","is_error":true,"result":"Invalid API key · Please run /login"}',),
            "",
            ModelCredentialRefused,
            "Please run /login; run `claude` once in a terminal and log in",
        ),
        ("codex", ('{"type":"turn.failed","error":{"message":"usage limit reached"}}',), "", ModelRateLimited, "usage"),
        ("gemini", (), "ApiError: quota exceeded\n", ModelRateLimited, "ended with status 1: ApiError: quota exceeded"),
        (
            "opencode",
            ('{"type":"error","error":{"name":"X","data":{"message":"broke"}}}',),
            "",
            ModelUnreachable,
            "broke",
        ),
        ("opencode", OPENCODE[:1], "", ModelUnreachable, "ended with status 1 without a word"),
        (
            "claude",
            CLAUDE[:4],
            "it fell over\n",
            ModelInterrupted,
            "broke off: cli:claude ended with status 1: it fell",
        ),
        ("claude", ("x" * 5_000_000,), "", ModelMalformedAnswer, "a line of more than"),
    ],
)
async def test_what_goes_wrong_has_its_name(
    name: str, lines: tuple[str, ...], stderr: str, failure: type[Exception], words: str, programs: Path
) -> None:
    place(programs, name, lines, stderr=stderr, status=1)
    with pytest.raises(failure, match=words.replace("·", ".")):
        await ask(name)


async def test_a_program_that_is_not_there_is_named_with_how_to_get_it(programs: Path) -> None:
    for attempt in (backend("claude").check, lambda: ask("claude")):
        with pytest.raises(ModelNotInstalled, match="npm install -g @anthropic-ai/claude-code"):
            await attempt()
    place(programs, "claude")
    await backend("claude").check()


async def test_silence_is_an_error_and_ends_the_program(programs: Path, eventually: Eventually) -> None:
    program = place(programs, "claude", CLAUDE[:2], hangs=True)
    with pytest.raises(ModelTimedOut):
        await ask("claude", limits=Limits(silence_s=0.5))
    assert _is_gone(program)


async def test_a_program_that_does_not_end_after_its_answer_is_ended(programs: Path) -> None:
    program = place(programs, "gemini", GEMINI, hangs=True)
    with trio.fail_after(20):
        assert (await ask("gemini"))[-1] == Finished("stop")
    assert _is_gone(program)


@pytest.mark.parametrize("way", ["closed", "cancelled"])
async def test_whoever_leaves_ends_the_program_and_what_it_started(
    way: str, programs: Path, eventually: Eventually
) -> None:
    program = place(programs, "claude", CLAUDE[:4], hangs=True, has_child=True)
    with trio.CancelScope() as scope:
        async with aclosing(backend("claude").generate(HELLO)) as events:
            await anext(events)
            if way == "cancelled":
                scope.cancel()
                async for _ in events:
                    pass
    assert scope.cancelled_caught == (way == "cancelled")
    await eventually(lambda: _is_gone(program))


async def test_the_last_line_may_lack_its_end(programs: Path) -> None:
    program = place(programs, "claude", CLAUDE)
    _end_without_newline(programs / "claude")
    assert (await ask("claude"))[-2:] == [Usage(33, 5, 38, "claude-sonnet-4-6", "cli:claude", 0.25), Finished("stop")]
    assert _is_gone(program)


async def test_a_program_that_cannot_be_run_leaves_nothing_open(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(programs, "claude", CLAUDE)
    monkeypatch.setenv("ANTHROPIC_TOO_LONG", "x" * 200_000)  # Linux takes no variable of more than 128 KB
    with pytest.raises(ModelUnreachable, match="cannot be run"):
        await ask("claude")
    before = _descriptors()
    with pytest.raises(ModelUnreachable, match="cannot be run"):
        await ask("claude")
    assert _descriptors() == before


async def test_a_disk_without_room_is_an_answer(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    place(programs, "claude", CLAUDE)
    monkeypatch.setattr(cli_run, "mkdtemp", no_room)
    with pytest.raises(ModelUnreachable, match="No space left"):
        await ask("claude")


async def test_a_child_that_holds_the_pipe_does_not_hold_the_answer(programs: Path, eventually: Eventually) -> None:
    program = place(programs, "claude", CLAUDE, has_child=True)
    with trio.fail_after(20):
        assert (await ask("claude"))[-1] == Finished("stop")
    await eventually(lambda: _is_gone(program))


async def test_nothing_of_a_program_outlives_a_daemon_that_is_killed(programs: Path, eventually: Eventually) -> None:
    program = place(programs, "claude", CLAUDE[:4], hangs=True, has_child=True)
    command = [sys.executable, "-c", ASKS]
    async with trio.open_nursery() as nursery:
        daemon: trio.Process = await nursery.start(partial(trio.run_process, command, check=False))
        await eventually(program.calls)
        (call,) = program.calls()
        assert _is_alive(call.pid)
        daemon.kill()
    await eventually(lambda: not _is_alive(call.pid) and not _is_alive(call.child))
    await trio.to_thread.run_sync(shutil.rmtree, call.folder)  # which nobody is left to do


ASKS = """
import trio
from pocketpaw.actors.models.cli import CommandLine
from pocketpaw.actors.models.cli_programs import PROGRAMS
from pocketpaw.actors.models.protocol import ChatMessage, Generate

async def ask():
    backend = CommandLine(name="cli:claude", program=PROGRAMS["claude"])
    async for _ in backend.generate(Generate(messages=(ChatMessage("user", "hello"),))):
        pass

trio.run(ask)
"""


def _descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def _end_without_newline(program: Path) -> None:
    text = program.read_text()
    changed = text.replace(
        "print(line, flush=True)", 'print(line, end="" if line == told["lines"][-1] else None, flush=True)'
    )
    assert changed != text
    program.write_text(changed)


def _is_gone(program: FakeProgram) -> bool:
    (call,) = program.calls()
    return not Path(call.folder).exists() and not any(map(_is_alive, filter(None, (call.pid, call.child))))


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

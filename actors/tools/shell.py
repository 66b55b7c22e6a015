"""The tool `shell`, and the process of each session in which its commands are run."""

from __future__ import annotations

import math
import os
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import trio
from msgspec import Meta

from ...runtime import Actor, Message, ProcessActor, StreamMessage
from .jail import Jail
from .protocol import Execute, ToolEvent, ToolInfo
from .toolbox import Arguments, read_arguments, schema_of

if TYPE_CHECKING:
    from ..settings import LiveSettings  # the worker, which imports this module too, has no use for it

LONGEST_S = 600


class RunShell(Arguments, frozen=True):
    """Run a command with bash, and give what it prints (stdout and stderr together) and its exit code.

    Each command starts anew in its folder; no variable or `cd` of an earlier one holds. It has no terminal and no
    input. What it leaves running in the background is ended when it ends.
    """

    command: Annotated[str, Meta(min_length=1, max_length=100_000, description="The command line, or a whole script.")]
    timeout_s: Annotated[int, Meta(ge=1, le=LONGEST_S, description="It is ended after this time, in seconds.")] = 60
    cwd: Annotated[str, Meta(description="The folder to run it in; the home folder if this is left out.")] = "."


class RunCommand(StreamMessage[ToolEvent], to="tools/shells/{session_id}"):
    """Run a command in `folder`: progress, then one output."""

    session_id: str
    command: str
    folder: str
    timeout_s: float


class ShellTool(Actor):
    """Takes the calls of all sessions and hands each to the process of its session."""

    concurrency = 64
    handler_timeout_s = None

    def __init__(self, live: LiveSettings) -> None:
        super().__init__()
        self._live = live

    @classmethod
    def infos(cls, address: str) -> list[ToolInfo]:
        """The tool, as the actor at `address` offers it."""
        description = RunShell.__doc__ or ""
        return [ToolInfo("shell", description, schema_of(RunShell), address, "execute", "admin", "command")]

    async def execute(self, message: Execute) -> AsyncGenerator[ToolEvent]:
        arguments = read_arguments(RunShell, message.arguments)
        run = RunCommand(
            session_id=message.session_id,
            command=arguments.command,
            folder=await trio.to_thread.run_sync(self._folder, arguments.cwd, abandon_on_cancel=True),
            timeout_s=arguments.timeout_s,
        )
        async with self.stream(run, idle_timeout_s=math.inf) as events:  # it may wait for its session's other commands
            async for event in events:
                yield event

    def _folder(self, path: str) -> str:
        with Jail.of(self._live).folder(path) as folder:
            return str(folder.path)


class Shell(ProcessActor):
    """Runs the commands of one session, one at a time. They get none of the daemon's secrets in their environment."""

    worker: ClassVar[str] = "pocketpaw.actors.tools.shell_worker:ShellWorker"
    takes: ClassVar[tuple[type[Message[Any]], ...]] = (RunCommand,)
    handler_timeout_s: ClassVar[float | None] = None  # each command has its own limit

    def __init__(self, session_id: str) -> None:
        super().__init__()

    def environment(self) -> dict[str, str]:
        kept = ("TZ", "USER", "LOGNAME")
        return super().environment() | {name: os.environ[name] for name in kept if name in os.environ}

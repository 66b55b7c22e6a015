"""The embedded model: SmolLM2 in a child process, loaded by its first message and stopped when it is idle."""

from __future__ import annotations

from typing import Any, ClassVar

import trio

from ...runtime import Message, ProcessActor
from .embedded_worker import find_model
from .protocol import Generate


class EmbeddedModel(ProcessActor):
    """Answers `Generate`; a crash of native code ends the child process and nothing else."""

    worker: ClassVar[str] = "pocketpaw.actors.models.embedded_worker:SmolLMWorker"
    takes: ClassVar[tuple[type[Message[Any]], ...]] = (Generate,)
    handler_timeout_s: ClassVar[float | None] = None  # the turn has its own limit

    async def on_start(self) -> None:
        await trio.to_thread.run_sync(find_model)  # what is not installed is said here, where it is understood
        await super().on_start()

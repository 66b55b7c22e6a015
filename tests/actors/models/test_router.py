"""The router between real backends: fake servers on loopback, and an actor in the embedded model's place."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

import msgspec
import pytest
import trio
import trio.testing
from pocketpaw.actors.models import router as router_module
from pocketpaw.actors.models.embedded_worker import CONTEXT_TOKENS
from pocketpaw.actors.models.errors import (
    ModelCredentialRefused,
    ModelNotInstalled,
    ModelRefusedInput,
)
from pocketpaw.actors.models.protocol import ChatMessage, Finished, Generate, GenerationEvent, TextDelta, Tool, Usage
from pocketpaw.actors.models.router import CheckBackends, Router
from pocketpaw.actors.models.window import estimate_tokens
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.runtime import Actor, ActorSystem, Child, Supervisor
from pocketpaw.runtime.errors import ActorDied, AskTimeout, PocketPawError, Unavailable

from ...fakes.model_server import FakeModelServer, Reply, fake_model_server

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]
MakeLive = Callable[..., LiveSettings]

HELLO = Generate(messages=(ChatMessage("system", "Be kind."), ChatMessage("user", "hello there")))
TEACUP = Reply(status=418, error={"message": "I am a teapot"})
"""What is not worth another try of the same server."""


class Script:
    """What the stand-in for the embedded model does."""

    def __init__(self) -> None:
        self.asked: list[Generate] = []
        self.dies = 0
        """So many of its lives end with a question in hand,"""
        self.dies_after = 0
        """when so many words are said."""
        self.gate: trio.Semaphore | None = None
        self.refuses: PocketPawError | None = None


class FakeEmbedded(Actor):
    """One answer at a time, like the real one."""

    handler_timeout_s = None

    def __init__(self, script: Script) -> None:
        super().__init__()
        self._script = script

    async def on_start(self) -> None:
        if self._script.refuses is not None:
            raise self._script.refuses

    async def generate(self, message: Generate) -> AsyncGenerator[GenerationEvent]:
        script = self._script
        script.asked.append(message)
        for said, word in enumerate(("small ", "talk")):
            if script.dies and said == script.dies_after:
                script.dies -= 1
                raise RuntimeError("the process was killed")
            if script.gate is not None:
                await script.gate.acquire()
            yield TextDelta(word)
        yield Usage(1, 2, 3, "SmolLM2", "embedded")
        yield Finished("stop")


class Bench:
    def __init__(self, system: ActorSystem, live: LiveSettings, embedded: Script) -> None:
        self.system = system
        self.live = live
        self.embedded = embedded

    async def ask(self, request: Generate = HELLO) -> str:
        """The answer's text and, behind it in brackets, who gave it."""
        text, by = "", ""
        async with self.system.stream(request, idle_timeout_s=20) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    text += event.text
                elif isinstance(event, Usage):
                    by = event.backend
        return f"{text} [{by}]"

    def change(self, **settings: object) -> None:
        changed = msgspec.structs.replace(self.live.current, **settings)
        self.live.loaded = msgspec.structs.replace(self.live.loaded, settings=changed)

    def use(self, server: FakeModelServer, *fallbacks: str, **settings: object) -> None:
        self.change(
            agent_backend="openai_compatible",
            fallback_backends=list(fallbacks),
            openai_compatible_base_url=server.base_url,
            openai_compatible_model="fake",
            **settings,
        )


OpenBench = Callable[[], AbstractAsyncContextManager[Bench]]


@pytest.fixture
def bench(make_live: MakeLive, running: Running) -> OpenBench:
    @asynccontextmanager
    async def open_bench() -> AsyncGenerator[Bench]:
        live, embedded = make_live(agent_backend="embedded"), Script()
        models = [Child(Router, live), Child(FakeEmbedded, embedded, id="embedded", lazy=True, on_limit="park")]
        async with running(Supervisor("root", [Supervisor("models", models)])) as system:
            yield Bench(system, live, embedded)

    return open_bench


# Who answers ----------------------------------------------------------------------------------------------------------


async def test_the_chosen_backend_answers_and_says_so(bench: OpenBench) -> None:
    async with bench() as models, fake_model_server() as server:
        assert await models.ask() == "small talk [embedded]"
        models.use(server)
        assert await models.ask() == "echo: hello there [openai_compatible]"


async def test_backends_are_asked_in_their_order_until_one_begins(bench: OpenBench) -> None:
    async with bench() as models, fake_model_server() as first, fake_model_server() as second:
        models.use(first, "litellm", "embedded", litellm_api_base=second.base_url, litellm_model="fake")
        assert await models.ask() == "echo: hello there [openai_compatible]"
        first.script(TEACUP, TEACUP)
        assert await models.ask() == "echo: hello there [litellm]"
        second.script(TEACUP)
        assert await models.ask() == "small talk [embedded]"
        assert await models.ask() == "echo: hello there [openai_compatible]"
        assert (first.chats, second.chats, len(models.embedded.asked)) == (4, 2, 1)


async def test_when_nobody_can_each_one_s_reason_is_told(bench: OpenBench) -> None:
    async with bench() as models, fake_model_server(default=TEACUP) as server:
        models.embedded.dies = 10
        models.use(server, "embedded", "telepathy")
        with pytest.raises(Unavailable) as caught:
            await models.ask()
    detail = caught.value.detail
    assert detail.startswith("no model could answer. fallback_backends names 'telepathy', which is not built yet")
    assert "openai_compatible: " in detail
    assert "I am a teapot" in detail
    assert "embedded: models/embedded crashed" in detail


async def test_the_only_backend_s_failure_is_told_as_it_is(bench: OpenBench) -> None:
    async with bench() as models, fake_model_server(default=Reply(status=400, error={"message": "no"})) as server:
        models.use(server)
        with pytest.raises(ModelRefusedInput):
            await models.ask()


async def test_without_a_backend_that_can_be_asked_the_settings_are_named(bench: OpenBench) -> None:
    async with bench() as models:
        models.change(agent_backend="openrouter", openrouter_api_key="", openrouter_model="")
        with pytest.raises(Unavailable, match="agent_backend names 'openrouter', which needs openrouter_api_key"):
            await models.ask()


async def test_an_answer_that_has_begun_is_not_begun_anew_elsewhere(bench: OpenBench) -> None:
    async with bench() as models, fake_model_server(default=Reply(cut_after=1, chunk_delay_s=0.01)) as server:
        models.use(server, "embedded")
        events: list[GenerationEvent] = []
        with pytest.raises(PocketPawError, match="broke off"):
            async with models.system.stream(HELLO) as stream:
                events.extend([event async for event in stream])
        assert server.chats == 1
    assert models.embedded.asked == []


async def test_a_change_of_settings_holds_for_the_next_question(bench: OpenBench) -> None:
    async with bench() as models, fake_model_server(api_key="sk-2") as server:
        models.use(server, openai_compatible_api_key="sk-1")
        with pytest.raises(PocketPawError):
            await models.ask()
        models.change(openai_compatible_api_key="sk-2", openai_compatible_model="other")
        await models.ask()
        assert json.loads(server.bodies[-1])["model"] == "other"
        models.change(agent_backend="embedded")
        assert await models.ask() == "small talk [embedded]"


async def test_whoever_leaves_ends_the_work_at_the_model(bench: OpenBench) -> None:
    async with bench() as models, fake_model_server(default=Reply(hang_after=1)) as server:
        models.use(server)
        async with models.system.stream(HELLO) as events:
            await anext(aiter(events))
        with trio.fail_after(5):
            await server.wait_for_abort()


async def test_connections_are_kept_for_the_next_question(bench: OpenBench) -> None:
    async with bench() as models, fake_model_server() as server:
        models.use(server)
        for _ in range(5):
            await models.ask()
        assert (server.chats, server.connections) == (5, 1)


# Rules and breakers: who is asked, and with what


async def test_a_rule_says_who_is_asked_first_and_the_others_follow(bench: OpenBench) -> None:
    picture = Generate(messages=(ChatMessage("user", "what is this?", images=("/nowhere/a.png",)),))
    async with bench() as models, fake_model_server() as first, fake_model_server() as second:
        models.use(
            first,
            litellm_api_base=second.base_url,
            litellm_model="fake",
            model_routes=("images -> litellm:seer", "topic:small -> embedded"),
        )
        assert await models.ask() == "echo: hello there [openai_compatible]"
        assert (await models.ask(picture)).endswith("[litellm]")
        assert json.loads(second.bodies[-1])["model"] == "seer"
        small = Generate(messages=(ChatMessage("user", "Small talk?"),))
        assert await models.ask(small) == "small talk [embedded]"
        second.script(TEACUP)
        assert (await models.ask(picture)).endswith("[openai_compatible]")
        assert [state.model for state in await models.system.ask(CheckBackends())] == [
            "fake",
            "seer",
            "SmolLM2-135M-Instruct",
        ]


async def test_tools_and_images_are_kept_from_those_that_cannot_use_them(bench: OpenBench) -> None:
    request = Generate(messages=(ChatMessage("user", "look", images=("/a.png",)),), tools=(Tool("look", "Look.", {}),))
    async with bench() as models, fake_model_server() as server:
        await models.ask(request)
        (asked,) = models.embedded.asked
        assert asked.tools == ()
        assert asked.messages == (ChatMessage("user", "look\n(an image came with this, which you cannot see)"),)
        models.use(server)
        await models.ask(request)
        assert json.loads(server.bodies[-1])["tools"][0]["function"]["name"] == "look"


async def test_what_an_answer_cost_is_reckoned_where_the_backend_does_not_say(bench: OpenBench) -> None:
    async with bench() as models, fake_model_server() as server:
        models.use(server, model_prices={"fake": "1000000/2000000"})
        async with models.system.stream(HELLO) as events:
            (usage,) = [event async for event in events if isinstance(event, Usage)]
    assert (usage.input_tokens, usage.output_tokens, usage.cost_usd) == (4, 5, 14.0)


async def test_a_backend_that_keeps_failing_is_left_alone_and_the_check_says_so(bench: OpenBench) -> None:
    async with bench() as models, fake_model_server(default=Reply(status=503)) as server:
        models.use(server, "embedded")
        for _ in range(7):
            assert await models.ask() == "small talk [embedded]"
        assert server.chats == 5
        state, _ = await models.system.ask(CheckBackends())
        assert (state.available, state.breaker, state.failures) == (False, "open", 5)
        assert "openai_compatible failed 5 times in a row" in state.detail
        server.default = Reply()
        models.change(openai_compatible_api_key="another")  # what is set up anew is trusted anew
        assert await models.ask() == "echo: hello there [openai_compatible]"


async def test_the_only_backend_is_asked_however_often_it_has_failed(bench: OpenBench) -> None:
    """Nobody is left without an answer once it is back."""
    async with bench() as models, fake_model_server(default=Reply(status=401)) as server:
        models.use(server)
        for _ in range(7):
            with pytest.raises(ModelCredentialRefused):
                await models.ask()
        server.default = Reply(text="Back.")
        assert await models.ask() == "Back. [openai_compatible]"
        assert server.chats == 8


# The embedded model ---------------------------------------------------------------------------------------------------


async def test_an_embedded_model_that_dies_before_its_first_word_is_asked_again(bench: OpenBench) -> None:
    async with bench() as models:
        models.embedded.dies = 2
        assert await models.ask() == "small talk [embedded]"
        assert len(models.embedded.asked) == 3


async def test_an_embedded_model_that_dies_each_time_is_given_up(bench: OpenBench) -> None:
    async with bench() as models:
        models.embedded.dies = 3
        with pytest.raises(ActorDied, match="models/embedded crashed"):
            await models.ask()
        assert await models.ask() == "small talk [embedded]"


async def test_an_embedded_model_that_dies_in_its_words_is_not_asked_again(bench: OpenBench) -> None:
    async with bench() as models:
        models.embedded.dies, models.embedded.dies_after = 1, 1
        with pytest.raises(ActorDied):
            await models.ask()
        assert len(models.embedded.asked) == 1


async def test_those_behind_others_at_the_embedded_model_wait_as_long_as_a_turn_may_take(bench: OpenBench) -> None:
    async with bench() as models:
        gate = models.embedded.gate = trio.Semaphore(0)
        models.change(turn_timeout_s=0.1)
        async with aclosing(_stream(models)) as first:
            gate.release()
            await anext(first)
            with pytest.raises(AskTimeout, match=r"within 0.1 s"):
                await models.ask()
            models.change(turn_timeout_s=20.0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(models.ask)
                await trio.sleep(0.15)
                for _ in range(3):
                    gate.release()


async def _stream(models: Bench) -> AsyncGenerator[GenerationEvent]:
    async with models.system.stream(HELLO) as events:
        async for event in events:
            yield event


async def test_an_embedded_model_that_is_not_installed_is_said_to_be_so_at_once(bench: OpenBench) -> None:
    async with bench() as models:
        models.embedded.refuses = ModelNotInstalled("the embedded model needs xllamacpp: pip install xllamacpp")
        for _ in range(2):
            with trio.fail_after(5), pytest.raises(PocketPawError, match="needs xllamacpp: pip install xllamacpp"):
                await models.ask()


async def test_a_conversation_is_fitted_to_the_window_of_who_is_asked(bench: OpenBench) -> None:
    talk = [ChatMessage(role, "x" * 900) for _ in range(30) for role in ("user", "assistant")]
    request = Generate(messages=(ChatMessage("system", "Be kind."), *talk, ChatMessage("user", "hello there")))
    async with bench() as models, fake_model_server() as server:
        await models.ask(request)
        models.use(server)
        await models.ask(request)
        sent = json.loads(server.bodies[-1])["messages"]
    fitted = models.embedded.asked[0].messages
    assert sum(map(estimate_tokens, fitted)) <= CONTEXT_TOKENS - 512
    assert (fitted[0].role, fitted[1].role, fitted[-1].content) == ("system", "user", "hello there")
    assert 4 < len(fitted) < len(sent) == len(request.messages)


# Many at once ---------------------------------------------------------------------------------------------------------


async def test_so_many_generations_run_at_once_and_a_change_holds_at_once(bench: OpenBench) -> None:
    async with bench() as models, fake_model_server(default=Reply(hang_after=0)) as server:
        models.use(server, max_concurrent_conversations=2)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(models.ask)
            await server.wait_for_chats(2)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert server.chats == 2
            models.change(max_concurrent_conversations=4)
            nursery.start_soon(models.ask)
            with trio.fail_after(5):
                await server.wait_for_chats(4)
            nursery.cancel_scope.cancel()


async def test_checks_do_not_wait_behind_generations_nor_behind_one_another(
    bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router_module, "CHECK_TIMEOUT_S", 0.2)
    async with bench() as models, fake_model_server() as good, _black_hole() as dead_url:
        models.use(
            good, "litellm", "ollama", "embedded", max_concurrent_conversations=1,
            litellm_api_base=dead_url, litellm_model="m", ollama_host=dead_url.removesuffix("/v1"), ollama_model="m",
        )  # fmt: skip
        good.script(Reply(hang_after=0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(models.ask)
            await good.wait_for_chats(1)
            with trio.fail_after(2) as limit:
                states = await models.system.ask(CheckBackends())
            assert limit.deadline - trio.current_time() > 2 - 0.4  # the two dead ones were waited for together
            nursery.cancel_scope.cancel()
    assert [(state.name, state.available) for state in states] == [
        ("openai_compatible", True), ("litellm", False), ("ollama", False), ("embedded", True),
    ]  # fmt: skip
    assert states[1].detail == "litellm did not answer within 0.2 s"
    assert states[0].detail == states[3].detail == ""


@asynccontextmanager
async def _black_hole() -> AsyncGenerator[str]:
    """A server that accepts and says nothing."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, _say_nothing, [listener])
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}/v1"
        nursery.cancel_scope.cancel()


async def _say_nothing(_: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def test_a_router_that_crashed_serves_again_with_new_connections(
    bench: OpenBench, eventually: Eventually
) -> None:
    async with bench() as models, fake_model_server() as server:
        models.use(server)
        await models.ask()
        models.system.node("models/router").kill(RuntimeError("broke in my hands"))
        await eventually(lambda: models.system.node("models/router").number == 2)
        assert await models.ask() == "echo: hello there [openai_compatible]"
        await eventually(lambda: server.open == 1)

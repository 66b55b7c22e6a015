"""One turn: the model is asked, the calls that it wants are made, it is told what came of them, until it wants none.

Each step is kept before its calls are made, and the gate makes no call twice; so a turn that is taken up again after
whatever has died goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

import msgspec
import trio

from ..runtime.errors import ActorDied, InvalidInput, PocketPawError
from ..storage.steps import AddStep, ListSteps, Step, StepCall
from ..storage.tables import JsonObject
from ..storage.turns import Turn
from ..storage.usage import Usage
from .conversation import shorten_outputs, shown
from .models.protocol import ChatMessage, Generate, TextDelta, ThinkingDelta, Thought, ToolCall, ToolCallDelta
from .models.protocol import Usage as ModelUsage
from .tools.gate import ApprovalRequired, ToolStarted, UseTool
from .tools.protocol import ToolOutput, ToolProgress

if TYPE_CHECKING:
    from .agent import Agent

ENOUGH = "The limit of this turn is reached: no more tools. Answer now with what you have, and say what is missing."

CALLS_LIMIT = 32
"""Of one step; a model that asks for more is told so."""

ARGUMENTS_DEPTH = 32
"""Of one call; where all that handles them has a limit, the first one says so."""

EVENT_LIMIT = 10_000
"""Characters of an output that an event carries; the model is shown more, the store keeps more."""


@dataclass
class Answer:
    """What became of a turn, as far as it has got."""

    state: Literal["done", "failed", "stopped", "interrupted"]
    pieces: list[str] = field(default_factory=list[str])
    spent: dict[tuple[str, str], Usage] = field(default_factory=dict[tuple[str, str], Usage])
    error: PocketPawError | None = None
    provenance: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def usage(self) -> list[Usage]:
        """What each model took, the one that answered last at the end."""
        return list(self.spent.values())

    def spend(self, usage: Usage) -> None:
        key = (usage.backend, usage.model)
        before = self.spent.pop(key, None)
        self.spent[key] = usage if before is None else _plus(before, usage)


@dataclass
class _Drafted:
    """A call that the model is writing."""

    id: str = ""
    name: str = ""
    arguments: str = ""


class TurnLoop:
    """Lives as long as one attempt at one turn; what it says goes to the session's topic."""

    def __init__(self, agent: Agent, turn: Turn, answer: Answer, limit: trio.CancelScope) -> None:
        self._agent = agent
        self._turn = turn
        self._answer = answer
        self._limit = limit
        self._settings = agent.shared.live.current
        self._has_paragraph = True  # whether what is said next stands for itself
        self._started: set[tuple[int, int]] = set()
        self._holds = 0
        self._left_s = 0.0

    async def run(self, *, is_resumed: bool) -> None:
        """Raises PocketPawError where the turn fails; what was said until then is in the answer."""
        agent, turn = self._agent, self._turn
        messages, provenance, spent = await agent.conversation.messages(turn)
        agent.mark(*sorted(provenance))
        for usage in spent:
            self._answer.spend(_usage(usage))
        steps = await agent.ask_store(ListSteps(turn_id=turn.id)) if is_resumed else []
        for step in steps:
            self._tell_again(step)
            messages += await self._act(step)
        number = len(steps)
        while True:
            step = await self._ask(messages, number)
            if not step.tool_calls:
                break
            await agent.ask_store(AddStep(turn_id=turn.id, boot_id=agent.shared.boot_id, step=step))
            messages += await self._act(step)
            number += 1

    # The model --------------------------------------------------------------------------------------------------------

    async def _ask(self, messages: Sequence[ChatMessage], number: int) -> Step:
        """Have the model say what it says, and what it wants done."""
        tools = self._agent.shared.catalogue.offer(self._settings)
        shown_messages = shorten_outputs(messages)
        if tools and self._is_at_its_limit(number):
            tools = ()
            shown_messages.append(ChatMessage("user", ENOUGH))
        request = Generate(messages=tuple(shown_messages), tools=tools)
        begun = len(self._answer.pieces)
        try:
            return await self._listen(request, number)
        except ActorDied as error:
            # The router may have crashed over another session's answer: once more, if nothing was said yet.
            if len(self._answer.pieces) > begun or error.data.get("actor") != Generate.__address__:
                raise
            return await self._listen(request, number)

    def _is_at_its_limit(self, number: int) -> bool:
        taken = sum(usage.total_tokens for usage in self._answer.usage)
        limit = self._settings.agent_max_tokens
        return number >= self._settings.agent_max_steps or (limit > 0 and taken >= limit)

    async def _listen(self, request: Generate, number: int) -> Step:
        pieces: list[str] = []
        thoughts: list[Thought] = []
        drafts: dict[int, _Drafted] = {}
        usage: Usage | None = None
        self._agent.be("thinking", self._turn.channel)
        async with self._agent.stream(request, idle_timeout_s=self._settings.turn_timeout_s) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    if not pieces:
                        self._agent.be("streaming")
                    pieces.append(event.text)
                    self._tell_text(event.text)
                elif isinstance(event, ThinkingDelta):
                    self._agent.say(self._turn, "thinking", {"content": event.text})
                elif isinstance(event, Thought):
                    thoughts.append(event)
                elif isinstance(event, ToolCallDelta):
                    draft = drafts.setdefault(event.index, _Drafted())
                    draft.id, draft.name = draft.id or event.id, draft.name or event.name
                    draft.arguments += event.arguments
                elif isinstance(event, ModelUsage):
                    usage = _usage(event)
                    self._answer.spend(usage)
        self._has_paragraph = not pieces
        calls = [
            StepCall(draft.id or f"call_{number}_{index}", draft.name, draft.arguments)
            for index, draft in sorted(drafts.items())
        ]
        if not request.tools:
            calls = []  # none were offered: what looks like one is none
        kept: list[JsonObject] = [msgspec.to_builtins(thought) for thought in thoughts]
        return Step(number, "".join(pieces), calls, kept, usage)

    def _tell_text(self, text: str) -> None:
        if not self._has_paragraph:
            text = f"\n\n{text}"
        self._has_paragraph = True
        self._answer.pieces.append(text)
        self._agent.say(self._turn, "chunk", {"content": text, "type": "text"})

    def _tell_again(self, step: Step) -> None:
        """Whoever listens now has not heard what an earlier life said."""
        if step.content:
            self._tell_text(step.content)
            self._has_paragraph = False
        if step.usage is not None:
            self._answer.spend(step.usage)

    # Its calls --------------------------------------------------------------------------------------------------------

    async def _act(self, step: Step) -> list[ChatMessage]:
        """Make the calls of a step, those that only read at once, the others one after the other."""
        outputs: dict[int, ToolOutput] = {}
        for group in self._groups(step.tool_calls):
            async with trio.open_nursery() as nursery:
                for number in group:
                    nursery.start_soon(self._call, step, number, outputs)
            self._agent.mark(*(outputs[number].source for number in group if outputs[number].source))
        self._answer.provenance = self._agent.provenance
        self._agent.be("thinking")
        return [_wanted(step), *(_told(call, outputs[number]) for number, call in enumerate(step.tool_calls))]

    def _groups(self, calls: Sequence[StepCall]) -> Iterator[list[int]]:
        group: list[int] = []
        for number, call in enumerate(calls):
            tool = self._agent.shared.catalogue.get(call.name)
            if tool is not None and tool.effect == "read":
                group.append(number)
                continue
            if group:
                yield group
            yield [number]
            group = []
        if group:
            yield group

    async def _call(self, step: Step, number: int, outputs: dict[int, ToolOutput]) -> None:
        agent, call = self._agent, step.tool_calls[number]
        arguments, problem = dict[str, object](), ""
        try:
            arguments = _arguments(call)
        except InvalidInput as error:
            problem = error.detail
        if not problem and number >= CALLS_LIMIT:
            problem = f"more than {CALLS_LIMIT} calls at once: ask for the rest later"
        about: dict[str, object] = {"tool": call.name, "call_id": call.id, "input": agent.redacted(arguments)}
        if problem:
            agent.say(self._turn, "tool_start", about)
            output = ToolOutput(problem, is_error=True)
        else:
            use = UseTool(
                turn_id=self._turn.id,
                session_id=self._turn.session_id,
                step=step.number,
                number=number,
                tool=call.name,
                arguments=arguments,
            )
            output = await self._use(use, about)
        outputs[number] = output
        text = output.text if len(output.text) <= EVENT_LIMIT else f"{output.text[:EVENT_LIMIT]}…"
        result = {"tool": call.name, "call_id": call.id, "output": text, "is_error": output.is_error}
        agent.say(self._turn, "tool_result", {**result, "source": output.source} if output.source else result)

    async def _use(self, use: UseTool, about: dict[str, object]) -> ToolOutput:
        """Have the gate make the call; what fails is for the model to hear, not the turn's end."""
        for attempt in range(2):
            try:
                return await self._through_gate(use, about)
            except ActorDied as error:
                if attempt or error.data.get("actor") != UseTool.__address__:
                    return ToolOutput(f"the call failed: {error.detail}", is_error=True)
            except PocketPawError as error:
                return ToolOutput(f"the call failed: {error.detail}", is_error=True)
        raise AssertionError  # unreachable

    async def _through_gate(self, use: UseTool, about: dict[str, object]) -> ToolOutput:
        agent, turn = self._agent, self._turn
        output = ToolOutput("the call gave no output", is_error=True)
        is_held = False
        try:
            async with agent.stream(use, idle_timeout_s=math.inf) as events:
                async for event in events:
                    if is_held and not isinstance(event, ApprovalRequired):
                        self._release()
                        is_held = False
                    if isinstance(event, ApprovalRequired):
                        self._hold()
                        is_held = True
                        agent.be("waiting", tool=use.tool)
                        agent.say(turn, "approval_required", {**about, **_fields(event)})
                    elif isinstance(event, ToolStarted):
                        agent.be("tool_running", tool=use.tool)
                        self._tell_start(use, about)
                    elif isinstance(event, ToolProgress):
                        agent.say(turn, "tool_progress", {"call_id": about["call_id"], **_fields(event)})
                    else:
                        output = event
        finally:
            if is_held:
                self._release()
        self._tell_start(use, about)
        return output

    def _tell_start(self, use: UseTool, about: dict[str, object]) -> None:
        """Once for each call, also where the gate is asked a second time, and where the call is not made."""
        if (use.step, use.number) not in self._started:
            self._started.add((use.step, use.number))
            self._agent.say(self._turn, "tool_start", about)

    def _hold(self) -> None:
        """A person's time is not the turn's."""
        self._holds += 1
        if self._holds == 1:
            self._left_s = max(0.0, self._limit.relative_deadline)
            self._limit.relative_deadline = math.inf

    def _release(self) -> None:
        self._holds -= 1
        if self._holds == 0:
            self._limit.relative_deadline = self._left_s


def _wanted(step: Step) -> ChatMessage:
    return ChatMessage(
        "assistant",
        step.content,
        tuple(ToolCall(call.id, call.name, call.arguments) for call in step.tool_calls),
        thoughts=tuple(msgspec.convert(thought, Thought) for thought in step.thoughts),
    )


def _told(call: StepCall, output: ToolOutput) -> ChatMessage:
    text = shown(output.text, output.source)
    return ChatMessage("tool", f"ERROR: {text}" if output.is_error else text, tool_call_id=call.id)


def _arguments(call: StepCall) -> dict[str, object]:
    """The arguments, if they are what a message can carry; raises InvalidInput."""
    try:
        arguments = msgspec.json.decode(call.arguments or "{}", type=dict[str, object])
    except (msgspec.DecodeError, RecursionError):
        raise InvalidInput("the arguments are not a JSON object: write them as one") from None
    _check(arguments, ARGUMENTS_DEPTH)
    return arguments


def _check(value: object, depth: int) -> None:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidInput("there is a number of more than 64 bits in the arguments: write it as a text")
    if isinstance(value, dict | list):
        if not depth:
            raise InvalidInput(f"the arguments are nested more than {ARGUMENTS_DEPTH} deep: write them flatter")
        items = cast("dict[str, object]", value).values() if isinstance(value, dict) else cast("list[object]", value)
        for item in items:
            _check(item, depth - 1)


def _fields(event: msgspec.Struct) -> dict[str, object]:
    return {name: value for name, value in msgspec.structs.asdict(event).items() if value is not None}


def _usage(usage: ModelUsage) -> Usage:
    return Usage(
        usage.input_tokens, usage.output_tokens, usage.total_tokens, usage.model, usage.backend, usage.cost_usd
    )


def _plus(one: Usage, other: Usage) -> Usage:
    known = one.cost_usd is not None and other.cost_usd is not None
    return Usage(
        one.input_tokens + other.input_tokens,
        one.output_tokens + other.output_tokens,
        one.total_tokens + other.total_tokens,
        other.model,
        other.backend,
        (one.cost_usd or 0.0) + (other.cost_usd or 0.0) if known else None,
    )

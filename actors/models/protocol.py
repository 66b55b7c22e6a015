"""What is asked of a language model and what it says back, whichever backend answers."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ...runtime.message import StreamMessage

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class ToolCall(msgspec.Struct, frozen=True):
    """A whole function call, as history keeps it; `arguments` is the JSON text the model wrote."""

    id: str
    name: str
    arguments: str

    def parsed(self) -> dict[str, object]:
        """Give the arguments as an object, also what is none, which a wire that only takes objects needs."""
        try:
            return msgspec.json.decode(self.arguments or "{}", type=dict[str, object])
        except (msgspec.DecodeError, RecursionError):
            return {"not_a_json_object": self.arguments}


class Thought(msgspec.Struct, frozen=True, tag="thought", omit_defaults=True):
    """A whole block of thinking, as its model wants it back while its tools are at work; `signature` is the model's."""

    text: str
    signature: str
    backend: str = ""
    """Whose it is: no other can read it, and most refuse it."""
    is_redacted: bool = False
    """There is no text, and `signature` is all of it."""


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a conversation; a `tool` message answers the call that `tool_call_id` names.

    `images` are paths of pictures that go with a person's words, checked by whoever puts them in; a backend that cannot
    see leaves them out. A `system` message `for_tools` is only for a model that is given tools; it follows the first.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    thoughts: tuple[Thought, ...] = ()
    images: tuple[str, ...] = ()
    for_tools: bool = False


class Tool(msgspec.Struct, frozen=True):
    """A function that the model may call; `parameters` is its JSON Schema, passed on as it is."""

    name: str
    description: str
    parameters: dict[str, object]


class TextDelta(msgspec.Struct, frozen=True, tag="text"):
    text: str


class ThinkingDelta(msgspec.Struct, frozen=True, tag="thinking"):
    text: str


class ToolCallDelta(msgspec.Struct, frozen=True, tag="tool_call"):
    """A piece of the call number `index`: id and name come once (empty afterwards), arguments grow by concatenation."""

    index: int
    id: str
    name: str
    arguments: str


class Usage(msgspec.Struct, frozen=True, tag="usage"):
    """What the answer took. `cost_usd` is what the backend says, 0 if it says nothing."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    model: str
    backend: str
    cost_usd: float = 0.0
    estimated: bool = False
    """The backend counted nothing: the tokens are guessed from the length of the texts."""


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    reason: FinishReason


GenerationEvent = TextDelta | ThinkingDelta | Thought | ToolCallDelta | Usage | Finished


class Generate(StreamMessage[GenerationEvent], to="models/router"):
    """Continue a conversation.

    A whole answer is any deltas, then exactly one `Usage`, then exactly one `Finished`; one that stops short raises.
    """

    messages: Annotated[tuple[ChatMessage, ...], msgspec.Meta(min_length=1)]
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    tools: tuple[Tool, ...] = ()

"""What is told to those who can do less."""

from __future__ import annotations

from pocketpaw.actors.models.abilities import suited_to
from pocketpaw.actors.models.protocol import ChatMessage, Generate, Thought, Tool, ToolCall
from pocketpaw.actors.models.transcript import transcript

TALK = Generate(
    messages=(
        ChatMessage("system", "Be kind."),
        ChatMessage("user", "what is here?", images=("/a.png", "/b.png")),
        ChatMessage("assistant", "", tool_calls=(ToolCall("c", "look", "{}"),), thoughts=(Thought("Hm.", "s", "b"),)),
        ChatMessage("tool", "a cat", tool_call_id="c"),
    ),
    tools=(Tool("look", "Look.", {}),),
)


def test_whoever_can_do_all_is_asked_as_it_is() -> None:
    assert suited_to(TALK, ("tools", "vision")) is TALK


def test_images_are_replaced_by_words() -> None:
    seen = suited_to(TALK, ("tools",))
    assert seen.messages[1] == ChatMessage("user", "what is here?\n(2 images came with this, which you cannot see)")
    assert (seen.messages[2:], seen.tools) == (TALK.messages[2:], TALK.tools)


def test_tools_are_not_offered_and_their_results_are_told() -> None:
    told = suited_to(TALK, ("vision",))
    assert told.tools == ()
    assert told.messages == (*TALK.messages[:2], ChatMessage("user", "(look gave this result)\na cat"))
    plain = Generate(messages=TALK.messages[:1])
    assert suited_to(plain, ()) is plain


def test_a_transcript_ends_with_what_is_to_be_answered() -> None:
    assert transcript(suited_to(TALK, ()).messages) == (
        "Be kind.\n\nWhat has been said so far:\n\nUser: what is here?\n(2 images came with this, which you cannot see)"
        "\n\nAnswer only what comes next.\n\n(look gave this result)\na cat"
    )
    assert transcript((ChatMessage("user", "hello"),)) == "hello"

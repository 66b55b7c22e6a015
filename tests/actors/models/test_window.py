from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pocketpaw.actors.models.protocol import ChatMessage, Role, ToolCall
from pocketpaw.actors.models.window import BYTES_PER_TOKEN, TOKENS_PER_MESSAGE, estimate_tokens, fit

SYSTEM = ChatMessage("system", "be brief")


def said(role: Role, tokens: int = 10, mark: str = "x") -> ChatMessage:
    """A message of about that many tokens."""
    return ChatMessage(role, mark * (BYTES_PER_TOKEN * (tokens - TOKENS_PER_MESSAGE)))


def test_what_fits_stays_as_it_is() -> None:
    talk = (SYSTEM, said("user"), said("assistant"), said("user"))
    assert fit(talk, sum(map(estimate_tokens, talk))) == talk


def test_the_oldest_goes_first_and_a_reply_goes_with_its_question() -> None:
    talk = (SYSTEM, said("user"), said("assistant"), said("user"), said("assistant"), said("user"))
    whole = sum(map(estimate_tokens, talk))
    assert fit(talk, whole - 1) == (SYSTEM, *talk[3:])
    assert fit(talk, whole - 20) == (SYSTEM, *talk[3:])
    assert fit(talk, whole - 21) == (SYSTEM, talk[-1])


def test_a_later_message_that_does_not_fit_keeps_earlier_ones_out() -> None:
    talk = (said("user"), said("assistant"), said("user", 100), said("assistant"), said("user"))
    assert fit(talk, 50) == talk[-1:]


def test_the_system_and_the_last_question_stay_however_long_they_are() -> None:
    talk = (SYSTEM, said("user", 100), said("assistant", 100), said("user", 100))
    assert fit(talk, 1) == (SYSTEM, talk[-1])
    assert fit((SYSTEM,), 1) == (SYSTEM,)
    assert fit((said("assistant"),), 1) == (said("assistant"),)


def test_tools_results_stay_with_the_call_and_the_question() -> None:
    call = ChatMessage("assistant", "", (ToolCall("c-1", "look", '{"at": "it"}'),))
    result = ChatMessage("tool", "seen", tool_call_id="c-1")
    talk = (SYSTEM, said("user"), said("assistant"), said("user"), call, result)
    assert fit(talk, 1) == (SYSTEM, *talk[3:])


def test_a_conversation_that_was_cut_off_at_its_beginning_begins_with_a_question() -> None:
    talk = (SYSTEM, said("assistant"), said("user"), said("assistant"), said("user"))
    assert fit(talk, 10_000) == (SYSTEM, *talk[2:])


def test_a_call_of_a_tool_counts() -> None:
    call = ChatMessage("assistant", "", (ToolCall("c-1", "say", "x" * 300),))
    assert estimate_tokens(call) == 303 // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE


@given(
    st.lists(st.sampled_from(["user", "assistant", "tool"]).flatmap(lambda role: st.builds(said, st.just(role)))),
    st.booleans(),
    st.integers(-10, 200),
)
def test_what_is_left_is_an_end_of_what_there_was(talk: list[ChatMessage], has_system: bool, limit: int) -> None:
    messages = (*((SYSTEM,) if has_system else ()), *talk)
    if not messages:
        return
    left = fit(messages, limit)
    first = messages[: int(has_system)]
    assert left[: len(first)] == first
    kept = left[len(first) :]
    assert not kept or tuple(talk[-len(kept) :]) == kept
    assert len(kept) == len(talk) or all(message.role != "user" for message in talk) or kept[0].role == "user"

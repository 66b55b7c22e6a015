"""How a request becomes a message, and how a wrong one is told what is wrong."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
import pytest
from pocketpaw.http.binding import Binding, decode_json, require_json
from pocketpaw.runtime import Done, Message
from pocketpaw.runtime.errors import InvalidInput, UnsupportedMedia
from werkzeug.datastructures import MultiDict

Limit = Annotated[int, msgspec.Meta(ge=1, le=500)]


class Search(Message[Done], to="nobody"):
    session_id: str
    limit: Limit = 50
    exact: bool = False
    tags: list[str] = msgspec.field(default_factory=list[str])


class Say(Message[Done], to="nobody"):
    session_id: str
    content: Annotated[str, msgspec.Meta(min_length=1, max_length=10)]
    media: list[str] = msgspec.field(default_factory=list[str])
    channel: str = "api"


SEARCH = Binding(Search, ["session_id"])
SAY = Binding(Say, has_body=True, only=("content", "session_id", "media"), defaults={"session_id": lambda: "s-new"})
EITHER = Binding(Say, has_body=True, query=("session_id",))


def args(**values: str) -> MultiDict[str, str]:
    return MultiDict(values)


def place_of(error: pytest.ExceptionInfo[InvalidInput]) -> object:
    return error.value.data["field"]


def test_path_and_query_are_converted_by_the_fields_types() -> None:
    given = args(limit="7", exact="true", tags="a,b", unknown="x")
    assert SEARCH.bind({"session_id": "s-1"}, given, b"") == Search(
        session_id="s-1", limit=7, exact=True, tags=["a", "b"]
    )


def test_what_is_left_out_has_its_default() -> None:
    assert SEARCH.bind({"session_id": "s-1"}, args(), b"") == Search(session_id="s-1")


class Since(Message[Done], to="nobody"):
    since: datetime


@pytest.mark.parametrize(
    ("text", "is_taken"),
    [
        ("0001-01-01T00:00:00Z", True),
        ("0001-01-01T00:00:00+14:00", False),
        ("9999-12-31T23:59:59-05:00", False),
        ("2026-01-01T00:00:00+14:00", True),
    ],
)
def test_a_time_that_utc_does_not_have_is_refused(text: str, is_taken: bool) -> None:
    for binding, query, body in (
        (Binding(Since), args(since=text), b""),
        (Binding(Since, has_body=True), args(), b'{"since": "%b"}' % text.encode()),
    ):
        if is_taken:
            assert binding.bind({}, query, body).since == datetime.fromisoformat(text)
        else:
            with pytest.raises(InvalidInput, match="of UTC") as caught:
                binding.bind({}, query, body)
            assert place_of(caught) == ["body" if body else "query", "since"]


def test_a_list_may_be_given_by_repeating_its_name() -> None:
    given: MultiDict[str, str] = MultiDict([("tags", "a"), ("tags", "b,c")])
    assert SEARCH.bind({"session_id": "s"}, given, b"").tags == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("limit", "kind"), [("0", "value_error"), ("501", "value_error"), ("many", "type_error"), ("", "type_error")]
)
def test_a_wrong_query_parameter_is_named(limit: str, kind: str) -> None:
    with pytest.raises(InvalidInput) as error:
        SEARCH.bind({"session_id": "s"}, args(limit=limit), b"")
    assert place_of(error) == ["query", "limit"]
    assert error.value.data["type"] == kind


def test_the_body_gives_the_fields_that_stand_nowhere_else() -> None:
    body = b'{"content": "hi", "media": ["m"], "channel": "forged", "newer": 1}'
    assert SAY.bind({}, args(), body) == Say(session_id="s-new", content="hi", media=["m"], channel="api")


def test_null_for_a_field_that_may_be_left_out_leaves_it_out() -> None:
    assert SAY.bind({}, args(), b'{"content": "hi", "session_id": null}').session_id == "s-new"


@pytest.mark.parametrize(
    ("body", "place", "kind"),
    [
        (b"", ["body", "content"], "missing"),
        (b"{}", ["body", "content"], "missing"),
        (b'{"content": ""}', ["body", "content"], "value_error"),
        (b'{"content": "01234567890"}', ["body", "content"], "value_error"),
        (b'{"content": 7}', ["body", "content"], "type_error"),
        (b'{"content": "hi", "media": [1]}', ["body", "media", 0], "type_error"),
        (b"[]", ["body"], "type_error"),
        (b'"text"', ["body"], "type_error"),
        (b"null", ["body"], "type_error"),
        (b'{"content"', ["body"], "json_invalid"),
        (b"{'content': 'hi'}", ["body"], "json_invalid"),
        (b'{"content": "\xff"}', ["body"], "json_invalid"),
        (b'{"content": "\\ud800"}', ["body"], "json_invalid"),
        (b'{"content": "hi"} {}', ["body"], "json_invalid"),
        (b'{"content": "hi", "x": ' + b"[" * 100_000, ["body"], "json_invalid"),
    ],
)
def test_a_wrong_body_is_told_where_it_is_wrong(body: bytes, place: list[str | int], kind: str) -> None:
    with pytest.raises(InvalidInput) as error:
        SAY.bind({}, args(), body)
    assert place_of(error) == place
    assert error.value.data["type"] == kind


def test_a_field_may_stand_in_the_query_or_in_the_body_and_the_body_wins() -> None:
    assert EITHER.bind({}, args(session_id="q"), b'{"content": "hi"}').session_id == "q"
    assert EITHER.bind({}, args(session_id="q"), b'{"content": "hi", "session_id": "b"}').session_id == "b"
    with pytest.raises(InvalidInput) as error:
        EITHER.bind({}, args(), b'{"content": "hi"}')
    assert place_of(error) == ["query", "session_id"]


def test_a_field_may_have_another_name_on_the_wire() -> None:
    binding = Binding(Search, wire={"session_id": "id"})
    assert binding.bind({}, args(id="s-1"), b"").session_id == "s-1"
    with pytest.raises(InvalidInput) as error:
        binding.bind({}, args(session_id="s-1"), b"")
    assert place_of(error) == ["query", "id"]
    assert binding.locate("session_id") == ["query", "id"]


def test_a_declaration_that_names_no_field_is_refused() -> None:
    with pytest.raises(TypeError, match="has no field"):
        Binding(Search, ["sesion_id"])


def test_a_whole_body_is_decoded_by_its_type() -> None:
    decode = msgspec.json.Decoder(dict[str, object]).decode
    assert decode_json(decode, b'{"a": 1}') == {"a": 1}
    with pytest.raises(InvalidInput):
        decode_json(decode, b"")


@pytest.mark.parametrize(
    "media_type", ["application/json", "application/json; charset=utf-8", "application/x+json", None]
)
def test_json_is_taken_under_any_of_its_names(media_type: str | None) -> None:
    require_json(media_type, b"{}")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"])
def test_another_media_type_is_refused_where_there_is_a_body(media_type: str) -> None:
    require_json(media_type, b"")
    with pytest.raises(UnsupportedMedia):
        require_json(media_type, b"{}")

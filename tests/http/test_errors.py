"""Which failure becomes which response."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
import pytest
from pocketpaw.http.errors import MethodNotAllowed, error_response, status_of
from pocketpaw.http.routes import ROUTES
from pocketpaw.runtime.errors import (
    ActorDied,
    AskTimeout,
    InvalidInput,
    NotFound,
    TimedOut,
    TooManyRequests,
    Unauthenticated,
    type_registry,
)
from quart import Response
from quart.wrappers.response import DataBody

assert ROUTES  # their modules define every error that there is


def body_of(response: Response) -> dict[str, object]:
    assert isinstance(response.response, DataBody)
    return msgspec.json.decode(response.response.data, type=dict[str, object])


@pytest.mark.parametrize("code", sorted(type_registry))
def test_every_error_can_be_told(code: str) -> None:
    error = type_registry[code]("it failed")
    response = error_response(error)
    assert response.status_code == status_of(error) >= HTTPStatus.BAD_REQUEST
    assert response.content_type == "application/json"
    assert set(body_of(response)) == {"detail", "code"}


def test_only_what_nobody_planned_is_an_internal_error() -> None:
    internal = {code for code, cls in type_registry.items() if status_of(cls("")) == HTTPStatus.INTERNAL_SERVER_ERROR}
    assert internal == {"internal_error"}


def test_an_ask_that_took_too_long_is_a_time_out_and_not_a_lost_message() -> None:
    assert status_of(AskTimeout("late")) == HTTPStatus.GATEWAY_TIMEOUT


def test_what_a_crash_said_is_for_the_operator() -> None:
    died = ActorDied("store/writer crashed (StatementError: … VALUES (?) [parameters: ('secret',)]) before it answered")
    told = "store/writer crashed (StatementError; see health/errors) before it answered"
    assert body_of(error_response(died)) == {"detail": told, "code": "actor_died"}
    stopped = "agents/s-1 was stopped before it answered"
    assert body_of(error_response(ActorDied(stopped)))["detail"] == stopped


def test_a_missing_credential_names_the_scheme() -> None:
    assert error_response(Unauthenticated("who is it?")).headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(("seconds", "said"), [(0, "1"), (0.2, "1"), (7, "7")])
def test_too_many_requests_say_when_to_come_back(seconds: float, said: str) -> None:
    assert error_response(TooManyRequests("slow down", retry_after_s=seconds)).headers["Retry-After"] == said


def test_a_wrong_method_is_told_the_right_ones() -> None:
    assert error_response(MethodNotAllowed("no", allowed=["GET", "HEAD"])).headers["Allow"] == "GET, HEAD"


def test_a_wrong_field_is_named_in_a_list() -> None:
    response = error_response(InvalidInput("expected 1 to 500", field=["query", "limit"], type="value_error"))
    assert response.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert body_of(response) == {
        "detail": [{"loc": ["query", "limit"], "msg": "expected 1 to 500", "type": "value_error"}],
        "code": "invalid_input",
    }


def test_what_a_client_needs_to_go_on_is_in_the_body_and_nothing_else_is() -> None:
    assert body_of(error_response(TimedOut("later", session_id="s-1", timeout_s=3))) == {
        "detail": "later",
        "code": "timed_out",
        "session_id": "s-1",
    }
    assert body_of(error_response(NotFound("no", path="/etc/passwd"))) == {"detail": "no", "code": "not_found"}

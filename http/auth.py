"""Session tokens: made, put into a cookie, revoked; and a new access token."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

import msgspec
from quart import Response

from ..actors.access.guard import CreateSessionToken, Login, Logout
from ..actors.settings import RegenerateToken
from ..runtime.errors import InvalidInput, NotBuilt
from .address import is_https
from .authentication import SESSION_COOKIE, credential_of, facts
from .call import Call
from .errors import Problem
from .route import JSON, post

Text = Annotated[str, msgspec.Meta(max_length=1000)]


class AccessToken(msgspec.Struct, frozen=True):
    token: Text


class LoginForm(msgspec.Struct, frozen=True):
    """The access token, or (not built yet) a user's e-mail address and password."""

    token: Text | None = None
    email: Text | None = None
    password: Text | None = None
    totp: Text | None = None


class LoggedIn(msgspec.Struct, frozen=True):
    ok: bool = True


async def login(call: Call, body: LoginForm) -> Response:
    """Exchange the access token for a session, kept in a cookie."""
    if body.token is None:
        if body.email is not None:
            raise NotBuilt("logging in with e-mail and password is not built yet; send the access token as `token`")
        raise InvalidInput("the field is required", field=["body", "token"], type="missing")
    session = await call.ask(Login(token=body.token))
    return _ok(call, session.session_token, session.expires_in_hours * 3600)


async def logout(call: Call) -> Response:
    """End the session: its token is revoked and its cookie cleared."""
    asked = facts(call.request.scope, bucket="api", required=True)
    await call.ask(Logout(credential=credential_of(asked)))
    return _ok(call, "", 0)


def _ok(call: Call, token: str, max_age_s: int) -> Response:
    response = Response(msgspec.json.encode(LoggedIn()), 200, content_type=JSON)
    set_session(call, response, token, max_age_s)
    return response


def set_session(call: Call, response: Response, token: str, max_age_s: int) -> None:
    """Have the browser keep a session's token, or forget it after 0 seconds."""
    response.set_cookie(
        SESSION_COOKIE, token, max_age=max_age_s, path="/", secure=is_https(call), httponly=True, samesite="Strict"
    )


_OK = {HTTPStatus.OK: ("Done; the cookie is set or cleared.", LoggedIn)}
_LOGIN = {**_OK, HTTPStatus.NOT_IMPLEMENTED: ("E-mail and password are not built yet.", Problem)}
ROUTES = [
    post("/auth/session", CreateSessionToken, scope="admin", bucket="auth"),
    post("/auth/login", login, is_exempt=True, bucket="auth", responses=_LOGIN, described_as=[AccessToken]),
    post("/auth/logout", logout, responses=_OK),
    post("/token/regenerate", RegenerateToken, scope="admin", bucket="auth", audit="auth"),
]

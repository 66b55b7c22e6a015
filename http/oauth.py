"""OAuth2: the consent page, its decision, and the endpoints that give tokens and take them back."""

from __future__ import annotations

from html import escape
from http import HTTPStatus
from typing import Literal, cast
from urllib.parse import urlencode, urlsplit

import msgspec
from quart import Response

from ..actors.access.oauth import (
    Challenge,
    ClientId,
    DecideConsent,
    GetTokens,
    ListOAuthGrants,
    PrepareConsent,
    RedirectUri,
    RevokeOAuthGrant,
    RevokeOAuthToken,
    Text,
    TokenRefused,
    Tokens,
    Wish,
)
from ..actors.access.scopes import MEANING, Scope
from ..runtime.errors import InvalidInput, NotBuilt
from .address import base_url
from .api_keys import Revoked
from .authentication import credential_of, facts
from .call import Call
from .errors import Problem
from .forms import read_fields
from .pages import hidden, page
from .route import JSON, delete, get, post

NO_STORE = {"Content-Type": JSON, "Cache-Control": "no-store", "Pragma": "no-cache"}


class Asked(msgspec.Struct, frozen=True):
    """What stands in the address that a program sends a person's browser to."""

    client_id: ClientId | None = None
    redirect_uri: RedirectUri | None = None
    code_challenge: Challenge | None = None
    code_challenge_method: Text = "S256"
    scope: Text = "chat sessions"
    state: Text | None = None
    response_type: Text = "code"


class Decided(Wish, frozen=True, kw_only=True):
    """The consent page's form: what it was shown for, and the button."""

    csrf_token: Text
    action: Literal["allow", "deny"]


class TokenProblem(msgspec.Struct, frozen=True):
    """As OAuth2 has it (https://www.rfc-editor.org/rfc/rfc6749#section-5.2), and as every other error here."""

    error: str
    error_description: str
    detail: str
    code: str


async def authorize(call: Call, message: Asked) -> Response:
    """Ask the person at the browser whether a program may have access: the consent page.

    Nothing is sent to the program before that person has decided: what is wrong with its request is said here.
    """
    if "service" in call.request.args:  # which asks for something else altogether
        raise NotBuilt("access to accounts at other services is not built yet; leave out `service`")
    wish = _wish(message)
    form = await call.ask(PrepareConsent(wish=wish, credential=_credential(call)))
    meanings = (MEANING[cast("Scope", scope)] for scope in form.scopes)
    listed = "\n".join(f"<li>{escape(meaning)}</li>" for meaning in meanings)
    fields = hidden(**msgspec.structs.asdict(wish), csrf_token=form.ticket)
    body = (
        f"<p>The program <code>{escape(wish.client_id)}</code> asks for access to this PocketPaw. It could:</p>\n"
        f"<ul>\n{listed}\n</ul>\n"
        f"<p>Your answer goes to <code>{escape(wish.redirect_uri)}</code>.</p>\n"
        f'<form method="post" action="authorize/consent">\n{fields}\n'
        '<button name="action" value="allow">Allow</button>\n<button name="action" value="deny">Deny</button>\n</form>'
    )
    return page("Allow access?", body, form_targets=_origin(wish.redirect_uri))


async def consent(call: Call) -> Response:
    """Take the consent page's form, and send the browser back to the program with what was decided."""
    decided = call.tell_audit(await read_fields(call, Decided))
    wish = Wish(**{name: getattr(decided, name) for name in Wish.__struct_fields__})
    decision = await call.ask(
        DecideConsent(
            wish=wish,
            credential=_credential(call),
            ticket=decided.csrf_token,
            is_allowed=decided.action == "allow",
        )
    )
    answer = {"error": "access_denied"} if decision.code is None else {"code": decision.code}
    if wish.state is not None:
        answer["state"] = wish.state
    answer["iss"] = base_url(call)  # https://www.rfc-editor.org/rfc/rfc9207
    joint = "&" if "?" in wish.redirect_uri else "?"
    headers = {"Location": f"{wish.redirect_uri}{joint}{urlencode(answer)}", "Cache-Control": "no-store"}
    return Response(b"", HTTPStatus.FOUND.value, headers)


async def get_tokens(call: Call) -> Response:
    """Exchange a code, or a refresh token, for new tokens.

    A code and a refresh token work once: a second use ends the whole grant.
    """
    try:
        tokens = await call.ask(call.tell_audit(await read_fields(call, GetTokens)))
    except TokenRefused as refused:
        problem = TokenProblem(str(refused.data["error"]), refused.detail, refused.detail, refused.code)
        return Response(msgspec.json.encode(problem), HTTPStatus.BAD_REQUEST.value, NO_STORE)
    return Response(msgspec.json.encode(tokens), HTTPStatus.OK.value, NO_STORE)


async def revoke_token(call: Call) -> Revoked:
    """End the grant that a token belongs to; what is no token is no error."""
    await call.ask(await read_fields(call, RevokeOAuthToken))
    return Revoked()


async def revoke_grant(call: Call, message: RevokeOAuthGrant) -> Revoked:
    """Take a program's access back: its tokens are refused from now on."""
    await call.ask(message)
    return Revoked()


def _wish(asked: Asked) -> Wish:
    """What a program asks for. What is missing is named only here, as with `service` none of it would be needed."""
    for name in ("client_id", "redirect_uri", "code_challenge"):
        if getattr(asked, name) is None:
            raise InvalidInput("the field is required", field=["query", name], type="missing")
    return Wish(**{name: getattr(asked, name) for name in Wish.__struct_fields__})


def _credential(call: Call) -> str | None:
    return credential_of(facts(call.request.scope, bucket="api", required=True))


def _origin(redirect_uri: str) -> str:
    """Where a redirect leads, as a source in a content security policy: browsers hold forms' redirects to that too."""
    parts = urlsplit(redirect_uri)
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme in ("http", "https") else f"{parts.scheme}:"


_SENT_BACK = {HTTPStatus.FOUND: ("Back to the program, with `code` or `error`, `state` and `iss`.", None)}
_TOKENS = {
    HTTPStatus.OK: ("The tokens.", Tokens),
    HTTPStatus.BAD_REQUEST: ("The tokens are refused.", TokenProblem),
}
_AUTHORIZE = {HTTPStatus.NOT_IMPLEMENTED: ("`service` is not built yet.", Problem)}
ROUTES = [
    get("/oauth/authorize", authorize, scope="admin", produces="text/html", responses=_AUTHORIZE),
    post(
        "/oauth/authorize/consent",
        consent,
        scope="admin",
        status=HTTPStatus.FOUND,
        takes_form=True,
        described_as=[Decided],
        responses=_SENT_BACK,
    ),
    post(
        "/oauth/token",
        get_tokens,
        is_exempt=True,
        bucket="auth",
        takes_form=True,
        described_as=[GetTokens],
        responses=_TOKENS,
    ),
    post(
        "/oauth/revoke",
        revoke_token,
        is_exempt=True,
        bucket="auth",
        takes_form=True,
        described_as=[RevokeOAuthToken],
    ),
    get("/oauth/grants", ListOAuthGrants, scope="admin"),
    delete("/oauth/grants/{grant_id}", revoke_grant, scope="admin"),
]

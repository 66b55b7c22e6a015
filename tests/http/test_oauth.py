"""OAuth2 with a real client library, and what RFC 9700 warns of, tried."""

from __future__ import annotations

import base64
import hashlib
import warnings
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx2
import pytest
from pocketpaw.http.route import PREFIXES
from structlog.testing import capture_logs

from .conftest import Daemon, Serve
from .consent import Form, answer_in, decide

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it imports is its own affair
    from authlib.integrations.httpx_client import AsyncOAuth2Client, OAuthError

CLIENT = "pocketpaw-desktop"
BACK = "http://localhost:49152/oauth-callback"
VERIFIER = "a-verifier-that-is-long-enough-to-be-one-43-characters"
OTHER_CLIENT = "other http://localhost/oauth-callback"
Json = dict[str, Any]


def challenge(verifier: str = VERIFIER) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def wish(**changed: str | None) -> str:
    """The address that a program opens in the browser."""
    asked = {
        "client_id": CLIENT,
        "redirect_uri": BACK,
        "code_challenge": challenge(),
        "code_challenge_method": "S256",
        "scope": "chat memory",
        "state": "xyz",
        **changed,
    }
    return "/api/v1/oauth/authorize?" + urlencode({name: value for name, value in asked.items() if value is not None})


async def code_from(browser: httpx2.AsyncClient, **changed: str | None) -> str:
    return answer_in(await decide(browser, wish(**changed)))["code"]


async def redeem(client: httpx2.AsyncClient, code: str, **changed: str) -> httpx2.Response:
    fields = {
        "grant_type": "authorization_code",
        "code": code,
        "code_verifier": VERIFIER,
        "client_id": CLIENT,
        "redirect_uri": BACK,
        **changed,
    }
    return await client.post("/api/v1/oauth/token", json=fields)


async def renew(client: httpx2.AsyncClient, refresh_token: str, client_id: str = CLIENT) -> httpx2.Response:
    fields = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": client_id}
    return await client.post("/api/v1/oauth/token", data=fields)


async def tokens(daemon: Daemon, **changed: str | None) -> Json:
    async with daemon.client() as browser, daemon.stranger() as program:
        redeemed = await redeem(program, await code_from(browser, **changed))
        assert redeemed.status_code == 200, redeemed.text
        return redeemed.json()


async def status_with(daemon: Daemon, token: str, path: str = "/api/v1/memory/stats") -> int:
    async with daemon.stranger(token) as client:
        return (await client.get(path)).status_code


def is_refused(response: httpx2.Response, error: str = "invalid_grant") -> bool:
    """Whether it is OAuth2's own way of saying no, and ours."""
    body = response.json()
    return (
        response.status_code == 400
        and body["error"] == error
        and body["detail"] == body["error_description"]
        and set(body) == {"error", "error_description", "detail", "code"}
        and response.headers["cache-control"] == "no-store"
    )


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_real_client_library_goes_all_the_way(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.client() as browser:
        endpoint = f"{daemon.url}{prefix}/oauth"
        headers = {"X-Forwarded-For": "203.0.113.9"}
        program: Any = AsyncOAuth2Client(
            CLIENT,
            token_endpoint_auth_method="none",
            revocation_endpoint_auth_method="none",
            scope="chat memory",
            redirect_uri=BACK,
            code_challenge_method="S256",
            token_endpoint=f"{endpoint}/token",
            trust_env=False,
            headers=headers,
        )
        async with program:
            url, state = program.create_authorization_url(f"{endpoint}/authorize", code_verifier=VERIFIER)
            back = (await decide(browser, url)).headers["location"]
            assert back.startswith(BACK)
            given = await program.fetch_token(authorization_response=back, state=state, code_verifier=VERIFIER)
            assert given["access_token"].startswith("ppat_")
            assert given["refresh_token"].startswith("pprt_")
            assert (given["token_type"], given["expires_in"], given["scope"]) == ("Bearer", 3600, "chat memory")
            assert (await program.get(f"{daemon.url}/api/v1/memory/stats")).status_code == 200
            assert (await program.get(f"{daemon.url}/api/v1/settings")).status_code == 403
            renewed = await program.refresh_token()
            assert renewed["refresh_token"] != given["refresh_token"]
            assert (await program.get(f"{daemon.url}/api/v1/memory/stats")).status_code == 200
            revoked = await program.revoke_token(f"{endpoint}/revoke", token=renewed["access_token"])
            assert revoked.json() == {"ok": True}
            assert await status_with(daemon, renewed["access_token"]) == 401
            with pytest.raises(OAuthError, match="revoked"):
                await program.refresh_token()


async def test_a_program_hears_of_a_no(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as browser:
        answer = answer_in(await decide(browser, wish(), "deny"))
        assert answer == {"error": "access_denied", "state": "xyz", "iss": daemon.url}
        assert (await browser.get("/api/v1/oauth/grants")).json() == []


async def test_the_consent_page_says_who_asks_for_what_and_nothing_frames_or_scripts_it(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as browser:
        page = await browser.get(wish(state='"><script>alert(1)</script>', scope="admin files:read"))
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["x-frame-options"] == "DENY"
        assert page.headers["cache-control"] == "no-store"
        policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["frame-ancestors"] == "'none'"
        assert policy["form-action"] == "'self' http://localhost:49152"
        assert "script-src" not in policy
        style = page.text.partition("<style>")[2].partition("</style>")[0]
        assert policy["style-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'"
        assert '<meta name="referrer" content="same-origin">' in page.text
        assert "<script" not in page.text
        assert CLIENT in page.text
        assert "without any limit" in page.text
        assert BACK in page.text
        assert Form(page.text).fields["state"] == '"><script>alert(1)</script>'


async def test_state_comes_back_as_it_was_or_not_at_all(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as browser:
        for state in ("a b&c=d#\u00e9", ""):
            assert answer_in(await decide(browser, wish(state=state)))["state"] == state
        assert set(answer_in(await decide(browser, wish(state=None)))) == {"code", "iss"}


async def test_the_answer_says_whose_it_is_against_mix_up(serve: Serve) -> None:
    async with serve() as daemon, daemon.stranger(daemon.live.access_token) as browser:
        assert answer_in(await decide(browser, wish()))["iss"] == daemon.url
        browser.headers |= {"Host": "paw.example", "X-Forwarded-Proto": "https"}
        assert answer_in(await decide(browser, f"{daemon.url}{wish()}"))["iss"] == "https://paw.example"


@pytest.mark.parametrize(
    "changed",
    [
        {"redirect_uri": "https://evil.example/"},
        {"redirect_uri": "http://localhost:1420@evil.example/oauth-callback"},
        {"redirect_uri": "http://localhost:1420/oauth-callback/../evil"},
        {"redirect_uri": "http://localhost.evil.example/oauth-callback"},
        {"redirect_uri": "//evil.example"},
        {"redirect_uri": "javascript:alert(1)"},
        {"redirect_uri": f"{BACK}#x"},
        {"redirect_uri": f"{BACK}?x=y"},
        {"redirect_uri": "tauri://evil"},
        {"client_id": "nobody"},
        {"code_challenge_method": "plain"},
        {"code_challenge_method": "s256"},
        {"code_challenge": None},
        {"code_challenge": ""},
        {"redirect_uri": None},
        {"client_id": None},
        {"scope": "chat everything"},
        {"scope": ""},
        {"response_type": "token"},
        {"response_type": "code id_token"},
    ],
    ids=str,
)
async def test_what_is_wrong_is_said_here_and_sent_nowhere(serve: Serve, changed: dict[str, str | None]) -> None:
    async with serve() as daemon, daemon.client() as browser:
        refused = await browser.get(wish(**changed))
        assert refused.status_code == (422 if None in changed.values() or changed == {"code_challenge": ""} else 400)
        assert "location" not in refused.headers
        assert set(refused.json()) == {"detail", "code"}
        posted = await decide(browser, wish(), "allow", **changed)
        assert posted.status_code in (400, 403, 422)
        assert "location" not in posted.headers


async def test_a_decision_comes_only_from_the_page_that_was_shown(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as browser, daemon.stranger(daemon.live.access_token) as other:
        for changed in (
            {"csrf_token": None},
            {"csrf_token": ""},
            {"csrf_token": "9999999999.00"},
            {"scope": "admin"},
            {"state": "another"},
            {"code_challenge": "mine"},
            {"redirect_uri": "http://localhost:1/oauth-callback"},
        ):
            refused = await decide(browser, wish(), "allow", **changed)
            assert refused.status_code in (403, 422), changed
        form = Form((await browser.get(wish())).text)
        consent = "/api/v1/oauth/authorize/consent"
        elsewhere = await other.post(consent, data={**form.fields, "action": "allow"})
        assert elsewhere.status_code == 403
        for origin in ("https://evil.example", "null"):
            page = await browser.post(consent, data={**form.fields, "action": "allow"}, headers={"Origin": origin})
            assert page.status_code == 403
        mine = await browser.post(consent, data={**form.fields, "action": "allow"}, headers={"Origin": daemon.url})
        assert mine.status_code == 302
        await browser.post("/api/v1/token/regenerate")
        old = await browser.post(consent, data={**form.fields, "action": "allow"})
        assert old.status_code == 403


async def test_only_a_person_with_all_that_is_asked_for_gives_consent(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as browser:
        made = (await browser.post("/api/v1/auth/api-keys", json={"name": "k", "scopes": ["admin"]})).json()
        async with daemon.stranger(made["key"]) as with_key:
            assert (await with_key.get(wish())).status_code == 403
        async with daemon.stranger((await tokens(daemon, scope="admin"))["access_token"]) as program:
            assert (await program.get(wish())).status_code == 403
        async with daemon.stranger() as stranger:
            assert (await stranger.get(wish())).status_code == 401


async def test_a_code_used_again_takes_everything_back(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as browser, daemon.stranger() as program:
        code = await code_from(browser)
        given = (await redeem(program, code)).json()
        assert await status_with(daemon, given["access_token"]) == 200
        with capture_logs() as logged:
            assert is_refused(await redeem(program, code))
        assert "OAuth grant revoked for a reuse" in [entry["event"] for entry in logged]
        assert await status_with(daemon, given["access_token"]) == 401
        assert is_refused(await renew(program, given["refresh_token"]))


async def test_a_refresh_token_used_again_takes_everything_back(serve: Serve) -> None:
    async with serve() as daemon, daemon.stranger() as program:
        first = await tokens(daemon)
        second = (await renew(program, first["refresh_token"])).json()
        assert await status_with(daemon, second["access_token"]) == 200
        assert is_refused(await renew(program, first["refresh_token"]))
        for given in (first, second):
            assert await status_with(daemon, given["access_token"]) == 401
        assert is_refused(await renew(program, second["refresh_token"]))


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"code_verifier": VERIFIER + "x"}, "invalid_grant"),
        ({"code_verifier": challenge()}, "invalid_grant"),  # what a downgrade to plain would let through
        ({"client_id": "other"}, "invalid_grant"),
        ({"redirect_uri": "http://localhost:49153/oauth-callback"}, "invalid_grant"),
        ({"client_id": "nobody"}, "invalid_client"),
        ({"client_id": ""}, "invalid_request"),
        ({"code_verifier": ""}, "invalid_request"),
        ({"code_verifier": "short"}, "invalid_request"),
        ({"redirect_uri": ""}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": ""}, "invalid_request"),
    ],
    ids=str,
)
async def test_a_stolen_code_is_worth_nothing(serve: Serve, changed: dict[str, str], error: str) -> None:
    settings = {"oauth_clients": (f"{CLIENT} http://localhost/oauth-callback", OTHER_CLIENT)}
    async with serve(**settings) as daemon, daemon.client() as browser, daemon.stranger() as thief:
        code = await code_from(browser)
        assert is_refused(await redeem(thief, code, **changed), error)


async def test_a_refresh_token_is_worth_nothing_to_another_client(serve: Serve) -> None:
    settings = {"oauth_clients": (f"{CLIENT} http://localhost/oauth-callback", OTHER_CLIENT)}
    async with serve(**settings) as daemon, daemon.stranger() as program:
        given = await tokens(daemon)
        assert is_refused(await renew(program, given["refresh_token"], "other"))
        assert is_refused(await renew(program, given["access_token"]))
        assert is_refused(await renew(program, ""), "invalid_request")
        assert (await renew(program, given["refresh_token"])).status_code == 200


async def test_a_refresh_token_opens_no_door(serve: Serve) -> None:
    async with serve() as daemon:
        given = await tokens(daemon)
        assert await status_with(daemon, given["refresh_token"]) == 401


async def test_a_client_that_is_taken_out_gets_nothing_more(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as operator, daemon.stranger() as program:
        given = await tokens(daemon)
        changed = await operator.put("/api/v1/settings", json={"oauth_clients": [OTHER_CLIENT]})
        assert changed.status_code == 200, changed.text
        assert is_refused(await renew(program, given["refresh_token"]), "invalid_client")
        assert (await operator.get(wish())).status_code == 400


async def test_tokens_outlive_a_restart_of_what_judges_them(serve: Serve) -> None:
    async with serve() as daemon, daemon.stranger() as program:
        given = await tokens(daemon)
        for child in ("guard", "access"):
            await daemon.system.root.restart_child(child)
        assert await status_with(daemon, given["access_token"]) == 200
        assert (await renew(program, given["refresh_token"])).status_code == 200


async def test_an_admin_sees_who_has_access_and_takes_it_back(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as operator:
        given = await tokens(daemon)
        (listed,) = (await operator.get("/api/v1/oauth/grants")).json()
        assert set(listed) == {"id", "client_id", "scopes", "granted_by", "created_at", "expires_at"}
        assert (listed["client_id"], listed["scopes"]) == (CLIENT, ["chat", "memory"])
        assert await status_with(daemon, given["access_token"], "/api/v1/oauth/grants") == 403
        assert (await operator.delete(f"/api/v1/oauth/grants/{listed['id']}")).json() == {"ok": True}
        assert await status_with(daemon, given["access_token"]) == 401
        assert (await operator.get("/api/v1/oauth/grants")).json() == []
        assert (await operator.delete("/api/v1/oauth/grants/none")).status_code == 404


async def test_revoking_says_nothing_about_what_there_is(serve: Serve) -> None:
    async with serve() as daemon, daemon.stranger() as program:
        given = await tokens(daemon)
        for token in ("guess", given["refresh_token"], given["refresh_token"], given["access_token"]):
            revoked = await program.post("/api/v1/oauth/revoke", data={"token": token, "token_type_hint": "x"})
            assert (revoked.status_code, revoked.json()) == (200, {"ok": True})
        assert await status_with(daemon, given["access_token"]) == 401
        assert (await program.post("/api/v1/oauth/revoke", json={})).status_code == 422


async def test_access_at_other_services_is_not_built(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as browser:
        answer = await browser.get("/api/v1/oauth/authorize", params={"service": "google"})
        assert (answer.status_code, answer.json()["code"]) == (501, "not_built")


async def test_guessing_is_limited_and_counted_by_address(serve: Serve) -> None:
    async with serve(auth_rate_limit_per_peer=12) as daemon, daemon.stranger() as thief:
        guesses = [await redeem(thief, f"guess-{number}") for number in range(12)]
        assert [guess.status_code for guess in guesses] == [400] * 5 + [429] * 7
        assert int(guesses[-1].headers["retry-after"]) >= 1


async def test_no_code_and_no_token_is_in_the_log_or_the_database(serve: Serve) -> None:
    with capture_logs() as logged:
        async with serve() as daemon, daemon.client() as browser, daemon.stranger() as program:
            code = await code_from(browser)
            given = (await redeem(program, code)).json()
            home = daemon.live.home
    kept = b"".join(path.read_bytes() for path in home.root.glob("pocketpaw.db*"))
    assert b"oauth_tokens" in kept
    for secret in (code, given["access_token"], given["refresh_token"]):
        assert secret not in repr(logged)
        assert secret.encode() not in kept
    done = [entry["event"] for entry in logged if entry["event"].startswith("OAuth")]
    assert done == ["OAuth consent given", "OAuth tokens issued"]


def test_the_addresses_in_these_tests_are_on_this_machine() -> None:
    assert urlsplit(BACK).hostname == "localhost"

"""Who is let in, who is turned away and why, and how often one may ask."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import msgspec
import pytest
import trio
import trio.testing
from pocketpaw.actors.access.guard import (
    Authenticate,
    CreateSessionToken,
    GetAccessProblems,
    Guard,
    Login,
    Logout,
    Verdict,
)
from pocketpaw.actors.access.locality import is_loopback_address, is_loopback_host, is_welcome_origin, network_of
from pocketpaw.actors.access.rate_limits import KEPT, Limit, TokenBuckets
from pocketpaw.actors.access.session_tokens import SessionTokens
from pocketpaw.actors.audit.trail import RecordAct
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.runtime import Actor, ActorSystem, Child, Done, Principal, Supervisor, SupervisorNode
from pocketpaw.runtime.errors import Forbidden, Unauthenticated, Unavailable
from pocketpaw.storage.credentials import Credential, ListCredentials
from pocketpaw.storage.tokens import ListRevokedTokens, RevokedToken, RevokeToken

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
MakeLive = Callable[..., LiveSettings]

Facts = dict[str, object]

FAR: Facts = {"peer": "192.0.2.7", "forwarded": False, "host": "192.0.2.1:8888", "origin": None, "method": "GET"}
NEAR: Facts = {**FAR, "peer": "127.0.0.1", "host": "localhost:8888"}
WITH_SESSION = Principal("session", frozenset({"admin"}))


def request(facts: Facts, **more: object) -> Authenticate:
    return msgspec.convert({**facts, **more}, Authenticate)


class FakeStore(Actor):
    """Keeps revoked tokens in memory, and no other credential; a stuck one never answers, a broken one always fails."""

    def __init__(self, revoked: list[RevokedToken], state: dict[str, bool]) -> None:
        super().__init__()
        self._revoked = revoked
        self._state = state

    async def revoke(self, message: RevokeToken) -> Done:
        await self._work()
        self._revoked.append(RevokedToken(message.digest, message.expires_at))
        return Done()

    async def list(self, message: ListRevokedTokens) -> list[RevokedToken]:
        await self._work()
        return self._revoked

    async def list_credentials(self, message: ListCredentials) -> list[Credential]:
        await self._work()
        return []

    async def _work(self) -> None:
        if self._state.get("stuck"):
            await trio.sleep_forever()
        if self._state.get("broken"):
            raise Unavailable("the database cannot be used")


class House:
    """A guard with what it asks. `hurt` is how its store is."""

    def __init__(self, live: LiveSettings) -> None:
        self.live = live
        self.revoked: list[RevokedToken] = []
        self.hurt: dict[str, bool] = {}
        self.system: ActorSystem

    def tree(self) -> Supervisor:
        args = (FakeStore, self.revoked, self.hurt)
        store = Supervisor("store", [Child(*args, id="writer"), Child(*args, id="reader")])
        return Supervisor("root", [store, Child(Guard, self.live)])

    async def judge(self, facts: Facts, **more: object) -> Verdict:
        return await self.system.ask(request(facts, **more))


@pytest.fixture
def house(make_live: MakeLive, running: Running) -> Callable[..., AbstractAsyncContextManager[House]]:
    @asynccontextmanager
    async def open_house(**overrides: object) -> AsyncGenerator[House]:
        made = House(make_live(**overrides))
        async with running(made.tree()) as made.system:
            yield made

    return open_house


OpenHouse = Callable[..., AbstractAsyncContextManager[House]]


@pytest.mark.parametrize("place", ["bearer", "query_token", "subprotocols"])
async def test_the_access_token_is_accepted_wherever_it_may_stand(house: OpenHouse, place: str) -> None:
    async with house() as guarded:
        token = guarded.live.access_token
        verdict = await guarded.judge(FAR, **{place: ("chat", token) if place == "subprotocols" else token})
    assert (verdict.outcome, verdict.credential_kind, verdict.reason) == ("allowed", "master", "")
    assert verdict.principal is not None
    assert verdict.principal.may("admin")
    assert verdict.subprotocol == ("chat" if place == "subprotocols" else None)


async def test_no_credential_from_elsewhere_is_refused_with_a_sentence(house: OpenHouse) -> None:
    async with house() as guarded:
        verdict = await guarded.judge(FAR)
    assert (verdict.outcome, verdict.principal, verdict.credential_kind) == ("unauthenticated", None, "none")
    assert verdict.reason == "a credential is needed: send Authorization: Bearer and the access token"


@pytest.mark.parametrize("wrong", ["pp_something", "ppat_something", "x", "ä", "1:2", ":"])
@pytest.mark.parametrize("facts", [NEAR, FAR])
async def test_a_wrong_credential_is_refused_on_this_machine_too(house: OpenHouse, wrong: str, facts: Facts) -> None:
    async with house() as guarded:
        verdict = await guarded.judge(facts, bearer=wrong)
    assert (verdict.outcome, verdict.reason) == ("unauthenticated", "the credential is not known")


async def test_what_needs_no_credential_is_open_but_still_counted(house: OpenHouse) -> None:
    async with house() as guarded:
        verdicts = [await guarded.judge(FAR, required=False, bucket="auth") for _ in range(6)]
    assert [verdict.outcome for verdict in verdicts] == ["allowed"] * 5 + ["too_many"]
    assert verdicts[0].principal is None


async def test_a_session_token_works_until_it_is_logged_out(house: OpenHouse) -> None:
    async with house() as guarded:
        token = (await guarded.system.ask(Login(token=guarded.live.access_token))).session_token
        other = (await guarded.system.ask(CreateSessionToken())).session_token
        for place in ("bearer", "query_token", "cookie"):
            assert (await guarded.judge(FAR, **{place: token})).credential_kind == "session"
        await guarded.system.ask(Logout(credential=token))
        refused = await guarded.judge(FAR, bearer=token)
        assert (await guarded.judge(FAR, bearer=other)).outcome == "allowed"
    assert (refused.outcome, refused.reason) == (
        "unauthenticated",
        "the session has been logged out: log in again",
    )
    assert len(guarded.revoked) == 1


async def test_an_expired_session_token_is_refused_as_such(house: OpenHouse) -> None:
    async with house() as guarded:
        old = SessionTokens().make(guarded.live.access_token, 3600, time.time() - 3601)
        verdict = await guarded.judge(FAR, bearer=old)
    assert (verdict.outcome, verdict.reason) == ("unauthenticated", "the session has expired: log in again")


async def test_the_access_token_is_no_cookie(house: OpenHouse) -> None:
    async with house() as guarded:
        assert (await guarded.judge(FAR, cookie=guarded.live.access_token)).outcome == "unauthenticated"


async def test_only_the_access_token_logs_in_and_a_session_makes_no_session(house: OpenHouse) -> None:
    async with house() as guarded:
        with pytest.raises(Unauthenticated):
            await guarded.system.ask(Login(token="guess"))
        token = (await guarded.system.ask(Login(token=guarded.live.access_token))).session_token
        with pytest.raises(Unauthenticated):
            await guarded.system.ask(Login(token=token))
        with pytest.raises(Forbidden):
            await guarded.system.ask(CreateSessionToken(), principal=WITH_SESSION)


async def test_a_new_access_token_ends_every_session(house: OpenHouse) -> None:
    async with house() as guarded:
        old = guarded.live.access_token
        token = (await guarded.system.ask(CreateSessionToken())).session_token
        guarded.live.access_token = "another-access-token-of-this-home"
        assert (await guarded.judge(FAR, bearer=token)).outcome == "unauthenticated"
        assert (await guarded.judge(FAR, bearer=old)).outcome == "unauthenticated"


async def test_the_lifetime_of_a_session_is_a_setting(house: OpenHouse) -> None:
    async with house(session_token_ttl_hours=2) as guarded:
        made = await guarded.system.ask(CreateSessionToken())
    assert made.expires_in_hours == 2
    assert int(made.session_token.partition(".")[0]) == pytest.approx(time.time() + 7200, abs=5)


async def test_a_logout_outlives_the_guard(house: OpenHouse) -> None:
    async with house() as guarded:
        token = (await guarded.system.ask(CreateSessionToken())).session_token
        await guarded.system.ask(Logout(credential=token))
        await guarded.system.root.restart_child("guard")
        assert (await guarded.judge(FAR, bearer=token)).reason == "the session has been logged out: log in again"


async def test_logging_out_twice_or_with_anything_else_does_nothing(house: OpenHouse) -> None:
    async with house() as guarded:
        token = (await guarded.system.ask(CreateSessionToken())).session_token
        for credential in (token, token, None, "", guarded.live.access_token, "1.2:3"):
            await guarded.system.ask(Logout(credential=credential))
        assert (await guarded.judge(FAR, bearer=guarded.live.access_token)).outcome == "allowed"
    assert len(guarded.revoked) == 1


async def test_a_stuck_store_holds_up_no_request_and_no_logout_for_long(
    house: OpenHouse, autojump_clock: trio.testing.MockClock
) -> None:
    async with house() as guarded:
        token = (await guarded.system.ask(CreateSessionToken())).session_token
        guarded.hurt["stuck"] = True
        started = trio.current_time()
        await guarded.system.ask(Logout(credential=token))
        assert trio.current_time() - started < 0.5
        assert (await guarded.judge(FAR, bearer=token)).outcome == "unauthenticated"
        guarded.hurt.clear()
        supervisor = guarded.system.nodes["store"]
        assert isinstance(supervisor, SupervisorNode)
        for place in ("writer", "reader"):
            await supervisor.restart_child(place)
        await trio.sleep(60)
    assert len(guarded.revoked) == 1


async def test_old_sessions_are_refused_while_it_is_not_known_who_logged_out(
    house: OpenHouse, autojump_clock: trio.testing.MockClock
) -> None:
    async with house() as guarded:
        token = (await guarded.system.ask(CreateSessionToken())).session_token
        guarded.hurt["broken"] = True
        await guarded.system.root.restart_child("guard")
        (problem,) = await guarded.system.ask(GetAccessProblems())
        assert "could be read" in problem
        refused = await guarded.judge(FAR, bearer=token)
        fresh = (await guarded.system.ask(Login(token=guarded.live.access_token))).session_token
        assert (await guarded.judge(FAR, bearer=fresh)).outcome == "allowed"
        guarded.hurt.clear()
        await trio.sleep(10)
        assert await guarded.system.ask(GetAccessProblems()) == []
        assert (await guarded.judge(FAR, bearer=token)).outcome == "allowed"
        assert (await guarded.judge(FAR, bearer=fresh)).outcome == "allowed"
    assert refused.outcome == "unauthenticated"
    assert "use the access token" in refused.reason


async def test_a_logout_that_is_not_on_disk_is_told(house: OpenHouse, autojump_clock: trio.testing.MockClock) -> None:
    async with house() as guarded:
        token = (await guarded.system.ask(CreateSessionToken())).session_token
        guarded.hurt["broken"] = True
        await guarded.system.ask(Logout(credential=token))
        assert await guarded.system.ask(GetAccessProblems()) == ["logouts are not on disk yet"]
        guarded.hurt.clear()
        await trio.sleep(10)
        assert await guarded.system.ask(GetAccessProblems()) == []


class FakeTrail(Actor):
    """Keeps what it is told."""

    def __init__(self, told: list[RecordAct]) -> None:
        super().__init__()
        self._told = told

    async def record(self, message: RecordAct) -> Done:
        self._told.append(message)
        return Done()


async def test_a_wrong_credential_is_told_to_the_audit_and_an_expired_session_is_not(
    live: LiveSettings, running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    told: list[RecordAct] = []
    trail = Supervisor("audit", [Child(FakeTrail, told, id="trail")])
    made = House(live)
    async with running(Supervisor("root", [trail, *made.tree().children])) as made.system:
        token = (await made.system.ask(CreateSessionToken())).session_token
        await made.system.ask(Logout(credential=token))
        for bearer in ("pp_a-guess", token, live.access_token):
            await made.judge(FAR, bearer=bearer)
        await trio.sleep(1)
    (act,) = told
    assert (act.action, act.status, act.context) == ("use_credential", "refused", {"peer": "192.0.2.7"})


async def test_the_guard_starts_although_the_store_never_answers(
    house: OpenHouse, autojump_clock: trio.testing.MockClock
) -> None:
    async with house() as guarded:
        guarded.hurt["stuck"] = True
        started = trio.current_time()
        await guarded.system.root.restart_child("guard")
        assert trio.current_time() - started < 3
        assert (await guarded.judge(NEAR)).outcome == "allowed"


async def test_a_logout_is_on_the_real_disk(live: LiveSettings, store: Supervisor, running: Running) -> None:
    async with running(Supervisor("root", [store, Child(Guard, live)])) as system:
        token = (await system.ask(CreateSessionToken())).session_token
        await system.ask(Logout(credential=token))
        stored = await system.ask(ListRevokedTokens())
        await system.root.restart_child("guard")
        verdict = await system.ask(request(FAR, bearer=token))
    assert len(stored) == 1
    assert token not in repr(stored)
    assert verdict.outcome == "unauthenticated"


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "127.1.2.3", "::ffff:127.0.0.1"])
@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:8888", "[::1]:8888", "LocalHost:1", "a.localhost", "localhost."]
)
@pytest.mark.parametrize("origin", [None, "http://localhost:3000", "http://127.0.0.1:8888", "https://[::1]"])
async def test_programs_on_this_machine_need_no_credential(
    house: OpenHouse, peer: str, host: str, origin: str | None
) -> None:
    async with house() as guarded:
        verdict = await guarded.judge(NEAR, peer=peer, host=host, origin=origin, method="POST")
    assert (verdict.outcome, verdict.credential_kind) == ("allowed", "localhost")


@pytest.mark.parametrize(
    ("facts", "settings", "why"),
    [
        ({"forwarded": True}, {}, "a proxy has forwarded the request"),
        ({"host": "evil.example"}, {}, "its Host is no name of this machine"),
        ({"host": "127.0.0.1.evil.example"}, {}, "its Host is no name of this machine"),
        ({"host": "localhost@evil.example"}, {}, "its Host is no name of this machine"),
        ({"host": "localhost:evil"}, {}, "its Host is no name of this machine"),
        ({"host": ""}, {}, "its Host is no name of this machine"),
        ({"host": "0.0.0.0:8888"}, {}, "its Host is no name of this machine"),
        ({"origin": "https://evil.example"}, {}, "it comes from a web page elsewhere"),
        ({"origin": "null"}, {}, "it comes from a web page elsewhere"),
        ({"origin": "http://localhost.evil.example"}, {}, "it comes from a web page elsewhere"),
        ({"origin": "http://evil.example:8888", "host": "evil.example:8888"}, {}, "its Host is no name"),
        ({}, {"localhost_auth_bypass": False}, "the localhost bypass is switched off"),
        ({}, {"web_host": "0.0.0.0"}, "the daemon does not listen on this machine only"),
        ({"peer": None}, {}, "a credential is needed"),
        ({"peer": "192.0.2.7"}, {}, "a credential is needed"),
    ],
)
async def test_anything_that_makes_the_address_doubtful_ends_the_bypass(
    house: OpenHouse, facts: Facts, settings: Facts, why: str
) -> None:
    async with house(**settings) as guarded:
        verdict = await guarded.judge(NEAR, **facts)
        with_token = await guarded.judge(NEAR, bearer=guarded.live.access_token, **facts)
    assert verdict.outcome == "unauthenticated"
    assert why in verdict.reason
    assert with_token.outcome == "allowed"


async def test_a_tunnel_ends_the_bypass_and_the_bypass_comes_back_after_it(house: OpenHouse) -> None:
    async with house() as guarded:
        guarded.live.is_tunnelled = True
        assert "tunnel" in (await guarded.judge(NEAR)).reason
        guarded.live.is_tunnelled = False
        assert (await guarded.judge(NEAR)).outcome == "allowed"


async def test_the_bypass_can_be_switched_off_without_a_restart(house: OpenHouse, make_live: MakeLive) -> None:
    async with house() as guarded:
        assert (await guarded.judge(NEAR)).outcome == "allowed"
        guarded.live.replace(make_live(localhost_auth_bypass=False).loaded)
        assert (await guarded.judge(NEAR)).outcome == "unauthenticated"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "file://", "http://localhost.evil.example:8888"])
@pytest.mark.parametrize("facts", [{"is_upgrade": True}, {"method": "POST"}, {"method": "DELETE"}])
@pytest.mark.parametrize("credential", ["bearer", "cookie", None])
async def test_a_foreign_page_opens_no_socket_and_changes_nothing_whatever_it_brings(
    house: OpenHouse, origin: str, facts: Facts, credential: str | None
) -> None:
    async with house() as guarded:
        token = (await guarded.system.ask(CreateSessionToken())).session_token
        brought = {credential: token} if credential else {}
        verdict = await guarded.judge(NEAR, origin=origin, **facts, **brought)
    assert verdict.outcome == "forbidden"
    assert "api_cors_allowed_origins" in verdict.reason


async def test_a_foreign_page_cannot_read_with_the_cookie_of_its_visitor(house: OpenHouse) -> None:
    async with house() as guarded:
        token = (await guarded.system.ask(CreateSessionToken())).session_token
        assert (await guarded.judge(FAR, origin="https://evil.example", cookie=token)).outcome == "unauthenticated"
        assert (await guarded.judge(FAR, cookie=token)).outcome == "allowed"


async def test_an_allowed_page_may_do_what_its_credential_may(house: OpenHouse) -> None:
    async with house(api_cors_allowed_origins="https://paw.example") as guarded:
        token = (await guarded.system.ask(CreateSessionToken())).session_token
        verdict = await guarded.judge(FAR, origin="https://paw.example", method="POST", cookie=token)
        upgrade = await guarded.judge(NEAR, origin="https://paw.example", is_upgrade=True)
    assert (verdict.outcome, upgrade.outcome) == ("allowed", "allowed")


async def test_a_page_of_the_daemon_itself_is_at_home_under_any_name_it_has_a_credential_for(house: OpenHouse) -> None:
    mine = {"host": "192.0.2.1:8888", "origin": "http://192.0.2.1:8888", "method": "POST"}
    async with house() as guarded:
        token = (await guarded.system.ask(CreateSessionToken())).session_token
        assert (await guarded.judge(FAR, **mine, cookie=token)).outcome == "allowed"
        assert (await guarded.judge(FAR, **mine)).outcome == "unauthenticated"


async def test_a_rebound_name_opens_no_socket(house: OpenHouse) -> None:
    rebound = {"host": "evil.example:8888", "origin": "http://evil.example:8888", "is_upgrade": True}
    async with house() as guarded:
        assert (await guarded.judge(NEAR, **rebound)).outcome == "forbidden"
        assert (await guarded.judge(NEAR, **{**rebound, "origin": None})).outcome == "forbidden"


async def test_a_socket_without_origin_needs_only_its_credential(house: OpenHouse) -> None:
    async with house() as guarded:
        token = guarded.live.access_token
        assert (await guarded.judge(FAR, is_upgrade=True, bearer=token, bucket="ws")).outcome == "allowed"
        assert (await guarded.judge(FAR, is_upgrade=True, bucket="ws")).outcome == "unauthenticated"


async def test_sixty_requests_at_once_then_ten_a_second(
    house: OpenHouse, autojump_clock: trio.testing.MockClock
) -> None:
    async with house() as guarded:
        first = [await guarded.judge(NEAR) for _ in range(61)]
        await trio.sleep(1.0)
        later = [await guarded.judge(NEAR) for _ in range(11)]
    assert [verdict.outcome for verdict in first] == ["allowed"] * 60 + ["too_many"]
    assert (first[0].limit, first[0].remaining, first[59].remaining) == (60, 59, 0)
    assert (first[60].retry_after_s, first[60].reset_s) == (1, 6)
    assert first[60].principal is None
    assert [verdict.outcome for verdict in later] == ["allowed"] * 10 + ["too_many"]


async def test_each_credential_has_a_limit_of_its_own_wherever_it_is_used(house: OpenHouse) -> None:
    async with house(api_rate_limit_per_key=20) as guarded:
        token = guarded.live.access_token
        session = (await guarded.system.ask(CreateSessionToken())).session_token
        assert [(await guarded.judge(FAR, bearer=token)).outcome for _ in range(3)][-1] == "too_many"
        assert (await guarded.judge(FAR, peer="192.0.2.99", bearer=token)).outcome == "too_many"
        assert (await guarded.judge(FAR, bearer=session)).outcome == "allowed"


async def test_limits_are_settings_and_zero_is_none(house: OpenHouse) -> None:
    async with house(api_rate_limit_per_key=0, ws_rate_limit_per_peer=0, auth_rate_limit_per_peer=0) as guarded:
        for bucket in ("api", "ws", "auth"):
            verdicts = [await guarded.judge(NEAR, bucket=bucket) for _ in range(300)]
            assert {verdict.outcome for verdict in verdicts} == {"allowed"}
            assert {verdict.limit for verdict in verdicts} == {0}


@pytest.mark.parametrize(("bucket", "burst"), [("api", 60), ("auth", 5), ("ws", 10)])
async def test_each_kind_of_request_has_its_own_limit(house: OpenHouse, bucket: str, burst: int) -> None:
    async with house() as guarded:
        outcomes = [(await guarded.judge(NEAR, bucket=bucket)).outcome for _ in range(burst + 1)]
    assert outcomes == ["allowed"] * burst + ["too_many"]


async def test_logging_in_is_counted_by_address_whatever_else_is_known_of_who_asks(house: OpenHouse) -> None:
    async with house() as guarded:
        token = guarded.live.access_token
        outcomes = [(await guarded.judge(FAR, bucket="auth", bearer=token)).outcome for _ in range(6)]
        assert (await guarded.judge(FAR, peer="192.0.2.8", bucket="auth", bearer=token)).outcome == "allowed"
    assert outcomes == ["allowed"] * 5 + ["too_many"]


async def test_guessing_is_stopped_while_those_who_were_in_stay_in(
    house: OpenHouse, autojump_clock: trio.testing.MockClock
) -> None:
    async with house() as guarded:
        session = (await guarded.system.ask(CreateSessionToken())).session_token
        assert (await guarded.judge(FAR, bearer=session)).outcome == "allowed"
        guesses = [await guarded.judge(FAR, bearer=f"guess {number}") for number in range(20)]
        lucky = await guarded.judge(FAR, bearer=guarded.live.access_token)
        assert (await guarded.judge(FAR, bearer=session)).outcome == "allowed"
        elsewhere = await guarded.judge(FAR, peer="192.0.2.8", bearer=guarded.live.access_token)
        await trio.sleep(5)
        later = await guarded.judge(FAR, bearer=guarded.live.access_token)
    assert [guess.outcome for guess in guesses] == ["unauthenticated"] * 5 + ["too_many"] * 15
    assert (lucky.outcome, lucky.principal, lucky.retry_after_s) == ("too_many", None, 5)
    assert (elsewhere.outcome, later.outcome) == ("allowed", "allowed")


async def test_one_request_is_not_many_guesses(house: OpenHouse) -> None:
    async with house() as guarded:
        many = (*(f"guess {number}" for number in range(1000)), guarded.live.access_token)
        assert (await guarded.judge(FAR, is_upgrade=True, subprotocols=many)).outcome == "unauthenticated"


async def test_an_expired_session_is_no_guess(house: OpenHouse) -> None:
    async with house() as guarded:
        old = SessionTokens().make(guarded.live.access_token, 3600, time.time() - 3601)
        outcomes = {(await guarded.judge(FAR, bearer=old)).outcome for _ in range(20)}
    assert outcomes == {"unauthenticated"}


def test_buckets_hold_no_more_keys_than_they_may_and_forget_the_longest_unseen() -> None:
    buckets, limit = TokenBuckets(), Limit(1, 0.001)
    assert buckets.take("busy", limit, 0.0).is_allowed
    for number in range(3 * KEPT):
        buckets.take(f"key {number}", limit, float(number))
        if number % 100 == 0:
            assert not buckets.take("busy", limit, 0.0).is_allowed
    assert len(buckets._spent) == KEPT  # pyright: ignore[reportPrivateUsage] its memory shows nowhere else


def test_a_refused_request_costs_nothing_and_the_wait_is_true() -> None:
    buckets, limit = TokenBuckets(), Limit(2, 0.5)
    assert [buckets.take("k", limit, 0.0).is_allowed for _ in range(4)] == [True, True, False, False]
    count = buckets.take("k", limit, 1.0)
    assert (count.is_allowed, count.retry_after_s) == (False, 1)
    assert buckets.retry_after_s("k", limit, 1.0) == 1
    assert buckets.take("k", limit, 2.0).is_allowed


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:0db8:0001:0002"),
        ("2001:db8:1:2::9", "2001:0db8:0001:0002"),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.7"),
        ("unknown", "unknown"),
    ],
)
def test_one_machine_counts_as_one_peer(peer: str, network: str) -> None:
    assert network_of(peer) == network


def test_names_that_only_look_like_this_machine_are_not() -> None:
    for host in (
        "localhost.evil.example",
        "evil.example",
        "127.0.0.1.nip.io",
        "[::2]",
        "a b",
        "localhost/x",
        "[",
        "10.0.0.1",
    ):
        assert not is_loopback_host(host), host
    assert not is_welcome_origin("http://localhost/path", "h", ())
    assert not is_loopback_address("localhost.evil.example")

from __future__ import annotations

from pocketpaw.actors.access.login_codes import LIFETIME_S, MOST, LoginCodes

TOKEN = "the access token"


def test_a_code_works_once() -> None:
    codes = LoginCodes()
    code = codes.make(TOKEN, 5000.0, 0.0)
    assert codes.redeem(code, TOKEN, LIFETIME_S - 1) == 5000.0
    assert codes.redeem(code, TOKEN, LIFETIME_S - 1) is None


def test_a_code_ends_after_a_minute_and_with_the_access_token() -> None:
    codes = LoginCodes()
    assert codes.redeem(codes.make(TOKEN, 5000.0, 0.0), TOKEN, LIFETIME_S) is None
    assert codes.redeem(codes.make(TOKEN, 5000.0, 0.0), "a new access token", 1.0) is None
    assert codes.redeem("guess", TOKEN, 1.0) is None


def test_only_so_many_codes_wait() -> None:
    codes = LoginCodes()
    made = [codes.make(TOKEN, 5000.0, 0.0) for _ in range(MOST + 1)]
    assert codes.redeem(made[0], TOKEN, 1.0) is None
    assert codes.redeem(made[1], TOKEN, 1.0) == 5000.0

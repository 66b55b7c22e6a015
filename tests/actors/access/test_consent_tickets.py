from __future__ import annotations

import pytest
from pocketpaw.actors.access.consent_tickets import LIFETIME_S, is_valid, make

SHOWN = ["session", "app", None, "chat"]


def test_a_ticket_is_good_for_what_was_shown_and_not_for_long() -> None:
    ticket = make("access token", SHOWN, 1000.0)
    assert is_valid("access token", ticket, SHOWN, 1000.0 + LIFETIME_S - 1)
    assert not is_valid("access token", ticket, SHOWN, 1000.0 + LIFETIME_S)
    assert not is_valid("another access token", ticket, SHOWN, 1000.0)
    assert not is_valid("access token", ticket, ["session", "app", "", "chat"], 1000.0)
    assert not is_valid("access token", ticket, ["session", "app", "chat", None], 1000.0)


@pytest.mark.parametrize("forged", ["", ".", "9999999999.", "9999999999.00", "x.y", "é"])
def test_what_was_not_made_here_is_no_ticket(forged: str) -> None:
    assert not is_valid("access token", forged, SHOWN, 0.0)
    genuine = make("access token", SHOWN, 0.0)
    assert not is_valid("access token", f"9{genuine}", SHOWN, 0.0)

"""Who has the secret: every way to show it, and every way to get it wrong."""

from __future__ import annotations

import hashlib
import hmac

import msgspec
import pytest
from pocketpaw.actors.webhooks.proof import Proof

SECRET = "a-secret-nobody-guesses"
BODY = b'{"who": "ann"}'
NOW = 1_800_000_000.0


def sign(signed: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


STAMPED = Proof(timestamp="1800000000", signature=sign(b"1800000000." + BODY))
NAMED = Proof(timestamp="1800000000", webhook_id="d-1", signature=sign(b"d-1.1800000000." + BODY))


@pytest.mark.parametrize(
    "proof",
    [
        Proof(secret=SECRET),
        Proof(signature=sign(BODY)),
        Proof(signature=f"sha256={sign(BODY)}"),
        Proof(signature=sign(BODY).upper()),
        Proof(hub_signature=f"sha256={sign(BODY)}"),
        Proof(secret=SECRET, signature=sign(BODY), hub_signature=sign(BODY)),
        Proof(webhook_id="d-1", signature=sign(BODY)),
        Proof(timestamp="1800000000", hub_signature=sign(BODY)),
        STAMPED,
        NAMED,
    ],
    ids=str,
)
def test_whoever_has_the_secret_can_show_it(proof: Proof) -> None:
    assert proof.is_made_with(SECRET, BODY)


@pytest.mark.parametrize(
    "proof",
    [
        Proof(),
        Proof(delivery_id="d-1", timestamp="1800000000"),
        Proof(secret=""),
        Proof(secret=SECRET[:-1]),
        Proof(secret=f"{SECRET} "),
        Proof(secret="\xff\udcff"),
        Proof(signature=""),
        Proof(signature="sha256="),
        Proof(signature=sign(BODY + b" ")),
        Proof(signature=sign(BODY, "another")),
        Proof(signature=sign(BODY)[:-1]),
        Proof(signature=f"sha1={sign(BODY)}"),
        Proof(signature=SECRET),
        Proof(secret=SECRET, signature=sign(b"other")),
        Proof(secret="wrong", signature=sign(BODY)),
        Proof(signature=sign(BODY), hub_signature=sign(b"other")),
        msgspec.structs.replace(STAMPED, timestamp="1800000001"),
        msgspec.structs.replace(STAMPED, timestamp=None),
        msgspec.structs.replace(STAMPED, webhook_id="d-1"),
        msgspec.structs.replace(NAMED, webhook_id="d-2"),
        msgspec.structs.replace(NAMED, webhook_id=None),
        Proof(timestamp="1800000000", signature=sign(BODY)),
    ],
    ids=str,
)
def test_nothing_else_will_do(proof: Proof) -> None:
    assert not proof.is_made_with(SECRET, BODY)


@pytest.mark.parametrize(
    ("timestamp", "is_timely"),
    [
        (None, True),
        ("1800000000", True),
        ("1799999700", True),
        ("1800000300", True),
        ("1799999699", False),
        ("1800000301", False),
        ("0", False),
        ("", False),
        ("-1800000000", False),
        ("1800000000.5", False),
        ("2027-01-15T08:00:00Z", False),
        ("\u0661\u0668\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660", False),
        ("9" * 10_000, False),
    ],
)
def test_the_time_has_to_be_near(timestamp: str | None, is_timely: bool) -> None:
    assert Proof(timestamp=timestamp).is_timely(NOW) is is_timely


def test_a_delivery_is_known_by_what_is_signed_if_a_time_is_and_else_by_its_id() -> None:
    assert Proof(secret=SECRET).key() is None
    assert Proof(secret=SECRET, delivery_id="d-1").key() == Proof(delivery_id="d-1").key() == NAMED_KEY
    assert Proof(webhook_id="d-1", delivery_id="d-2").key() == NAMED_KEY
    assert NAMED.key() == msgspec.structs.replace(NAMED, delivery_id="d-9").key() == NAMED_KEY
    disguised = [
        msgspec.structs.replace(STAMPED, delivery_id="d-9"),
        msgspec.structs.replace(STAMPED, signature=f"sha256={sign(b'1800000000.' + BODY).upper()}"),
    ]
    assert {proof.key() for proof in disguised} == {STAMPED.key()}
    assert STAMPED.key() not in (None, NAMED_KEY)


NAMED_KEY = hashlib.sha256(b"d-1").hexdigest()

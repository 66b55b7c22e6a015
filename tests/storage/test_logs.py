"""The error log, the log of supervision, the usage and the revoked tokens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pocketpaw.storage import error_log, supervision_log
from pocketpaw.storage.error_log import ClearErrors, ListErrors, RecordError
from pocketpaw.storage.sessions import DeleteSession
from pocketpaw.storage.soundness import CheckStorage
from pocketpaw.storage.supervision_log import ListSupervisionEvents, RecordSupervisionEvents, SupervisionEvent
from pocketpaw.storage.tables import utc_now
from pocketpaw.storage.tokens import ListRevokedTokens, RevokeToken
from pocketpaw.storage.turns import FinishTurn
from pocketpaw.storage.usage import GetUsage, Usage

from .conftest import Ask
from .test_turns import question


def test_errors_are_listed_newest_first_and_paged(write: Ask, read: Ask) -> None:
    recorded = [
        write(RecordError(source="models/router", message=f"failed {number}", context={"status": 500}))
        for number in range(3)
    ]
    assert read(ListErrors()) == recorded[::-1]
    assert read(ListErrors(limit=1, offset=1)) == [recorded[1]]


@pytest.mark.parametrize(("search", "count"), [("ROUTER", 1), ("100%", 1), ("%", 1), ("_", 0), ("\0", 0), ("", 2)])
def test_errors_are_searched_by_source_and_message(write: Ask, read: Ask, search: str, count: int) -> None:
    write(RecordError(source="models/router", message="disk at 100%", severity="critical", traceback="Trace"))
    write(RecordError(source="store", message="slow", timestamp=datetime(2026, 1, 2, tzinfo=UTC)))
    assert len(read(ListErrors(search=search))) == count


def test_cleared_errors_are_gone_and_their_ids_are_not_given_again(write: Ask, read: Ask) -> None:
    first = write(RecordError(source="x", message="y"))
    write(ClearErrors())
    assert read(ListErrors()) == []
    assert write(RecordError(source="x", message="y")).id != first.id


def test_the_logs_keep_only_the_newest(write: Ask, read: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_log, "KEPT", 3)
    monkeypatch.setattr(supervision_log, "KEPT", 3)
    for number in range(5):
        write(RecordError(source="x", message=str(number)))
    happened = [
        SupervisionEvent(timestamp=utc_now(), path=f"channels/{number}", event="restarted", incarnation=number)
        for number in range(5)
    ]
    write(RecordSupervisionEvents(events=happened))
    write(RecordSupervisionEvents(events=[]))
    assert [error.message for error in read(ListErrors())] == ["4", "3", "2"]
    assert read(ListSupervisionEvents()) == happened[:1:-1]
    assert read(ListSupervisionEvents(path="channels/3")) == [happened[3]]


def test_usage_is_summed_by_model_and_backend_and_outlives_its_session(write: Ask, read: Ask) -> None:
    for number, (model, cost) in enumerate([("small", 0.0), ("large", 0.25), ("large", None)]):
        write(question(f"t-{number}"))
        spent = Usage(10, 5, 15, model, "openai_compatible", cost)
        write(FinishTurn(turn_id=f"t-{number}", boot_id="boot-1", state="done", content="x", usage=[spent]))
    write(DeleteSession(session_id="s-1"))
    total = read(GetUsage())
    assert (total.requests, total.total_tokens, total.cost_usd) == (3, 45, 0.25)
    assert total.by_model["large"].requests == 2
    assert total.by_model["small"].input_tokens == 10
    assert total.by_backend["openai_compatible"].output_tokens == 15
    assert read(GetUsage(since=utc_now() + timedelta(minutes=1))).requests == 0
    assert read(GetUsage(since=utc_now() - timedelta(minutes=1))).requests == 3


def test_no_usage_is_zero(read: Ask) -> None:
    assert read(GetUsage()).total_tokens == 0


def test_revoked_tokens_are_listed_until_they_expire(write: Ask, read: Ask) -> None:
    later = utc_now() + timedelta(hours=1)
    write(RevokeToken(digest="old", expires_at=utc_now() - timedelta(seconds=1)))
    for _ in range(2):
        write(RevokeToken(digest="new", expires_at=later))
    (revoked,) = read(ListRevokedTokens())
    assert (revoked.digest, revoked.expires_at) == ("new", later)


def test_a_sound_database_has_no_problem(read: Ask) -> None:
    report = read(CheckStorage(thoroughly=True))
    assert report.problem is None
    assert report.size_bytes > 0

"""The audit of the real daemon: what was answered is in it after a power cut, and what somebody did to it is named."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest

from .conftest import MakeDaemon
from .daemon import Daemon
from .faults import wait_until

Json = dict[str, Any]


def act(http: httpx2.Client, name: str) -> None:
    http.post("/api/v1/webhooks/add", json={"name": name}).raise_for_status()


def entries(http: httpx2.Client) -> list[Json]:
    return cast("list[Json]", http.get("/api/v1/audit").raise_for_status().json())


def verdict(http: httpx2.Client) -> Json:
    """What the security audit says of the audit."""
    report = http.post("/api/v1/security-audit").raise_for_status().json()
    (found,) = [result for result in report["results"] if result["check"] == "Audit"]
    return cast("Json", found)


def tamper(path: Path, statement: str) -> None:
    """Change the file while the daemon has it open, as somebody would who can write to it."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for trigger in ("audit_is_not_changed", "audit_is_not_deleted"):
            connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        connection.execute(statement)


def started(make_daemon: MakeDaemon) -> Daemon:
    daemon = make_daemon()
    daemon.start()
    return daemon


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE audit SET actor = 'nobody' WHERE id = 3", "entry 3 was changed"),
        ("DELETE FROM audit WHERE id = 3", "entry 3 is gone"),
    ],
)
def test_a_row_that_somebody_changed_is_found_and_named(make_daemon: MakeDaemon, statement: str, named: str) -> None:
    daemon = started(make_daemon)
    with daemon.http as http:
        for number in range(5):
            act(http, f"door-{number}")
        assert verdict(http)["passed"]
        tamper(daemon.home.database, statement)
        found = verdict(http)
        assert (found["passed"], found["fixable"]) == (False, False)
        assert named in found["message"]
        health = http.post("/api/v1/health/check").json()
        (issue,) = [issue for issue in health["issues"] if issue["check_id"].startswith("audit:")]
        assert issue["status"] == "critical"
        assert named in issue["message"]

        archived = http.delete("/api/v1/audit").json()
        assert verdict(http)["passed"], "the chain begins anew; what was found stays in its file"
        assert b"door-4" in Path(archived["file"]).read_bytes()


def test_what_was_answered_is_there_after_a_power_cut_and_an_end_cut_off_is_found(make_daemon: MakeDaemon) -> None:
    daemon = started(make_daemon)
    head = daemon.home.root / "audit.head"
    with daemon.http as http:
        for number in range(10):
            act(http, f"door-{number}")
    daemon.kill()
    daemon.start()
    with daemon.http as http:
        names = [entry["context"]["name"] for entry in entries(http) if entry["action"] == "add_webhook"]
        assert names == [f"door-{number}" for number in reversed(range(10))]
        assert verdict(http)["passed"]
        newest = int(entries(http)[0]["id"])
        wait_until(lambda: f'"id":{newest}' in head.read_text())
    daemon.kill()
    tamper(daemon.home.database, f"DELETE FROM audit WHERE id > {newest - 3}")
    daemon.start()
    with daemon.http as http:
        found = verdict(http)
        assert not found["passed"]
        assert f"entries {newest - 2} to {newest} are gone" in found["message"]

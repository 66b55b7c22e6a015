"""schemathesis over the whole served OpenAPI document: with the token, without any, and one request after the other."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..contract.world import world_in
from .daemon import Daemon

CONFIG = """
[generation]
database = "none"

# A link that has nothing to give leaves out a field that cannot be left out.
[phases.stateful]
checks.positive_data_acceptance.enabled = false

# A session may be called `search`, so DELETE is allowed there; the document has it at /sessions/{session_id}.
[checks]
allow_header_conformance.enabled = false

# It has no end; what it sends first is looked at below.
[[operations]]
include-path = ["/api/v1/events/stream", "/api/v1/agent/status/stream"]
enabled = false

# It would restart the listener, and the model, in the midst of other requests.
[[operations]]
include-path = "/api/v1/runtime/actors/{path}/restart"
enabled = false

# It would end the credential that all other requests come with.
[[operations]]
include-path = "/api/v1/token/regenerate"
enabled = false

# Which clients there are, which codes and tokens, and which times are in the future, the document cannot say.
[[operations]]
include-path = [
    "/api/v1/oauth/authorize", "/api/v1/oauth/authorize/consent", "/api/v1/oauth/token", "/api/v1/auth/qr",
    "/api/v1/auth/api-keys",
]
checks.positive_data_acceptance.enabled = false

# schemathesis takes the schema of an event stream, a text here, for that of one parsed event. And of a request that has
# Last-Event-ID the document cannot say that it resumes: then session_id is required.
[[operations]]
include-path = "/api/v1/chat/stream"
checks.response_schema_conformance.enabled = false
checks.positive_data_acceptance.enabled = false

# As above, its answer may be an event stream; and the SDK takes a message with an odd id for a notification.
[[operations]]
include-path = "/mcp"
checks.response_schema_conformance.enabled = false
checks.negative_data_rejection.enabled = false

# Which backends there are, what sources, and what an MCP server needs over its transport, the document cannot say.
[[operations]]
include-path = ["/api/v1/memory/settings", "/api/v1/skills/install", "/api/v1/mcp/add", "/api/v1/mcp/test"]
checks.positive_data_acceptance.enabled = false

# Nor what is a cron line, and which words name a time.
[[operations]]
include-path = ["/api/v1/reminders", "/api/v1/intentions", "/api/v1/intentions/{intention_id}"]
checks.positive_data_acceptance.enabled = false

# Neither can it say which files there are, and what a path may be.
[[operations]]
include-path-regex = "/api/v1/files/.*"
checks.positive_data_acceptance.enabled = false

# Nor which days a month has.
[[operations]]
include-path = ["/api/v1/audit", "/api/v1/self-audit/reports/{date}"]
checks.positive_data_acceptance.enabled = false

# Which channels there are, what each can be set to, and which are set up.
[[operations]]
include-path = ["/api/v1/channels/save", "/api/v1/channels/toggle", "/api/v1/channels/pairings"]
checks.positive_data_acceptance.enabled = false

# A time may be told in seconds since 1970, too.
[[operations]]
include-path = "/api/v1/metrics/usage"
checks.negative_data_rejection.enabled = false

# For JSON Schema 7.0 is an integer too; for the decoder it is none.
[[operations]]
include-path = "/api/v1/webhooks/add"
checks.positive_data_acceptance.enabled = false

# What YAML makes a kit, and what each kit lets its user set, the document cannot say.
[[operations]]
include-path-regex = "/api/v1/kits/.*(install|activate)"
checks.positive_data_acceptance.enabled = false

# Nor which folder is a home of PocketPaw.
[[operations]]
include-path = "/api/v1/import"
checks.positive_data_acceptance.enabled = false

# Fields of other endpoints are ignored where they are unknown; an unknown setting is refused.
[[operations]]
include-path = "/api/v1/settings"
phases.coverage.enabled = false
checks.positive_data_acceptance.enabled = false
"""


SHORT = f"""{CONFIG}
# They are a fifth of the cases; for long they are tried.
[phases.coverage]
unexpected-methods = []
"""

pytestmark = pytest.mark.timeout(600)  # hundreds of requests take their time where others use the machine


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with world_in(tmp_path_factory.mktemp("fuzzed")) as world:
        yield world.daemon


def fuzz(daemon: Daemon, folder: Path, *options: str, config: str = CONFIG) -> str:
    """Run schemathesis; returns its summary. It has to find nothing."""
    file = folder / "schemathesis.toml"
    file.write_text(config)
    program = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(file)]
    what = ["run", f"{daemon.url}/api/v1/openapi.json", "--url", daemon.url, "--seed", "1", "--no-color"]
    how = ["--request-timeout", "20", "--continue-on-failure"]
    done = subprocess.run([*program, *what, *how, *options], capture_output=True, text=True, check=False, cwd=folder)
    found = done.stdout.partition("FAILURES")[2] or done.stdout
    assert done.returncode == 0, found + done.stderr
    return done.stdout.rpartition("SUMMARY")[2]


def cases(summary: str) -> int:
    found = re.search(r"(\d+) generated", summary)
    return int(found[1]) if found else 0


def with_token(daemon: Daemon) -> list[str]:
    return ["--header", f"Authorization: Bearer {daemon.token}"]


def check_nothing_failed_inside(daemon: Daemon) -> None:
    """No request failed that should not, and no actor crashed."""
    with daemon.http as http:
        http.headers["Authorization"] = f"Bearer {daemon.token}"
        errors: list[dict[str, Any]] = http.get("/api/v1/health/errors", params={"limit": 500}).json()
        tree = http.get("/api/v1/runtime/tree").text
    assert [error for error in errors if error["source"] == "http"] == []
    assert '"crashed"' not in tree
    assert daemon.is_running


BUILT = ["--exclude-by", "/x-not-built == true"]


def test_with_the_token_every_endpoint_does_as_the_document_says(daemon: Daemon, tmp_path: Path) -> None:
    how = ["--max-examples", "3", "--phases", "coverage,fuzzing"]
    summary = fuzz(daemon, tmp_path, *BUILT, *with_token(daemon), *how, config=SHORT)
    print(f"\n{cases(summary)} cases")
    assert cases(summary) > 800
    check_nothing_failed_inside(daemon)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_with_the_token_every_endpoint_does_as_the_document_says_for_long(daemon: Daemon, tmp_path: Path) -> None:
    summary = fuzz(daemon, tmp_path, *BUILT, *with_token(daemon), "--max-examples", "200")
    print(f"\n{cases(summary)} cases")
    check_nothing_failed_inside(daemon)


FOR_LONG = pytest.param(["--max-time", "900"], marks=[pytest.mark.soak, pytest.mark.timeout(1800)], id="for long")


@pytest.mark.parametrize("limit", [pytest.param(["--max-examples", "30"], id="shortly"), FOR_LONG])
def test_with_what_one_endpoint_answers_the_others_do_as_the_document_says(
    daemon: Daemon, tmp_path: Path, limit: list[str]
) -> None:
    """What was made is read, changed, deleted, and gone then: the links are inferred. The others send what is wrong."""
    how = ["--phases", "stateful", "--mode", "positive", *limit]
    summary = fuzz(daemon, tmp_path, *BUILT, *with_token(daemon), *how)
    print(f"\n{cases(summary)} cases")
    assert cases(summary) > 50
    check_nothing_failed_inside(daemon)


def test_without_a_credential_every_endpoint_says_so_whatever_it_is_sent(daemon: Daemon, tmp_path: Path) -> None:
    summary = fuzz(daemon, tmp_path, *BUILT, "--max-examples", "1", "--phases", "fuzzing")
    print(f"\n{cases(summary)} cases")
    check_nothing_failed_inside(daemon)


@pytest.mark.parametrize(("path", "first"), [("events/stream", "connected"), ("agent/status/stream", "status")])
def test_a_stream_without_end_begins_at_once(daemon: Daemon, path: str, first: str) -> None:
    with daemon.http as http:
        http.headers["Authorization"] = f"Bearer {daemon.token}"
        with http.stream("GET", f"/api/v1/{path}") as response:
            assert response.status_code == 200
            assert response.headers["Content-Type"].startswith("text/event-stream")
            lines = response.iter_lines()
            assert next(lines) == f"event: {first}"

"""schemathesis over the whole served OpenAPI document: with the token, without any, and what is not built yet."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .daemon import Daemon, with_model_server
from .model_server_process import ModelServerProcess

SETTINGS = {
    "api_rate_limit_per_key": "0",
    "auth_rate_limit_per_peer": "0",
    "localhost_auth_bypass": "false",
    "skills_git_base": "http://127.0.0.1:9",  # so that no skill is asked for outside of this machine
}

CONFIG = """
[generation]
database = "none"

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

# A time may be told in seconds since 1970, too.
[[operations]]
include-path = "/api/v1/metrics/usage"
checks.negative_data_rejection.enabled = false

# For JSON Schema 7.0 is an integer too; for the decoder it is none.
[[operations]]
include-path = "/api/v1/webhooks/add"
checks.positive_data_acceptance.enabled = false

# Fields of other endpoints are ignored where they are unknown; an unknown setting is refused.
[[operations]]
include-path = "/api/v1/settings"
phases.coverage.enabled = false
checks.positive_data_acceptance.enabled = false
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    model = ModelServerProcess()
    settings = {**with_model_server(model.base_url), **SETTINGS}
    started = Daemon(tmp_path_factory.mktemp("fuzzed"), settings=settings)
    started.start()
    try:
        yield started
    finally:
        started.close()
        model.close()


def fuzz(daemon: Daemon, folder: Path, *options: str) -> str:
    """Run schemathesis; returns its summary. It has to find nothing."""
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    program = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config)]
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
    summary = fuzz(daemon, tmp_path, *BUILT, *with_token(daemon), "--max-examples", "3", "--phases", "coverage,fuzzing")
    print(f"\n{cases(summary)} cases")
    assert cases(summary) > 800
    check_nothing_failed_inside(daemon)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_with_the_token_every_endpoint_does_as_the_document_says_for_long(daemon: Daemon, tmp_path: Path) -> None:
    summary = fuzz(daemon, tmp_path, *BUILT, *with_token(daemon), "--max-examples", "200")
    print(f"\n{cases(summary)} cases")
    check_nothing_failed_inside(daemon)


def test_without_a_credential_every_endpoint_says_so_whatever_it_is_sent(daemon: Daemon, tmp_path: Path) -> None:
    summary = fuzz(daemon, tmp_path, *BUILT, "--max-examples", "3", "--phases", "fuzzing")
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

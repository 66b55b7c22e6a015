"""Telling the actors of `faulty_daemon.py` to misbehave, and waiting for what comes of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx2

PATIENCE_S = 20.0
POLL_S = 0.02


def misbehave(http: httpx2.Client, actor: str, how: str, **more: float) -> httpx2.Response:
    return http.post(f"/api/v1/faults/{actor}", json={"how": how, **more})


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(POLL_S)

"""Fixtures of the journeys: daemons that are stopped and looked after at the end, and a model server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .daemon import Daemon, with_model_server
from .model_server_process import ModelServerProcess

MakeDaemon = Callable[..., Daemon]


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[MakeDaemon]:
    """Makes daemons that are not started yet: `make_daemon(name="a", settings={…})`, one home folder a name."""
    daemons: list[Daemon] = []

    def make(name: str = "daemon", **options: dict[str, str]) -> Daemon:
        daemons.append(Daemon(tmp_path / name, **options))
        return daemons[-1]

    yield make
    for daemon in daemons:
        daemon.close()


@pytest.fixture
def model_server() -> Iterator[ModelServerProcess]:
    server = ModelServerProcess()
    yield server
    server.close()


@pytest.fixture
def daemon(make_daemon: MakeDaemon, model_server: ModelServerProcess) -> Daemon:
    """A daemon that serves, and whose answers come from the fake model server."""
    started = make_daemon(settings=with_model_server(model_server.base_url))
    started.start()
    return started

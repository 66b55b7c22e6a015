"""Fixtures of the journeys: daemons that are stopped and looked after at the end, and a model server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .daemon import Daemon, free_port, with_model_server
from .model_server_process import ModelServerProcess

MakeDaemon = Callable[..., Daemon]


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[MakeDaemon]:
    """Makes daemons that are not started yet: `make_daemon(name="a", settings={…})`, one home folder a name."""
    daemons: list[Daemon] = []

    def make(name: str = "daemon", settings: dict[str, str] | None = None) -> Daemon:
        daemons.append(Daemon(tmp_path / name, settings=settings))
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


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with actors that misbehave when they are told to. One for a whole file: what breaks is whole again."""
    started = start_faulty_daemon(tmp_path_factory.mktemp("faulty"))
    try:
        yield started
    finally:
        started.close()


def start_faulty_daemon(folder: Path) -> Daemon:
    program = Path(__file__).with_name("faulty_daemon.py")
    daemon = Daemon(folder, settings={"api_rate_limit_per_key": "0"}, command=[sys.executable, "-P", str(program)])
    daemon.start("--port", str(free_port()))
    return daemon

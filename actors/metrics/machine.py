"""What this machine and this process use, as psutil tells it. All of it blocks."""

from __future__ import annotations

import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import msgspec

from ...runtime.errors import Unavailable


class Cpu(msgspec.Struct, frozen=True):
    """`percent` is of all cores together, since it was last looked at; the first time, since the machine's start."""

    percent: float
    count: int


class Space(msgspec.Struct, frozen=True):
    used_bytes: int
    total_bytes: int
    percent: float


class Battery(msgspec.Struct, frozen=True):
    """`secs_left` is null while it is plugged in, or nobody knows."""

    percent: float
    plugged: bool | None
    secs_left: int | None


class Process(msgspec.Struct, frozen=True):
    rss_bytes: int
    threads: int
    uptime_seconds: int


class Machine(msgspec.Struct, frozen=True):
    """`disk` is the one that the daemon's home folder is on; `uptime_seconds` is the machine's."""

    available: bool
    os: str
    arch: str
    cpu: Cpu
    memory: Space
    disk: Space
    battery: Battery | None
    process: Process
    uptime_seconds: int
    timestamp: datetime


class Footprint(msgspec.Struct, frozen=True):
    """What the daemon's own process takes; `open_fds` is None where the system does not say."""

    rss_bytes: int
    threads: int
    cpu_seconds: float
    started_at: float
    open_fds: int | None


class CpuClock:
    """How busy the cores were between two looks. psutil's own keeps its last look by thread, and threads vary here."""

    def __init__(self) -> None:
        self._busy = self._all = self._percent = 0.0

    def percent(self) -> float:
        """Since the last look, the first time since the machine's start; the same again where no time has passed."""
        busy, all_ = _cpu_seconds()
        passed = all_ - self._all
        if passed > 0:
            self._percent = round(min(100.0, max(0.0, 100 * (busy - self._busy) / passed)), 1)
            self._busy, self._all = busy, all_
        return self._percent


def look(clock: CpuClock, home: Path) -> Machine:
    """Raises Unavailable if the home's disk cannot be asked."""
    import psutil

    memory = psutil.virtual_memory()
    try:
        disk = psutil.disk_usage(str(home))
    except OSError as error:
        raise Unavailable(f"the disk of {home} cannot be asked: {error.strerror}") from error
    own = footprint()
    now = time.time()
    return Machine(
        available=True,
        os=platform.system(),
        arch=platform.machine(),
        cpu=Cpu(clock.percent(), psutil.cpu_count() or 1),
        memory=Space(memory.total - memory.available, memory.total, round(memory.percent, 1)),
        disk=Space(disk.used, disk.total, round(disk.percent, 1)),
        battery=_battery(),
        process=Process(own.rss_bytes, own.threads, max(0, int(now - own.started_at))),
        uptime_seconds=max(0, int(now - psutil.boot_time())),
        timestamp=datetime.now(UTC),
    )


def footprint() -> Footprint:
    import psutil

    process = psutil.Process()
    with process.oneshot():
        cpu = process.cpu_times()
        return Footprint(
            process.memory_info().rss,
            process.num_threads(),
            cpu.user + cpu.system,
            process.create_time(),
            process.num_fds() if os.name == "posix" else None,
        )


def _cpu_seconds() -> tuple[float, float]:
    """How long the cores have been busy, and how long there was in all."""
    import psutil

    times = psutil.cpu_times()
    all_ = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)  # those are in `user` too
    return all_ - times.idle - getattr(times, "iowait", 0.0), all_


def _battery() -> Battery | None:
    import psutil

    look_at: Any = getattr(psutil, "sensors_battery", None)  # not on every system
    found = look_at() if look_at is not None else None
    if found is None:
        return None
    left = cast("int", found.secsleft)
    return Battery(round(found.percent, 1), found.power_plugged, int(left) if left >= 0 else None)

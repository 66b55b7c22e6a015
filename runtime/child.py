"""What a supervisor is told of a child: how to make it, and what to do when it ends. Pure data."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

if TYPE_CHECKING:
    from .cell import Cell
    from .node import Incarnation

Restart = Literal["permanent", "transient", "temporary"]
OnLimit = Literal["escalate", "park"]
Shutdown = float | Literal["brutal_kill"]


class AnyActor(Protocol):
    """What the runtime needs of an actor of any kind."""

    proves_health: ClassVar[bool]

    async def run_in(self, cell: Cell, life: Incarnation) -> None:
        """Live one incarnation in `cell`, calling `cell.ready` once it takes messages."""

    def is_idle(self) -> bool:
        """Whether it may be passivated now; asked only when its mailbox is empty and no handler runs."""
        ...


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays between restarts: `min_s`, then times `factor` each time up to `max_s`, each spread by ± `jitter`.

    The count of failures starts again only after `reset_after_s` of proven health: never because `start` returned.
    """

    min_s: float = 0.0
    max_s: float = 0.0
    factor: float = 2.0
    jitter: float = 0.2
    reset_after_s: float = 60.0

    def delay_s(self, failures: int) -> float:
        """The pause before the restart that follows the `failures`-th failure in a row (1, 2, …)."""
        exponent = min(failures - 1, 64)  # far past any max_s, and short of a float's overflow
        plain = min(self.max_s, self.min_s * self.factor**exponent)
        return plain * random.uniform(1 - self.jitter, 1 + self.jitter)  # noqa: S311 spreads load, hides nothing


CONNECTOR = Backoff(min_s=1.0, max_s=60.0)
"""For whatever faces the world: a channel, an MCP server, the tunnel."""


class Policy(Protocol):
    """What the spec of an actor and that of a supervisor have in common."""

    id: str
    restart: Restart
    shutdown_s: Shutdown
    max_restarts: int
    max_seconds: float
    on_limit: OnLimit
    probe_s: float
    significant: bool


class Child:
    """An actor's place in the tree.

    `Child(Store, url, restart="permanent")` makes `Store(url)` at every start. Defaults are OTP's, where OTP has them
    (https://www.erlang.org/doc/apps/stdlib/supervisor.html): permanent, 5 s to stop.

    Args:
        id: the last part of its address; by default the class's name in snake case.
        restart: `permanent` always, `transient` after a crash, `temporary` never.
        shutdown_s: time to stop by itself before it is cancelled; "brutal_kill" gives none.
        start_timeout_s: bound on `on_start`; a start that takes longer is a failed start.
        max_restarts, max_seconds: more restarts than this in that time are over the limit.
        on_limit: `escalate` ends the supervisor, `park` leaves the child down and probes it every `probe_s`.
        backoff: pauses between restarts; by default none.
        wait: whether the next sibling's start waits for this one's; set it to False for what may take long.
        lazy: started by its first message instead of with its supervisor.
        passivate_after_s: stopped after that long with nothing to do; its next message starts it again.
        significant: its normal end can end its supervisor (`auto_shutdown`).
        asks: addresses that this actor asks; the whole graph must have no cycle.
    """

    def __init__(
        self,
        factory: Callable[..., AnyActor],
        *args: Any,
        id: str | None = None,  # noqa: A002 OTP's name
        restart: Restart = "permanent",
        shutdown_s: Shutdown = 5.0,
        start_timeout_s: float = 10.0,
        max_restarts: int = 3,
        max_seconds: float = 5.0,
        on_limit: OnLimit = "escalate",
        probe_s: float = 300.0,
        backoff: Backoff | None = None,
        wait: bool = True,
        lazy: bool = False,
        passivate_after_s: float | None = None,
        significant: bool = False,
        asks: tuple[str, ...] = (),
    ) -> None:
        self.factory = factory
        self.args = args
        self.id = snake_case(factory.__name__) if id is None else id
        self.restart: Restart = restart
        self.shutdown_s: Shutdown = shutdown_s
        self.start_timeout_s = start_timeout_s
        self.max_restarts = max_restarts
        self.max_seconds = max_seconds
        self.on_limit: OnLimit = on_limit
        self.probe_s = probe_s
        self.backoff = backoff or Backoff()
        self.wait = wait
        self.lazy = lazy
        self.passivate_after_s = passivate_after_s
        self.significant = significant
        self.asks = asks
        check_policy(self)

    def make(self) -> AnyActor:
        """Make the actor of the next incarnation."""
        return self.factory(*self.args)


def check_policy(spec: Policy) -> None:
    """Raise `ValueError` if `spec` says what nothing could come of; types alone do not keep a setting's text out."""
    if "/" in spec.id or not spec.id:
        raise ValueError(f"a child's id is one part of an address, without a slash: {spec.id!r}")
    check_choice("restart", spec.restart, Restart)
    check_choice("on_limit", spec.on_limit, OnLimit)
    if spec.shutdown_s != "brutal_kill" and not spec.shutdown_s >= 0:
        raise ValueError(f"shutdown_s of {spec.id!r} is a number of seconds or 'brutal_kill', not {spec.shutdown_s!r}")
    if spec.max_restarts < 0 or spec.max_seconds <= 0 or spec.probe_s <= 0:
        raise ValueError(f"max_restarts of {spec.id!r} is at least 0, max_seconds and probe_s are more")
    if spec.significant and spec.restart == "permanent":
        raise ValueError(
            f"{spec.id!r} is significant, so transient or temporary: a permanent child never ends by itself"
        )


def check_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name} is one of {', '.join(get_args(choices))}, not {value!r}")


def snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()

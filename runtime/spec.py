"""A supervisor's place in the tree, as data: which children it has, and how it brings them back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from .child import AnyActor, Backoff, Child, OnLimit, Restart, Shutdown, check_choice, check_policy

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
AutoShutdownRule = Literal["never", "any_significant", "all_significant"]


class Supervisor:
    """Children start in order and stop in reverse.

    Args:
        strategy: which siblings are stopped and started again with a child that has failed: none, all, or those that
            were started after it.
        auto_shutdown: whether it ends when one of its significant children has ended by itself, or the last of them.
        restart … wait: as a `Child` of its own supervisor. It has no time-out for stopping: its children have theirs.

    Raises:
        ValueError: two children have the same id, or a child is significant where nothing could come of it.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 OTP's name
        children: Sequence[ChildSpec] = (),
        *,
        strategy: Strategy = "one_for_one",
        restart: Restart = "permanent",
        auto_shutdown: AutoShutdownRule = "never",
        max_restarts: int = 3,
        max_seconds: float = 5.0,
        significant: bool = False,
        on_limit: OnLimit = "escalate",
        probe_s: float = 300.0,
        shutdown_s: Shutdown = math.inf,
        wait: bool = True,
    ) -> None:
        self.id = id
        self.children = tuple(children)
        self.strategy: Strategy = strategy
        self.restart: Restart = restart
        self.auto_shutdown: AutoShutdownRule = auto_shutdown
        self.max_restarts = max_restarts
        self.max_seconds = max_seconds
        self.significant = significant
        self.on_limit: OnLimit = on_limit
        self.probe_s = probe_s
        self.shutdown_s: Shutdown = shutdown_s
        self.wait = wait
        self.lazy = False
        self.backoff = Backoff()
        self.passivate_after_s: float | None = None
        check_policy(self)
        check_choice("strategy", strategy, Strategy)
        check_choice("auto_shutdown", auto_shutdown, AutoShutdownRule)
        ids = [child.id for child in self.children]
        if len(set(ids)) < len(ids):
            raise ValueError(f"supervisor {id!r} has two children with the same id: {ids}")
        for child in self.children:
            self.check_child(child)

    def check_child(self, child: ChildSpec) -> None:
        """Raise `ValueError` if `child` cannot be a child of this supervisor."""
        if child.significant and self.auto_shutdown == "never":
            raise ValueError(f"child {child.id!r} is significant, but supervisor {self.id!r} has auto_shutdown='never'")


class DynamicSupervisor(Supervisor):
    """Makes children at run time, one_for_one; they are forgotten when they have ended, and stop all at once.

    With `factory`, a message to an address below it makes the child that takes it: `factory(name)`. Other children are
    added with `SupervisorNode.start_child`.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 OTP's name
        factory: Callable[[str], AnyActor] | None = None,
        *,
        max_children: int = 100_000,
        **child_options: Any,
    ) -> None:
        super().__init__(id)
        self.factory = factory
        self.max_children = max_children
        self.child_options: dict[str, Any] = {"restart": "transient", "on_limit": "park", **child_options}

    def child(self, name: str) -> Child:
        """The spec of the child called `name`."""
        assert self.factory is not None
        return Child(self.factory, name, id=name, **self.child_options)


ChildSpec = Child | Supervisor

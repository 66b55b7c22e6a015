"""The tree as it is at this moment: what `status`, the health engine and `GET runtime/tree` show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from .cell import Cell
from .node import Node
from .supervisor import SupervisorNode

if TYPE_CHECKING:
    from .system import ActorSystem


class MailboxView(msgspec.Struct, frozen=True):
    depth: int
    capacity: int


class NodeView(msgspec.Struct, frozen=True, omit_defaults=True):
    """One place in the tree, and what is below it. Times in seconds."""

    name: str
    path: str
    kind: str
    state: str
    incarnation: int
    restarts: int
    uptime_seconds: float
    since_seconds: float
    strategy: str | None = None
    mailbox: MailboxView | None = None
    processed: int | None = None
    last_error: str | None = None
    pid: int | None = None
    children: list[NodeView] | None = None


class ActorView(msgspec.Struct, frozen=True):
    """One actor in detail: handled messages by type, and how long they took (upper bound of a factor-two bucket)."""

    node: NodeView
    messages: dict[str, int]
    latency_ms: dict[str, float]


def view(node: Node, depth: int = 100) -> NodeView:
    """What `node` is doing now, with `depth` levels below it."""
    common = {
        "name": node.name or "root",
        "path": node.path,
        "kind": node.kind,
        "state": node.state,
        "incarnation": node.number,
        "restarts": node.restarts,
        "uptime_seconds": round(node.uptime_s, 3),
        "since_seconds": round(max(0.0, node.system.now() - node.since), 3),
        "last_error": node.last_error,
    }
    if isinstance(node, SupervisorNode):
        children = [view(child, depth - 1) for child in node.which_children()] if depth > 0 else []
        return msgspec.convert({**common, "strategy": node.spec.strategy, "children": children}, NodeView)
    assert isinstance(node, Cell)
    return msgspec.convert(
        {
            **common,
            "mailbox": MailboxView(len(node.mailbox), node.mailbox.capacity),
            "processed": sum(node.processed.values()),
            "pid": getattr(node.actor, "pid", None),
        },
        NodeView,
    )


def detail(cell: Cell) -> ActorView:
    quantiles = {name: quantile_ms(cell.latency, q) for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))}
    return ActorView(view(cell), dict(cell.processed), quantiles)


def quantile_ms(buckets: list[int], q: float) -> float:
    """The upper bound of the bucket in which the `q`-quantile lies; 0 if nothing was counted."""
    left = sum(buckets) * q
    for power, count in enumerate(buckets):
        left -= count
        if left <= 0 and count:
            return 2**power / 1000
    return 0.0


def tree(system: ActorSystem) -> NodeView:
    return view(system.root)

"""The supervision tree as a client sees it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import msgspec


class Mailbox(msgspec.Struct, frozen=True):
    depth: int
    capacity: int


class Node(msgspec.Struct, frozen=True):
    name: str
    path: str
    kind: str
    state: str
    incarnation: int
    restarts: int
    uptime_seconds: float
    since_seconds: float
    mailbox: Mailbox | None = None
    processed: int | None = None
    last_error: str | None = None
    pid: int | None = None
    children: list[Node] | None = None

    def at(self, path: str) -> Node:
        """The node at `path` below this one."""
        return next(node for node in self.walk() if node.path == path)

    def walk(self) -> Iterator[Node]:
        yield self
        for child in self.children or ():
            yield from child.walk()

    def lives(self) -> dict[str, int]:
        """The incarnation of every node, by path."""
        return {node.path: node.incarnation for node in self.walk()}


class _Detail(msgspec.Struct, frozen=True):
    node: Node


def tree_of(http: httpx2.Client) -> Node:
    return msgspec.json.decode(http.get("/api/v1/runtime/tree").raise_for_status().content, type=Node)


def node_of(http: httpx2.Client, path: str) -> Node:
    return msgspec.json.decode(http.get(f"/api/v1/runtime/actors/{path}").raise_for_status().content, type=_Detail).node

"""The inspector: shows the tree as it is at this moment, and restarts what an operator points at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
import trio

from ..config.logs import Redactor
from ..runtime import Actor, Message, SupervisorNode
from ..runtime.cell import Cell
from ..runtime.dead_letters import DeadLetter
from ..runtime.envelope import current_envelope
from ..runtime.errors import Conflict, PocketPawError
from ..runtime.inspection import ActorView, NodeView, detail, view
from ..runtime.node import Node
from ..storage.sessions import ListSessions
from .agent import Agent, AgentState
from .settings import LiveSettings

RESTART_WAIT_S = 2.0
"""A restart that takes longer goes on by itself."""

BEGIN_S = 0.05
"""For a restart to begin of what the request itself came through: `http` waits for its last answers, this one among
them, and does not listen meanwhile."""

TITLES_WAIT_S = 1.0
TITLES_LIMIT = 500


class GetTree(Message[NodeView], to="inspector"):
    """The supervision tree, with what each actor is doing now."""


class GetActor(Message[ActorView], to="inspector"):
    """One actor in detail."""

    path: str


class RestartActor(Message[NodeView], to="inspector"):
    """Restart one actor, or one supervisor and all below it, through its supervisor."""

    path: str


class ListDeadLetters(Message[list[DeadLetter]], to="inspector"):
    """The latest messages that nobody handled, newest first."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 50


class SessionStatus(msgspec.Struct, frozen=True):
    """What the agent of one session is doing, and since when."""

    session_key: str
    session_id: str
    channel: str
    title: str | None
    state: AgentState
    tool_name: str | None
    duration_seconds: float
    token_usage: int
    error_message: str | None


class GlobalStatus(msgspec.Struct, frozen=True):
    state: Literal["idle", "active"]
    active_sessions: int
    max_concurrent: int
    uptime_seconds: int


class AgentStatus(msgspec.Struct, frozen=True):
    global_: GlobalStatus = msgspec.field(name="global")
    sessions: list[SessionStatus]


class GetAgentStatus(Message[AgentStatus], to="inspector"):
    """What the agents are doing now."""


class Inspector(Actor):
    concurrency = 16

    def __init__(self, live: LiveSettings) -> None:
        super().__init__()
        self._live = live
        self._redactor = Redactor(lambda: live.secrets)

    async def get_tree(self, message: GetTree) -> NodeView:
        return self._view(self.system.root)

    async def get_actor(self, message: GetActor) -> ActorView:
        node = self._node(message.path)
        if not isinstance(node, Cell):
            return ActorView(self._view(node), {}, {})
        found = detail(node)
        return msgspec.structs.replace(found, node=self._redacted(found.node))

    async def restart_actor(self, message: RestartActor) -> NodeView:
        node = self._node(message.path)
        supervisor = node.owner
        if not isinstance(supervisor, SupervisorNode):
            raise Conflict("the root has no supervisor that could restart it: restart the daemon")
        with trio.move_on_after(BEGIN_S if _is_asked_through(node) else RESTART_WAIT_S):
            await supervisor.restart_child(node.name)
        return self._view(node)

    async def list_dead_letters(self, message: ListDeadLetters) -> list[DeadLetter]:
        return list(reversed(self.system.dead_letters.latest))[: message.limit]

    async def get_agent_status(self, message: GetAgentStatus) -> AgentStatus:
        agents = list(self._agents())
        titles = await self._titles(len(agents)) if agents else {}
        sessions = [self._session(agent, titles.get(agent.session_id)) for agent in agents]
        active = sum(session.state != "idle" for session in sessions)
        overall = GlobalStatus(
            state="active" if active else "idle",
            active_sessions=active,
            max_concurrent=self._live.current.max_concurrent_conversations,
            uptime_seconds=int(self.system.root.uptime_s),
        )
        return AgentStatus(global_=overall, sessions=sessions)

    def _node(self, path: str) -> Node:
        """The node at `path`; the root is called `root`, or nothing."""
        return self.system.root if path in ("", self.system.root.spec.id) else self.system.node(path)

    def _view(self, node: Node) -> NodeView:
        return self._redacted(view(node))

    def _redacted(self, node: NodeView) -> NodeView:
        """An error's text may hold what it tripped over."""
        children = [self._redacted(child) for child in node.children] if node.children is not None else None
        error = self._redactor.text(node.last_error) if node.last_error is not None else None
        return msgspec.structs.replace(node, last_error=error, children=children)

    def _agents(self) -> Iterator[Agent]:
        supervisor = self.system.nodes.get("agents")
        if isinstance(supervisor, SupervisorNode):
            for node in supervisor.which_children():
                if isinstance(node, Cell) and isinstance(node.actor, Agent):
                    yield node.actor

    async def _titles(self, count: int) -> dict[str, str]:
        """The titles of the latest sessions, those of the awake agents among them. None while the store is stuck."""
        try:
            page = await self.ask(ListSessions(limit=min(count, TITLES_LIMIT)), timeout_s=TITLES_WAIT_S)
        except PocketPawError:
            return {}  # what the agents do can be told without
        return {session.id: session.title for session in page.sessions}

    def _session(self, agent: Agent, title: str | None) -> SessionStatus:
        activity = agent.activity
        error = self._redactor.text(activity.error) if activity.error is not None else None
        return SessionStatus(
            session_key=f"{activity.channel}:{agent.session_id}",
            session_id=agent.session_id,
            channel=activity.channel,
            title=title,
            state=activity.state,
            tool_name=activity.tool,
            duration_seconds=round(self.system.now() - activity.since, 3) if activity.state != "idle" else 0.0,
            token_usage=activity.total_tokens,
            error_message=error,
        )


def _is_asked_through(node: Node) -> bool:
    """Whether the message in hand was sent by `node`, or by an actor below it."""
    envelope = current_envelope.get()
    return envelope is not None and f"{envelope.sender}/".startswith(f"{node.path}/")

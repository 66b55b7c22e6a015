"""The actor model: messages, actors, supervisors. It knows nothing of agents, HTTP or SQL.

`daemon.py` and `cli/` are the exception: they start the whole, and nothing imports them.
"""

from .actor import Actor, Terminated
from .bus import Bus, Event, Subscription
from .child import CONNECTOR, Backoff, Child
from .envelope import SYSTEM, Principal
from .exits import Exit, IgnoreStart
from .message import Done, Message, StreamMessage
from .process import ProcessActor
from .spec import DynamicSupervisor, Supervisor
from .supervisor import SupervisorNode
from .system import ActorSystem, Report, RootGaveUp
from .thread import ThreadActor
from .worker import Worker

__all__ = [
    "CONNECTOR",
    "SYSTEM",
    "Actor",
    "ActorSystem",
    "Backoff",
    "Bus",
    "Child",
    "Done",
    "DynamicSupervisor",
    "Event",
    "Exit",
    "IgnoreStart",
    "Message",
    "Principal",
    "ProcessActor",
    "Report",
    "RootGaveUp",
    "StreamMessage",
    "Subscription",
    "Supervisor",
    "SupervisorNode",
    "Terminated",
    "ThreadActor",
    "Worker",
]

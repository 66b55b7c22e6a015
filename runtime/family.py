"""A supervisor's children: what is kept of each, how one is made, launched, sent to rest and forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from .cell import Cell
from .errors import NotFound, Unavailable
from .node import Incarnation, Node, Owner
from .record import Record
from .spec import ChildSpec, DynamicSupervisor, Supervisor

if TYPE_CHECKING:
    from .system import ActorSystem


class Family(Node, Owner):
    """The part of a supervisor that decides nothing.

    Children's nodes stay when their supervisor is itself restarted, and with them their mailboxes.
    """

    kind = "supervisor"
    _is_sweeping: bool

    def __init__(self, path: str, spec: Supervisor, owner: Owner, system: ActorSystem) -> None:
        super().__init__(path, owner, system)
        self.spec = spec
        self.records: dict[str, Record] = {}
        self._nursery: trio.Nursery | None = None  # while it decides: from its launch until its children are stopped
        self._turn = trio.Lock()
        system.nodes[path] = self
        for child in spec.children:
            self._add(child)

    def which_children(self) -> list[Node]:
        return [record.node for record in self.records.values()]

    def count_children(self) -> dict[str, int]:
        nodes = self.which_children()
        supervisors = sum(isinstance(node, Family) for node in nodes)
        return {
            "specs": len(nodes),
            "active": sum(node.is_alive for node in nodes),
            "supervisors": supervisors,
            "workers": len(nodes) - supervisors,
        }

    def get_childspec(self, id_: str) -> ChildSpec:
        return self._record(id_).spec

    def launch(self, nursery: trio.Nursery) -> Incarnation:
        self._is_sweeping = False
        return super().launch(nursery)

    def lay_down(self, why: str) -> None:
        super().lay_down(why)
        for record in self.records.values():
            record.node.lay_down(why)

    def stand_by(self) -> None:
        super().stand_by()
        for record in self.records.values():
            record.node.stand_by()

    # Children on demand -----------------------------------------------------------------------------------------------

    def on_demand(self, name: str) -> Node | None:
        """Make the cell of a dynamic child; its first message will start it. None if this supervisor makes none.

        Raises:
            Unavailable: it is not running, or has as many children as it may have.
        """
        spec = self.spec
        if not isinstance(spec, DynamicSupervisor) or spec.factory is None or not name:
            return None
        if self.down is not None:
            raise Unavailable(f"{self.path} {self.down}", actor=self.path)
        if len(self.records) >= spec.max_children:
            raise Unavailable(f"{self.path} has {spec.max_children} children, as many as it may have", actor=self.path)
        return self._add(spec.child(name)).node

    def activate(self, child: Node) -> None:
        record = self.records[child.name]
        if record.is_on_demand and self._nursery is not None:
            self._launch(record)

    # Bookkeeping ------------------------------------------------------------------------------------------------------

    def _add(self, spec: ChildSpec) -> Record:
        path = f"{self.path}/{spec.id}" if self.path else spec.id
        if isinstance(spec, Supervisor):
            node: Node = type(self)(path, spec, self, self.system)
        else:
            node = Cell(path, spec, self, self.system)
            self.system.nodes[path] = node
        is_made_on_demand = isinstance(self.spec, DynamicSupervisor) and self.spec.factory is not None
        is_on_demand = is_made_on_demand or spec.lazy or spec.passivate_after_s is not None
        turn = trio.Lock() if self.spec.strategy == "one_for_one" else self._turn
        record = self.records[spec.id] = Record(spec, node, turn, is_on_demand=is_on_demand)
        return record

    def _remove(self, record: Record, why: str) -> None:
        del self.records[record.spec.id]
        self.system.forget(record.node, why)

    def _record(self, id_: str) -> Record:
        if id_ not in self.records:
            raise NotFound(f"{self.title} has no child {id_!r}")
        return self.records[id_]

    def _vacate(self, record: Record, why: str) -> None:
        """Nobody lives there any more, and nobody will by itself."""
        if record.spec.restart == "temporary" or isinstance(self.spec, DynamicSupervisor):
            self._remove(record, why)
        else:
            record.node.lay_down(why)

    def _rest(self, record: Record) -> None:
        """Nobody lives there until a message comes; one that has come meanwhile is not kept waiting."""
        if has_mail(record.node):
            self._launch(record)
        elif isinstance(self.spec, DynamicSupervisor):
            self._remove(record, "has gone to rest")
        else:
            record.node.state = "idle"

    def _launch(self, record: Record) -> Incarnation:
        if self._nursery is None:
            raise Unavailable(f"{self.title} is not running")
        life = record.node.life
        if life is not None and not life.is_over:
            return life  # a message has started it meanwhile
        if record.spec.passivate_after_s is not None and not self._is_sweeping:
            self._is_sweeping = True
            self._nursery.start_soon(self._sweep, name=f"{self.path}: passivation")
        return record.node.launch(self._nursery)

    def _count_and_launch(self, record: Record) -> Incarnation:
        record.node.restarts += 1
        self.system.report("restarting", record.node)
        return self._launch(record)

    def _records_of_a_new_life(self) -> list[Record]:
        """What to start: the children that the spec names, and a dynamic supervisor's that still have messages.

        Nodes, and so mailboxes, are those of the former life where there was one.
        """
        former, self.records = self.records, {}
        for spec in self.spec.children:
            record = former.pop(spec.id, None)
            if record is None:
                self._add(spec)
            else:
                self.records[spec.id] = record
        for id_, record in former.items():
            self.records[id_] = record
            if not (isinstance(self.spec, DynamicSupervisor) and has_mail(record.node)):
                self._remove(record, "was not taken over by the supervisor's next incarnation")
        for record in self.records.values():
            record.restarts_at.clear()
        return list(self.records.values())

    # Passivation ------------------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        """Stop children that have had nothing to do for their `passivate_after_s`."""
        while limits := [limit for record in self.records.values() if (limit := record.spec.passivate_after_s)]:
            await trio.sleep(min(limits) / 4)
            now = self.system.now()
            for record in list(self.records.values()):
                if isinstance(record.node, Cell) and _may_passivate(record.node, now) and self._nursery is not None:
                    self._nursery.start_soon(self._passivate, record, record.node)
        self._is_sweeping = False

    async def _passivate(self, record: Record, cell: Cell) -> None:
        async with record.turn:
            life = cell.life
            if not _may_passivate(cell, self.system.now()):
                return  # something has come up meanwhile
            await cell.stop(record.spec.shutdown_s)
            # From here on nothing waits: a message that came while it stopped is seen, a later one starts it anew.
            if cell.life is life and self._nursery is not None:
                self._rest(record)


def has_mail(node: Node) -> bool:
    return isinstance(node, Cell) and len(node.mailbox) > 0


def _may_passivate(cell: Cell, now: float) -> bool:
    """Ask an actor; an answer that is an exception crashes it, and nobody else."""
    try:
        return cell.may_passivate(now)
    except BaseException as error:  # noqa: BLE001 nothing waits in it, so this is no cancellation
        cell.kill(error)
    return False

"""The trail: what it has is on disk, what was done to it is found, and what it cannot save is kept."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest
import trio
from pocketpaw.actors.audit import trail as trail_module
from pocketpaw.actors.audit.head_file import FILE, Known, load_head, save_head
from pocketpaw.actors.audit.trail import (
    AuditTrail,
    AuditVerdict,
    GetTrailState,
    RecordAct,
    RotateAudit,
    TrailState,
    VerifyAudit,
)
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.runtime import Actor, ActorSystem, Child, Principal, Supervisor
from pocketpaw.runtime.errors import Unavailable
from pocketpaw.storage.audit import (
    Act,
    AppendToAudit,
    AuditEntry,
    AuditExtent,
    AuditHead,
    GetAuditExtent,
    ListAudit,
    follow,
)
from pocketpaw.storage.audit_archives import ArchiveAudit, DropArchived

from ...conftest import Running, wait_until
from .conftest import Tamper, Trail

ANN = Principal("key:ann", frozenset({"admin"}))


def act(number: int = 1) -> RecordAct:
    return RecordAct(action="a", category="c", description=f"act {number}", context={"number": number})


async def fill(system: ActorSystem, count: int = 5) -> AuditHead:
    """That many entries, with the daemon's start among them."""
    for number in range(2, count + 1):
        await system.ask(act(number))
    head = (await system.ask(GetAuditExtent())).head
    assert head.id == count
    return head


async def verify(system: ActorSystem, *, thoroughly: bool = True) -> AuditVerdict:
    return await system.ask(VerifyAudit(thoroughly=thoroughly))


async def test_an_act_is_on_disk_with_whoever_asked_for_it(trail: Trail, live: LiveSettings) -> None:
    live.secrets |= {"canary-secret"}
    async with trail() as system:
        context = {"text": "a canary-secret b", "long": "x" * 9_999}
        message = msgspec.structs.replace(act(), description="with canary-secret", context=context)
        await system.ask(message, principal=ANN, trace_id="trace-1")
        newest, start = await system.ask(ListAudit())
        assert (newest.actor, newest.action, newest.trace_id, newest.status) == ("key:ann", "a", "trace-1", "success")
        assert newest.description == "with [secret]"
        assert newest.context == {"text": "a [secret] b", "long": "x" * 500}
        assert (start.actor, start.action) == ("system", "start")


async def test_many_at_once_are_all_there_in_one_chain(trail: Trail) -> None:
    async with trail() as system, trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(system.ask, act(number))
    async with trail() as system:
        entries = await system.ask(ListAudit(limit=500))
        numbers = {entry.context["number"] for entry in entries if entry.action == "a"}
        assert numbers == set(range(300))
        assert (await verify(system)).problems == []


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE audit SET actor = 'nobody' WHERE id = 3", "entry 3 was changed"),
        ("DELETE FROM audit WHERE id = 3", "entry 3 is gone"),
        ("DELETE FROM audit WHERE id >= 4", "the end was cut off: entries 4 to 5 are gone"),
        ("DELETE FROM audit", "the end was cut off: entries 1 to 5 are gone"),
    ],
)
async def test_what_was_done_to_it_meanwhile_is_named(trail: Trail, tamper: Tamper, statement: str, found: str) -> None:
    async with trail() as system:
        await fill(system)
        assert (await verify(system)).problems == []
        tamper(statement)
        for _ in range(2):  # a look does not make it good
            problems = (await verify(system)).problems
            assert found in problems[0]


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE audit SET actor = 'nobody' WHERE id = 3", "entry 3 was changed"),
        ("DELETE FROM audit WHERE id >= 4", "the end was cut off: entries 4 to 5 are gone"),
    ],
)
async def test_what_was_done_to_it_while_the_daemon_was_down_is_named(
    trail: Trail, tamper: Tamper, statement: str, found: str
) -> None:
    async with trail() as system:
        await fill(system)
    tamper(statement)
    async with trail() as system:
        assert any(found in problem for problem in (await verify(system)).problems)
    async with trail() as system:  # what has come meanwhile does not hide it
        assert (await verify(system)).problems


async def test_a_chain_that_was_written_anew_is_found_by_the_end_that_was_kept(
    trail: Trail, tamper: Tamper, live: LiveSettings
) -> None:
    async with trail() as system:
        await fill(system)
    tamper("DELETE FROM audit")
    kept = load_head(live.home.root)
    async with trail() as system:
        await fill(system, 6)
        assert (await verify(system)).problems
    async with trail() as system:
        (problem,) = (await verify(system)).problems
        assert problem == "entry 5 is not the one that was there: the chain was made anew, up to it at least"
    assert load_head(live.home.root) == kept, "what was known is not written over"


async def test_the_end_is_kept_beside_the_database(trail: Trail, live: LiveSettings) -> None:
    path = live.home.root / FILE
    async with trail() as system:
        head = await fill(system)
    assert load_head(live.home.root) == Known(head)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [None, b"{", b"[1]", b'{"id": 1'])
async def test_an_end_that_is_gone_or_damaged_is_told_until_the_chain_begins_anew(
    trail: Trail, live: LiveSettings, content: bytes | None
) -> None:
    path = live.home.root / FILE
    async with trail() as system:
        await fill(system)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    async with trail() as system:
        (problem,) = (await verify(system)).problems
        assert str(path) in problem
    async with trail() as system:
        assert (await verify(system)).problems == [problem]
        await system.ask(RotateAudit())
        assert (await verify(system)).problems == []
    async with trail() as system:
        assert (await verify(system)).problems == []


async def test_a_quick_look_sees_what_has_come_since_the_last(trail: Trail, tamper: Tamper) -> None:
    async with trail() as system:
        await fill(system)
        assert (await verify(system, thoroughly=False)).problems == []
        await fill_more(system)
        tamper("UPDATE audit SET status = 'x' WHERE id = 6")
        (problem,) = (await verify(system, thoroughly=False)).problems
        assert problem.startswith("entry 6 was changed")


async def test_what_a_thorough_look_has_found_a_quick_one_tells_too(trail: Trail, tamper: Tamper) -> None:
    async with trail() as system:
        await fill(system)
        assert (await verify(system)).problems == []
        tamper("UPDATE audit SET status = 'x' WHERE id = 3")
        found = (await verify(system)).problems
        assert found[0].startswith("entry 3 was changed")
        for _ in range(2):
            assert (await verify(system, thoroughly=False)).problems == found
        await system.ask(RotateAudit())
        assert (await verify(system, thoroughly=False)).problems == []


async def fill_more(system: ActorSystem) -> None:
    for number in range(6, 9):
        await system.ask(act(number))


async def test_an_archive_can_be_checked_and_the_chain_goes_on(trail: Trail, live: LiveSettings) -> None:
    async with trail() as system:
        head = await fill(system)
        archived = await system.ask(RotateAudit())
        assert archived.entries == 5
        assert (await system.ask(RotateAudit())).entries == 0
        await system.ask(act(6))
        assert (await verify(system)).problems == []
        assert [entry.id for entry in await system.ask(ListAudit())] == ["6"]
        await system.ask(RotateAudit())
        verdict = await verify(system)
        assert (verdict.entries, verdict.problems, verdict.missing) == (0, [], [])
    folder = live.home.root / "audit"
    first, second = folder / "audit-1-5.jsonl", folder / "audit-6-6.jsonl"
    assert sorted(folder.iterdir()) == [first, second]
    assert (folder.stat().st_mode & 0o777, first.stat().st_mode & 0o777) == (0o700, 0o600)
    beginning, *lines = first.read_bytes().splitlines()
    assert json.loads(beginning) == {"follows": {"id": 0, "hash": "0" * 64}}
    assert follow(AuditHead(), [msgspec.json.decode(line, type=AuditEntry) for line in lines]) == (head, [])
    assert json.loads(second.read_bytes().splitlines()[0]) == {"follows": {"id": 5, "hash": head.hash}}


async def test_an_archive_that_was_changed_is_found_and_one_that_was_put_away_is_told(
    trail: Trail, live: LiveSettings
) -> None:
    async with trail() as system:
        await fill(system)
        await system.ask(RotateAudit())
        path = live.home.root / "audit" / "audit-1-5.jsonl"
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"act 3", b"act 4"))
        assert (await verify(system)).problems == ["the archive audit-1-5.jsonl was changed"]
        path.unlink()
        verdict = await verify(system)
        assert (verdict.problems, verdict.missing) == ([], ["audit-1-5.jsonl"])


async def test_a_rotation_that_was_cut_off_is_finished(trail: Trail, live: LiveSettings) -> None:
    async with trail() as system:
        head = await fill(system)
        folder = live.home.root / "audit"
        folder.mkdir()
        (folder / ".audit-1-5.jsonl.tmp").write_bytes(b"half of it")
        await system.ask(RotateAudit())  # the one before has left its file
        await fill_more(system)
        last = (await system.ask(GetAuditExtent())).head
        await system.ask(ArchiveAudit(head=last, file="audit-6-8.jsonl", digest=hashlib.sha256(b"x").hexdigest()))
    assert last.id == head.id + 3
    async with trail() as system:
        assert (await verify(system)).missing == ["audit-6-8.jsonl"]
        assert await system.ask(DropArchived()) is False, "what was archived is gone by now"


async def test_what_was_only_noted_as_archived_is_found(trail: Trail, tamper: Tamper) -> None:
    note = "INSERT INTO audit_archives SELECT id, 1, hash, 'a.jsonl', 'd', timestamp FROM audit WHERE id = 4"
    async with trail() as system:
        await fill(system)
        tamper(note)
        tamper("DELETE FROM audit WHERE id <= 4")
        for thoroughly in (True, False):
            (problem,) = (await verify(system, thoroughly=thoroughly)).problems
            assert problem.startswith("the beginning was cut off: entries 1 to 4 are noted as archived")
    async with trail() as system:
        assert (await verify(system)).problems
        await system.ask(RotateAudit())
        assert (await verify(system)).problems == []
    async with trail() as system:
        assert (await verify(system)).problems == []


async def test_a_death_between_the_archive_and_its_note_in_the_store_is_no_problem(
    trail: Trail, live: LiveSettings
) -> None:
    async with trail() as system:
        head = await fill(system)
    save_head(live.home.root, Known(head, head.id))  # as a rotation leaves it that dies before the store has its note
    async with trail() as system:
        assert (await verify(system)).problems == []
        await system.ask(ArchiveAudit(head=head, file="audit-1-5.jsonl", digest="d"))
    async with trail() as system:  # or just after
        assert (await verify(system)).problems == []


async def test_an_archive_that_cannot_be_read_is_told(trail: Trail, live: LiveSettings) -> None:
    async with trail() as system:
        await fill(system)
        await system.ask(RotateAudit())
        path = live.home.root / "audit" / "audit-1-5.jsonl"
        path.unlink()
        path.mkdir()
        (problem,) = (await verify(system)).problems
        assert problem.startswith("the archive audit-1-5.jsonl cannot be read")


async def test_an_archive_that_cannot_be_written_changes_nothing(trail: Trail, live: LiveSettings) -> None:
    async with trail() as system:
        await fill(system)
        (live.home.root / "audit").write_bytes(b"a file where the folder should be")
        with pytest.raises(Unavailable, match="cannot be written"):
            await system.ask(RotateAudit())
        assert (await system.ask(GetAuditExtent())).entries == 5


class Weather:
    """How the played store is: shared with the test, which is in the same loop."""

    def __init__(self) -> None:
        self.is_full = True
        self.written: list[Act] = []
        self.tries = 0


class FakeStore(Actor):
    """Stands for the writer and for a reader."""

    def __init__(self, weather: Weather) -> None:
        super().__init__()
        self._weather = weather

    async def append(self, message: AppendToAudit) -> AuditHead:
        self._weather.tries += 1
        if self._weather.is_full:
            raise Unavailable("the disk is full")
        self._weather.written += message.acts
        return AuditHead(len(self._weather.written), "h")

    async def extent(self, message: GetAuditExtent) -> AuditExtent:
        return AuditExtent(AuditHead(), AuditHead())

    async def drop(self, message: DropArchived) -> bool:
        return False


def played(live: LiveSettings, weather: Weather) -> Supervisor:
    stores = [Child(FakeStore, weather, id="writer"), Child(FakeStore, weather, id="reader")]
    audit = Supervisor("audit", [Child(AuditTrail, live, id="trail")])
    return Supervisor("root", [Supervisor("store", stores), audit])


async def test_what_the_store_does_not_take_is_kept_in_its_order(
    live: LiveSettings, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail_module, "SAVE_S", 3600.0)
    weather = Weather()
    async with running(played(live, weather)) as system:
        for number in range(50):
            await system.ask(act(number))
        assert weather.tries == 1, "one that is full is not asked for every act"
        assert await system.ask(GetTrailState()) == TrailState(unsaved=51, lost=0)
        weather.is_full = False
    assert [one.description for one in weather.written[1:]] == [f"act {number}" for number in range(50)]


async def test_it_is_tried_again_by_itself(
    live: LiveSettings, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail_module, "SAVE_S", 0.1)
    weather = Weather()
    async with running(played(live, weather)) as system:
        await system.ask(act())
        weather.is_full = False
        await wait_until(lambda: len(weather.written) == 2)
        assert await system.ask(GetTrailState()) == TrailState(unsaved=0, lost=0)


async def test_what_could_not_be_kept_is_counted_in_the_audit_itself(
    live: LiveSettings, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail_module, "SAVE_S", 3600.0)
    monkeypatch.setattr(trail_module, "UNSAVED_KEPT", 10)
    weather = Weather()
    async with running(played(live, weather)) as system:
        for number in range(30):
            await system.ask(act(number))
        assert await system.ask(GetTrailState()) == TrailState(unsaved=10, lost=21)
        weather.is_full = False
    assert weather.written[0].description.startswith("21 acts are missing here")
    assert [one.description for one in weather.written[1:]] == [f"act {number}" for number in range(20, 30)]


async def test_what_is_left_when_the_daemon_stops_is_saved(live: LiveSettings, running: Running) -> None:
    weather = Weather()
    async with running(played(live, weather)) as system:
        await system.ask(act())
        weather.is_full = False
    assert [one.action for one in weather.written] == ["start", "a"]


async def test_a_refusal_that_is_repeated_is_counted(live: LiveSettings, running: Running) -> None:
    weather = Weather()
    weather.is_full = False
    async with running(played(live, weather)) as system:
        for peer in ("10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.1"):
            refused = msgspec.structs.replace(act(), status="refused", context={"peer": peer})
            await system.ask(refused)
        await system.ask(act())
    told = [(one.context.get("peer"), one.context.get("times")) for one in weather.written]
    assert told == [(None, None), ("10.0.0.1", None), ("10.0.0.2", None), (None, None), ("10.0.0.1", 2)]
    assert weather.written[-1].description == "2 more within 60 s: act 1"

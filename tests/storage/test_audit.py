from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from pocketpaw.runtime.errors import Conflict, InvalidInput
from pocketpaw.storage.audit import (
    CHECKED_TOGETHER,
    GENESIS,
    Act,
    AppendToAudit,
    AuditEntry,
    AuditExtent,
    AuditHead,
    CheckAuditPage,
    CheckedPage,
    GetAuditExtent,
    GetAuditHash,
    ListAudit,
    PageAudit,
    link,
)
from pocketpaw.storage.audit import append as append_in
from pocketpaw.storage.audit_archives import (
    DROPPED_AT_ONCE,
    ArchiveAudit,
    DropArchived,
    ListAuditArchives,
)
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from .conftest import Ask

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def act(number: int = 0, **changes: object) -> Act:
    made = Act(
        actor="master",
        action="change_settings",
        category="settings",
        description=f"Change settings ({number}).",
        context={"updated": ["log_level"], "number": number, "a": {"z": 1.5, "b": None}},
        trace_id=f"trace-{number}",
        timestamp=NOON + timedelta(hours=number),
    )
    return msgspec.structs.replace(made, **changes)


def append(write: Ask, count: int) -> AuditHead:
    return write(AppendToAudit(acts=[act(number) for number in range(count)]))


def check(read: Ask, after: AuditHead | None = None) -> CheckedPage:
    return read(CheckAuditPage(after=after or AuditHead()))


def tamper(writer: Connection, statement: str) -> None:
    """Change the rows as somebody would who has the file: without the triggers."""
    with writer.begin():
        for trigger in ("audit_is_not_changed", "audit_is_not_deleted"):
            writer.exec_driver_sql(f"DROP TRIGGER IF EXISTS {trigger}")
        writer.exec_driver_sql(statement)


def test_the_newest_act_comes_first_with_all_that_is_known_of_it(write: Ask, read: Ask) -> None:
    head = append(write, 3)
    newest, *_, oldest = read(ListAudit())
    assert newest == AuditEntry(
        "3",
        NOON + timedelta(hours=2),
        "master",
        "change_settings",
        "settings",
        "Change settings (2).",
        {"updated": ["log_level"], "number": 2, "a": {"z": 1.5, "b": None}},
        "success",
        "trace-2",
        head.hash,
    )
    assert oldest.id == "1"


def test_an_entry_is_found_by_what_the_client_asks_for(write: Ask, read: Ask) -> None:
    write(AppendToAudit(acts=[act(0), act(24, category="auth"), act(48, actor="key:1", category="auth")]))

    def ids(**wanted: object) -> list[str]:
        return [entry.id for entry in read(ListAudit(**wanted))]  # pyright: ignore[reportArgumentType]

    assert ids(category="auth") == ["3", "2"]
    assert ids(actor="master") == ["2", "1"]
    assert ids(category="auth", actor="key:1") == ["3"]
    assert ids(limit=1, offset=1) == ["2"]
    assert ids(date_from="2026-05-05") == ["3", "2"]
    assert ids(date_to="2026-05-05") == ["2", "1"]
    assert ids(date_from="2026-05-05", date_to="2026-05-05") == ["2"]
    assert ids(date_to="2026-05-05T12:00:00Z") == ["2", "1"]
    assert ids(date_to="2026-05-05T11:59:59") == ["1"]
    assert ids(date_from="2026-05-05T14:00:00+02:00") == ["3", "2"]
    assert ids(category="nothing") == []


@pytest.mark.parametrize("text", ["2026-13-01", "2026-02-30", "0001-01-01T00:00:00+23:59", "2026-01-01T99:99"])
@pytest.mark.parametrize("field", ["date_from", "date_to"])
def test_a_day_that_is_none_is_refused_by_its_field(read: Ask, field: str, text: str) -> None:
    with pytest.raises(InvalidInput, match="expected a day") as caught:
        read(ListAudit(**{field: text}))  # pyright: ignore[reportArgumentType]
    assert caught.value.data["field"] == field


def test_anybody_can_check_the_chain_by_its_description(write: Ask, read: Ask) -> None:
    append(write, 3)
    previous = GENESIS
    for entry in read(PageAudit(after=0, up_to=3)):
        time = entry.timestamp.isoformat(timespec="microseconds")
        fields = [int(entry.id), time, entry.actor, entry.action, entry.category, entry.description]
        fields += [entry.context, entry.status, entry.trace_id]
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        previous = hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()
        assert entry.hash == previous


def test_an_untouched_chain_has_no_problem(write: Ask, read: Ask) -> None:
    odd = {"nul": "a\0b", "big": 2**60, "nested": [{"ü": "😀"}], "text": "\n\r\u2028"}
    head = write(AppendToAudit(acts=[act(0, description="a\0b", actor="ü\0", context=odd), act(1)]))
    assert check(read) == CheckedPage(head, [], is_end=True)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("actor", "'nobody'"),
        ("action", "'x'"),
        ("category", "'x'"),
        ("description", "'x'"),
        ("context", "'{}'"),
        ("status", "'x'"),
        ("trace_id", "'x'"),
        ("timestamp", "'2020-01-01 00:00:00.000000'"),
        ("hash", "'x'"),
    ],
)
def test_a_changed_row_is_found_and_named(write: Ask, read: Ask, writer: Connection, column: str, value: str) -> None:
    append(write, 5)
    tamper(writer, f"UPDATE audit SET {column} = {value} WHERE id = 3")
    first, *others = check(read).problems
    assert first == "entry 3 was changed, or is not the one that followed entry 2"
    assert len(others) == (1 if column == "hash" else 0)


@pytest.mark.parametrize(
    "change",
    [
        "timestamp = 'garbage'",
        "context = '{bad'",
        "context = 'null'",
        "context = '{\"a\": 1e999}'",
        "actor = x'ff41'",
        "actor = CAST(x'ff41' AS TEXT)",
    ],
)
def test_a_row_that_was_made_unreadable_is_named_and_hides_no_other(
    write: Ask, read: Ask, writer: Connection, change: str
) -> None:
    append(write, 5)
    tamper(writer, f"UPDATE audit SET {change} WHERE id = 3")
    assert check(read).problems == ["entry 3 was changed, or is not the one that followed entry 2"]
    assert [entry.id for entry in read(PageAudit(after=0, up_to=5))] == ["1", "2", "3", "4", "5"]
    listed = {entry.id: entry.description for entry in read(ListAudit())}
    assert listed["3"] == "This entry was changed, and cannot be read any more."
    assert listed["4"] == "Change settings (3)."


@pytest.mark.parametrize("garbage", ["x'ff41'", "CAST(x'ff41' AS TEXT)", "''"])
def test_an_end_whose_hash_was_made_unreadable_stops_nobody(
    write: Ask, read: Ask, writer: Connection, garbage: str
) -> None:
    append(write, 3)
    tamper(writer, f"UPDATE audit SET hash = {garbage} WHERE id = 3")
    assert read(GetAuditHash(id=3)) == read(GetAuditExtent()).head.hash
    assert append(write, 2).id == 5
    assert read(GetAuditExtent()).head.id == 5
    assert check(read).problems == ["entry 3 was changed, or is not the one that followed entry 2"]


def test_a_changed_row_whose_hash_was_made_anew_is_found_by_the_next(write: Ask, read: Ask, writer: Connection) -> None:
    append(write, 5)
    second, third, _, _ = read(PageAudit(after=1, up_to=5))
    forged = act(2, actor="nobody")
    digest = link(AuditHead(2, second.hash), forged)
    assert digest != third.hash
    tamper(writer, f"UPDATE audit SET actor = 'nobody', hash = '{digest}' WHERE id = 3")
    assert check(read).problems == ["entry 4 was changed, or is not the one that followed entry 3"]


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("id = 3", "entry 3 is gone"),
        ("id IN (2, 3)", "entries 2 to 3 are gone"),
        ("id = 1", "entry 1 is gone"),
    ],
)
def test_a_deleted_row_is_found_and_named(write: Ask, read: Ask, writer: Connection, where: str, found: str) -> None:
    append(write, 5)
    tamper(writer, f"DELETE FROM audit WHERE {where}")
    assert check(read).problems == [found]


def test_an_inserted_row_is_found(write: Ask, read: Ask, writer: Connection) -> None:
    append(write, 3)
    columns = "timestamp, actor, action, category, description, context, status, trace_id"
    tamper(writer, f"INSERT INTO audit SELECT 4, {columns}, hash FROM audit WHERE id = 2")
    assert check(read).problems == ["entry 4 was changed, or is not the one that followed entry 3"]


@pytest.mark.parametrize("place", [0, -7, 2])
def test_a_row_that_was_put_in_before_the_chain_is_no_part_of_it(
    write: Ask, read: Ask, writer: Connection, place: int
) -> None:
    write(ArchiveAudit(head=append(write, 3), file="a.jsonl", digest="d"))
    write(DropArchived())
    append(write, 1)
    columns = "timestamp, actor, action, category, description, context, status, trace_id, hash"
    tamper(writer, f"INSERT INTO audit SELECT {place}, {columns} FROM audit WHERE id = 4")
    assert [entry.id for entry in read(ListAudit())] == ["4"]


def test_what_is_archived_is_listed_no_more_also_before_it_is_dropped(write: Ask, read: Ask) -> None:
    write(ArchiveAudit(head=append(write, 3), file="a.jsonl", digest="d"))
    assert read(ListAudit()) == []


def test_a_long_chain_is_looked_at_page_by_page(write: Ask, read: Ask) -> None:
    head = append(write, CHECKED_TOGETHER + 1)
    first = check(read)
    assert (first.head.id, first.is_end) == (CHECKED_TOGETHER, False)
    assert check(read, first.head) == CheckedPage(head, [], is_end=True)


def test_an_act_that_is_rolled_back_leaves_no_gap(write: Ask, read: Ask, writer: Connection) -> None:
    append(write, 1)
    with writer.begin() as transaction:
        append_in(writer, [act(1)])
        transaction.rollback()
    head = append(write, 1)
    assert head.id == 2
    assert check(read).problems == []


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'nobody' WHERE id = 1", "DELETE FROM audit"])
def test_the_database_itself_refuses_a_change(write: Ask, writer: Connection, statement: str) -> None:
    append(write, 2)
    with pytest.raises(IntegrityError, match="append-only"), writer.begin():
        writer.exec_driver_sql(statement)


def test_the_chain_goes_on_after_what_was_archived(write: Ask, read: Ask) -> None:
    archived = append(write, DROPPED_AT_ONCE + 1)
    write(ArchiveAudit(head=archived, file="a.jsonl", digest="d"))
    assert read(GetAuditExtent()) == AuditExtent(archived, archived)
    assert [write(DropArchived()) for _ in range(3)] == [True, False, False]
    assert read(ListAudit()) == []
    head = append(write, 2)
    assert head.id == archived.id + 2
    assert read(GetAuditExtent()) == AuditExtent(archived, head)
    assert check(read, archived) == CheckedPage(head, [], is_end=True)
    (archive,) = read(ListAuditArchives())
    assert (archive.first_id, archive.last_id, archive.last_hash, archive.file) == (
        1,
        archived.id,
        archived.hash,
        "a.jsonl",
    )


def test_acts_that_come_before_the_archived_ones_are_gone_stay(write: Ask, read: Ask) -> None:
    archived = append(write, 3)
    write(ArchiveAudit(head=archived, file="a.jsonl", digest="d"))
    head = append(write, 1)
    assert write(DropArchived()) is False
    assert [entry.id for entry in read(ListAudit())] == ["4"]
    assert check(read, archived) == CheckedPage(head, [], is_end=True)


def test_only_what_is_there_can_be_archived(write: Ask, read: Ask) -> None:
    head = append(write, 2)
    for wrong in (AuditHead(3, head.hash), AuditHead(2, "x"), AuditHead()):
        with pytest.raises(Conflict, match="no entry"):
            write(ArchiveAudit(head=wrong, file="a", digest="d"))
    assert read(ListAuditArchives()) == []


def test_the_hash_of_an_entry_can_be_looked_up(write: Ask, read: Ask) -> None:
    head = append(write, 2)
    assert read(GetAuditHash(id=2)) == head.hash
    assert read(GetAuditHash(id=3)) is None

from __future__ import annotations

import msgspec
import pytest
from pocketpaw.runtime.errors import NotFound
from pocketpaw.storage.self_audits import (
    AuditCheck,
    GetSelfAudit,
    KeepSelfAudit,
    ListSelfAudits,
    SelfAuditReport,
    SelfAuditSummary,
)
from pocketpaw.storage.tables import utc_now

from .conftest import Ask

CHECKS = [AuditCheck("Home folder", True, "ü", "critical"), AuditCheck("Log", False, "debug", "info")]
REPORT = SelfAuditReport("2026-05-04", utc_now(), 2, 1, 1, CHECKS)


def test_the_latest_report_of_a_day_counts(write: Ask, read: Ask) -> None:
    later = msgspec.structs.replace(REPORT, passed=2, issues=0)
    for report in (REPORT, msgspec.structs.replace(REPORT, date="2026-05-05"), later):
        write(KeepSelfAudit(report=report))
    assert read(GetSelfAudit(date="2026-05-04")) == later
    assert read(ListSelfAudits()) == [
        SelfAuditSummary("2026-05-05", 2, 1, 1),
        SelfAuditSummary("2026-05-04", 2, 2, 0),
    ]
    assert len(read(ListSelfAudits(limit=1))) == 1


def test_a_day_without_one_is_told(read: Ask) -> None:
    with pytest.raises(NotFound, match="2026-05-04"):
        read(GetSelfAudit(date="2026-05-04"))

"""A row of the table: what was measured, beside what it should be."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Row(msgspec.Struct, kw_only=True):
    """`ratio` is our figure over the peer's of the same round, the median of the rounds; a target is met or not by it.

    `is_met` is None where the row is only shown, or could not be measured; `note` then says why.
    """

    name: str
    target: str = ""
    value: float | None = None
    unit: str = ""
    peer: float | None = None
    ratio: float | None = None
    is_met: bool | None = None
    note: str = ""


def print_rows(title: str, peer: str, rows: Iterable[Row]) -> None:
    print(f"\n{title:44}{'here':>14}{peer:>12}{'ratio':>8}  target")
    for row in rows:
        value = f"{_short(row.value)} {row.unit}".rstrip()
        verdict = {True: "met", False: "MISSED", None: ""}[row.is_met]
        note = f" ({row.note})" if row.note else ""
        line = f"{row.name:44}{value:>14}{_short(row.peer):>12}{_short(row.ratio):>8}  {row.target:25}{verdict}{note}"
        print(line.rstrip(), flush=True)


def _short(value: float | None) -> str:
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"

"""Refused attempts of one kind: the first is told at once, those that follow within a minute as one number.

So whoever tries passwords cannot fill the disk.
"""

from __future__ import annotations

from collections.abc import Hashable

import msgspec

from ...storage.audit import Act

WINDOW_S = 60.0
KINDS = 1_000
"""Kinds of attempts that are told apart at a time; beyond it, all others count as one kind."""
OTHERS = "others"


class _Window:
    def __init__(self, act: Act, ends: float) -> None:
        self.act = act
        self.ends = ends
        self.more = 0


class Refusals:
    """`now` is on trio's clock."""

    def __init__(self) -> None:
        self._windows: dict[Hashable, _Window] = {}

    def is_first(self, act: Act, now: float) -> bool:
        """Whether it is to be told at once; otherwise it is counted."""
        kind: Hashable = (act.actor, act.action, act.context.get("peer"))
        if kind not in self._windows and len(self._windows) >= KINDS:
            kind = OTHERS
        window = self._windows.get(kind)
        if window is not None and (now < window.ends or window.more):  # what was counted is told by `ended` alone
            window.more += 1
            return False
        self._windows[kind] = _Window(act if kind != OTHERS else _mixed(act.category), now + WINDOW_S)
        return True

    def ended(self, now: float) -> list[Act]:
        """What was counted in the windows that are over, each as one act."""
        over = [kind for kind, window in self._windows.items() if window.ends <= now]
        windows = [self._windows.pop(kind) for kind in over]
        return [_together(window.act, window.more) for window in windows if window.more]


def _together(act: Act, more: int) -> Act:
    context = {"peer": act.context.get("peer"), "times": more}
    text = f"{more} more within {WINDOW_S:g} s: {act.description}"
    return msgspec.structs.replace(act, description=text, context=context, trace_id="")


def _mixed(category: str) -> Act:
    text = "attempts of more kinds than are told apart"
    return Act(actor="several", action=OTHERS, category=category, description=text, status="refused")

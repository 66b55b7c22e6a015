"""Random programs against the whole of supervision (`supervisor_machine.py`).

The long run: `SOAK_EXAMPLES=10000 pytest -m soak tests/runtime/test_supervisor_machine.py`.
"""

from __future__ import annotations

import os

import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from .supervisor_machine import STEPS, STRATEGIES, TREES, Plan, Step, play

PROGRAMS = given(plans=TREES, strategy=STRATEGIES, steps=st.lists(STEPS, max_size=40))
SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)


@pytest.mark.timeout(120)
@settings(
    max_examples=int(os.environ.get("MACHINE_EXAMPLES", "250")),
    deadline=None,
    suppress_health_check=SLOW,
    derandomize=True,
)
@PROGRAMS
def test_whatever_happens_the_rules_hold(plans: tuple[Plan, ...], strategy: str, steps: list[Step]) -> None:
    trio.run(play, plans, strategy, steps, clock=MockClock(autojump_threshold=0))


@pytest.mark.soak
@pytest.mark.timeout(7200)
@settings(
    max_examples=int(os.environ.get("SOAK_EXAMPLES", "10000")),
    deadline=None,
    suppress_health_check=SLOW,
    phases=[Phase.generate, Phase.shrink],
)
@PROGRAMS
def test_whatever_happens_the_rules_hold_for_long(plans: tuple[Plan, ...], strategy: str, steps: list[Step]) -> None:
    trio.run(play, plans, strategy, steps, clock=MockClock(autojump_threshold=0))

"""The runtime is usable alone: the program that ARCHITECTURE.md shows runs, and it needs nothing else of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).with_name("example.py")

WHAT_IS_IMPORTED = """
import sys
import pocketpaw.runtime
print(*sorted(sys.modules))
"""


def run(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments], check=True, capture_output=True, text=True, timeout=60
    ).stdout


def test_the_example_crashes_and_is_healed() -> None:
    assert run(str(EXAMPLE)).splitlines() == [
        "Quotient(value=0.5, incarnation=1)",
        "divider crashed (ZeroDivisionError: float division by zero) before it answered",
        "Quotient(value=0.25, incarnation=2)",
    ]


def test_importing_the_runtime_imports_nothing_of_the_rest() -> None:
    modules = run("-c", WHAT_IS_IMPORTED).split()
    ours = {name.split(".")[1] for name in modules if name.startswith("pocketpaw.")}
    assert ours <= {"runtime", "config"}
    assert {name.split(".")[0] for name in modules}.isdisjoint(
        {"quart", "quart_trio", "hypercorn", "sqlalchemy", "alembic", "mcp", "httpx2", "click", "rich"}
    )

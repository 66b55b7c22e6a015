"""How good are the supervisor's tests? Break its code in every small way, and see whether a test notices.

    nice -n 10 .venv/bin/python tests/runtime/mutation.py [--modules supervisor.py …] [--workers 2] [--list]

Each mutant is one changed place of the syntax tree. In a fork of this process its functions are put in the place of the
original's, and the supervisor's tests run until the first failure; a time-out counts as noticed, as broken supervision
often hangs. What survives is printed as a diff, and the share of survivors at the end; those of `EQUIVALENT` cannot be
told from the original.
"""

from __future__ import annotations

import argparse
import ast
import copy
import dataclasses
import difflib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, cast

import pytest

ROOT = Path(__file__).parents[2]
MODULES = ("supervisor.py", "family.py", "record.py", "node.py", "child.py", "spec.py", "exits.py")
TESTS = ("otp_restart", "otp_start", "limits", "lives", "negative", "passivation", "details", "machine")
TEST_TIMEOUT_S = 10
RUN_TIMEOUT_S = 120.0
PLAIN = (int, float, str, tuple)

EQUIVALENT: dict[str, str] = {
    "exponent = min(failures - 1, 65)": "both are far past any cap",
    "+        if not self._is_sweeping:": "a sweep that finds nothing to sweep ends at once",
    "if isinstance(record.node, Cell) and self._nursery is not": "it is asked again: this saves a task for each",
    "cell.kill(error)\n-    return False": "None is as good; and it is asked again, but is being killed then",
    "left = [record.node for record in self.records.values()]": "to stop one that has ended does nothing",
    "\n                 self._end(life, Exit('killed'))\n-                raise": "its nursery's body is cancelled too",
    "self._remove(record, 'was deleted mutated')": "whoever is down keeps no mail, so nobody reads why",
    "self._remove(record, 'has gone to rest mutated')": "it has no mail, so nobody reads why",
}
"""Lines of a mutant's diff, and why no test can tell it from the original."""

Change = Callable[[ast.AST], None]

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip


# Mutants --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    module: str
    line: int
    what: str
    source: str
    diff: str

    @property
    def excuse(self) -> str | None:
        """Why it cannot be told from the original, if so."""
        return next((why for lines, why in EQUIVALENT.items() if lines in self.diff), None)

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.what}"


def mutants_of(module: str) -> Iterator[Mutant]:
    tree = ast.parse((ROOT / "runtime" / module).read_text())
    original = ast.unparse(tree)
    for index, node in enumerate(list(walk(tree))):
        for what, change in changes(node):
            mutated = copy.deepcopy(tree)
            change(next(twin for at, twin in enumerate(walk(mutated)) if at == index))
            source = ast.unparse(ast.fix_missing_locations(mutated))
            if source != original:
                lines = list(difflib.unified_diff(original.splitlines(), source.splitlines(), lineterm="", n=1))[2:]
                yield Mutant(module, line_of(node), what, source, "\n".join(lines))


def line_of(node: ast.AST) -> int:
    """Where `node` begins; a comprehension says it only of its parts."""
    return getattr(node, "lineno", 0) or getattr(getattr(node, "target", None), "lineno", 0)


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that does something: not annotations, which nobody reads, nor assertions, nor the names of tasks."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns") or (name == "targets" and isinstance(node, ast.Assign)):
            continue
        children = cast("list[object]", value if isinstance(value, list) else [value])
        for child in children:
            if isinstance(child, ast.AST) and not is_idle(child):
                yield from walk(child)


def is_idle(node: ast.AST) -> bool:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True  # a docstring
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__":
        return True
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return True
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("TypeVar", "cast"):
        return True
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
        return True  # a type
    return isinstance(node, ast.Assert | ast.Import | ast.ImportFrom) or (
        isinstance(node, ast.keyword) and node.arg in ("name", "slots")
    )


def changes(node: ast.AST) -> Iterator[tuple[str, Change]]:
    """What can be broken at `node`: a name for it, and how to do it to a copy of the node."""
    yield from operators(node)
    yield from values(node)
    yield from statements(node)


def operators(node: ast.AST) -> Iterator[tuple[str, Change]]:
    match node:
        case ast.Compare():
            for at, operator in enumerate(node.ops):
                if type(operator) in COMPARISONS:
                    yield "comparison", put_item("ops", at, COMPARISONS[type(operator)]())
        case ast.BoolOp():
            yield "and/or", put("op", ast.Or() if isinstance(node.op, ast.And) else ast.And())
            for at in range(len(node.values)):
                yield "operand left out", put("values", [*node.values[:at], *node.values[at + 1 :]])
        case ast.BinOp() if type(node.op) in ARITHMETIC:
            yield "arithmetic", put("op", ARITHMETIC[type(node.op)]())
        case ast.UnaryOp(op=ast.Not()):
            yield "not left out", put("op", ast.UAdd())
        case ast.AugAssign():
            yield "counts the other way", put("op", ast.Sub() if isinstance(node.op, ast.Add) else ast.Add())
        case _:
            pass


def values(node: ast.AST) -> Iterator[tuple[str, Change]]:
    match node:
        case ast.Constant():
            yield from constants(node)
        case ast.If() | ast.While() | ast.IfExp():
            yield "condition negated", put("test", ast.UnaryOp(ast.Not(), node.test))
        case ast.Return(value=ast.expr()) if not is_none(node.value):
            yield "returns None", put("value", ast.Constant(None))
        case ast.comprehension(ifs=[_, *_]):
            yield "filter left out", put("ifs", [])
        case _:
            pass


def constants(node: ast.Constant) -> Iterator[tuple[str, Change]]:
    if isinstance(node.value, bool):
        yield "constant", put("value", not node.value)
    elif isinstance(node.value, int | float):
        yield "constant", put("value", node.value + 1)
    elif isinstance(node.value, str):
        yield "text", put("value", f"{node.value} mutated")


def statements(node: ast.AST) -> Iterator[tuple[str, Change]]:
    if isinstance(node, ast.Module | ast.ClassDef):
        return
    for name in ("body", "orelse", "finalbody"):
        body: list[ast.stmt] | ast.expr = getattr(node, name, [])  # of a lambda or a choice it is an expression
        for at, statement in enumerate(body if isinstance(body, list) else []):
            if not isinstance(statement, ast.Pass | ast.FunctionDef | ast.AsyncFunctionDef) and not is_idle(statement):
                yield f"left out: {ast.unparse(statement).splitlines()[0][:60]}", put_item(name, at, ast.Pass())


def is_none(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def put(name: str, value: object) -> Change:
    def change(node: ast.AST) -> None:
        setattr(node, name, value)

    return change


def put_item(name: str, at: int, value: object) -> Change:
    def change(node: ast.AST) -> None:
        getattr(node, name)[at] = value

    return change


# Trying them ----------------------------------------------------------------------------------------------------------


class Trial:
    """A pytest plugin that, instead of running the tests once, runs them for each mutant in a fork of this process."""

    def __init__(self, mutants: list[Mutant], workers: int) -> None:
        self.mutants = mutants
        self.workers = workers
        self.survivors: list[Mutant] = []
        self.hung = 0
        """Runs that were ended because they took too long: broken, or the machine is busy."""
        self._items: list[pytest.Item] = []
        self._running: dict[int, tuple[Mutant, float, int]] = {}
        self._has_failed = False

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._items = list(session.items)
        assert self._alone(Mutant("record.py", 0, "none", "", "")), "the tests fail without a mutant"
        began = time.monotonic()
        for number, mutant in enumerate(self.mutants, 1):
            if len(self._running) >= self.workers:
                self._reap()
            self._fork(mutant)
            if number % 50 == 0:
                print(f"… {number} of {len(self.mutants)}, {time.monotonic() - began:.0f} s", flush=True)
        while self._running:
            self._reap()
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._has_failed = self._has_failed or report.failed

    def _alone(self, mutant: Mutant) -> bool:
        self._fork(mutant)
        self._reap()
        return mutant in self.survivors and self.survivors.pop() is mutant

    def _fork(self, mutant: Mutant) -> None:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid:
            os.close(writing)
            self._running[pid] = (mutant, time.monotonic() + RUN_TIMEOUT_S, reading)
            return
        try:
            os.setpgid(0, 0)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            apply(mutant)
            for at, item in enumerate(self._items):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
                if self._has_failed:
                    os.write(writing, str(at).encode())
                    os._exit(1)
            os._exit(0)
        finally:
            os._exit(2)

    def _reap(self) -> None:
        """Wait until one fork has ended, or its time is up."""
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                break
            for late in [pid for pid, (_, until, _) in self._running.items() if time.monotonic() > until]:
                os.killpg(late, signal.SIGKILL)
                self._running[late] = (self._running[late][0], float("inf"), self._running[late][2])
                self.hung += 1
            time.sleep(0.01)
        mutant, _, reading = self._running.pop(pid)
        with os.fdopen(reading) as pipe:
            first_failed = pipe.read()
        if first_failed:  # what notices one mutant often notices its neighbour too
            self._items.insert(0, self._items.pop(int(first_failed)))
        if status == 0:
            self.survivors.append(mutant)
            if mutant.source:
                print(f"SURVIVES {mutant}\n{mutant.diff}\n", flush=True)


def apply(mutant: Mutant) -> None:
    """Make this process run the mutant: give the functions and the plain values of the module their mutated form."""
    if not mutant.source:
        return
    module = sys.modules[f"pocketpaw.runtime.{mutant.module.removesuffix('.py')}"]
    mutated: dict[str, Any] = {"__name__": module.__name__, "__package__": module.__package__}
    exec(compile(mutant.source, mutant.module, "exec"), mutated)
    for name, new in mutated.items():
        old = getattr(module, name, None)
        if isinstance(new, type) and new.__module__ == module.__name__ and isinstance(old, type):
            for attribute, value in vars(new).items():
                if not transplant(vars(old).get(attribute), value) and isinstance(value, PLAIN):
                    setattr(old, attribute, value)
        elif not transplant(old, new) and (isinstance(new, PLAIN) or dataclasses.is_dataclass(new)):
            for user in list(sys.modules.values()):
                if old is not None and getattr(user, "__dict__", {}).get(name) is old:
                    setattr(user, name, new)


def transplant(old: object, new: object) -> bool:
    """Give `old` the code of `new`, if they are functions."""
    for accessor in ("__func__", "fget", "fset", "__wrapped__"):
        if hasattr(old, accessor) and hasattr(new, accessor):
            transplant(getattr(old, accessor), getattr(new, accessor))
    if not isinstance(old, FunctionType) or not isinstance(new, FunctionType):
        return False
    if old.__code__.co_freevars == new.__code__.co_freevars:
        old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__
    elif not hasattr(old, "__wrapped__"):
        raise TypeError(f"{old.__qualname__} closes over something else: no longer the same function")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", nargs="+", default=list(MODULES))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="print the mutants and try none")
    options = parser.parse_args()
    mutants = [mutant for module in options.modules for mutant in mutants_of(module)]
    equivalent = [mutant for mutant in mutants if mutant.excuse]
    mutants = [mutant for mutant in mutants if not mutant.excuse]
    print(f"{len(mutants)} mutants, and {len(equivalent)} that are equivalent to the original", flush=True)
    if options.list:
        print("\n".join(map(str, mutants)))
        return
    os.environ["MACHINE_EXAMPLES"] = "60"
    trial = Trial(mutants, options.workers)
    files = [str(ROOT / f"tests/runtime/test_supervisor_{name}.py") for name in TESTS]
    quiet = ["-p", "no:terminal", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-s"]
    chosen = ["-o", "addopts=--import-mode=importlib", "-m", "not soak", f"--timeout={TEST_TIMEOUT_S}", *files]
    if pytest.main([*quiet, *chosen], plugins=[trial]):
        sys.exit("the tests could not be run")
    print(f"{len(trial.survivors)} of {len(mutants)} mutants survive: {len(trial.survivors) / len(mutants):.1%}")
    print(f"{trial.hung} of the others were noticed only by a time-out of the whole run")
    for mutant in trial.survivors:
        print(f"  {mutant}")


if __name__ == "__main__":
    main()

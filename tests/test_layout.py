"""The layout holds: imports point one way, no module hides one of Python's, and every test that is written is run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("config", "runtime", "storage", "actors", "http")
COMPOSITION_ROOT = {
    Path("runtime/daemon.py"),
    *(path.relative_to(ROOT) for path in (ROOT / "runtime/cli").glob("*.py")),
}
PRODUCT_WORDS = re.compile(
    r"\b(chats?|sessions?|telegram|discord|slack|openai|memor(y|ies) of|prompts?|sql)\b", re.IGNORECASE
)


def modules(*folders: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports_of(path: Path) -> Iterator[str]:
    """The absolute names of the modules that `path` imports, those of its own package under `pocketpaw.`."""
    package = ("pocketpaw", *path.parent.parts)
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (".".join((*base, name)) for name in names)


@pytest.mark.parametrize("path", modules(*LAYERS), ids=str)
def test_imports_point_one_way_and_are_relative_inside_the_package(path: Path) -> None:
    tree = ast.parse((ROOT / path).read_text())
    absolute = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    assert not [name for name in absolute if name and name.split(".")[0] == "pocketpaw"]
    if path in COMPOSITION_ROOT:
        return
    allowed = LAYERS[: LAYERS.index(path.parts[0]) + 1]
    ours = [name.split(".")[1] for name in imports_of(path) if name.startswith("pocketpaw.")]
    assert set(ours) <= set(allowed), f"{path} is in {path.parts[0]}"


def actor_model() -> list[Path]:
    """What `pocketpaw.runtime` is made of: the rest of the folder is the command's."""
    found: set[Path] = set()
    next_ones = [Path("runtime/__init__.py"), Path("runtime/inspection.py")]
    while next_ones:
        path = next_ones.pop()
        if path not in found:
            found.add(path)
            names = [name.split(".") for name in imports_of(path) if name.startswith("pocketpaw.runtime.")]
            next_ones += [Path("runtime", f"{parts[2]}.py") for parts in names]
    return sorted(found)


def test_the_actor_model_does_not_import_what_starts_it() -> None:
    assert not COMPOSITION_ROOT & set(actor_model())


@pytest.mark.parametrize("path", actor_model(), ids=str)
def test_the_actor_model_knows_no_product_word(path: Path) -> None:
    names = {
        name
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        for name in (getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "name", None))
        if isinstance(name, str)
    }
    words = {word for name in names for word in re.split(r"_|(?<=[a-z])(?=[A-Z])", name)}
    assert not [word for word in words if PRODUCT_WORDS.fullmatch(word)]


def test_http_is_a_folder_without_an_init_so_that_pythons_own_wins() -> None:
    assert not (ROOT / "http/__init__.py").exists()


@pytest.mark.parametrize("path", modules(*LAYERS), ids=str)
def test_no_module_is_named_after_one_of_pythons_or_after_nothing(path: Path) -> None:
    assert path.stem not in sys.stdlib_module_names
    assert path.stem not in {"utils", "helpers", "common", "misc"}


def test_every_folder_but_http_says_what_it_is() -> None:
    for folder in {path.parent for path in modules(*LAYERS)} - {Path("http")}:
        assert ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text())), folder


def written_tests(path: Path) -> set[str]:
    """The test functions of a file, in it or in its classes named `Test…`. A class of another name is not collected."""
    found: set[str] = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{name}" for name in _tests_in(node.body)}
        else:
            found |= _tests_in([node])
    return found


def _tests_in(body: list[ast.stmt]) -> set[str]:
    functions = (node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


def test_every_test_that_is_written_is_collected(collected: frozenset[str], request: pytest.FixtureRequest) -> None:
    is_whole = request.config.args == ["tests"]
    files = modules("tests") if is_whole else {Path(one.partition("::")[0]) for one in collected}
    written = {f"{path}::{name}" for path in files for name in written_tests(path)}
    # Written but not collected is a class or a file that pytest does not look into. (The other way round is fine: a
    # state machine's test is made where it is assigned.)
    assert sorted(written - collected) == []


def test_no_two_tests_of_one_file_have_the_same_name() -> None:
    for path in modules("tests"):
        functions = [
            node.name
            for node in ast.parse((ROOT / path).read_text()).body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        ]
        assert len(functions) == len(set(functions)), path


HEAVY = set(
    "alembic bs4 cronsim cryptography dateparser httpcore2 httpx2 mcp pydantic segno xllamacpp yaml".split()  # noqa: SIM905
)


def test_a_daemon_that_needs_nothing_heavy_imports_nothing_heavy() -> None:
    """Each costs megabytes and start-up time, which only those pay who use it."""
    program = f"import sys, pocketpaw.runtime.daemon; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

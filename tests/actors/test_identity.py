from __future__ import annotations

import stat
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio
import trio.testing
from pocketpaw.actors.identity import (
    DEFAULT,
    DEFAULTS,
    LIMIT_BYTES,
    ChangeIdentity,
    GetIdentity,
    Identity,
    IdentityKeeper,
)
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.runtime import ActorSystem, Child, Supervisor
from pocketpaw.runtime.errors import InvalidInput, Unavailable
from structlog.testing import capture_logs


class CountingIdentity(Identity):
    """Holds its first reading at its end, until it may go on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.readings = 0
        self.is_reading = threading.Event()
        self.may_go_on = threading.Event()

    def _read(self) -> dict[str, str]:
        texts = super()._read()
        self.readings += 1
        self.is_reading.set()
        assert self.may_go_on.wait(10)
        return texts


async def test_without_files_there_is_a_default(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert await Identity(tmp_path).text() == DEFAULT
    assert await Identity(tmp_path / "nowhere").text() == DEFAULT
    assert await Identity(tmp_path / "file").text() == DEFAULT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where every text is there and says nothing, so that no default does."""
    for name in DEFAULTS:
        (tmp_path / name).touch()
    return tmp_path


async def test_the_texts_come_in_their_order_and_empty_ones_are_left_out(folder: Path) -> None:
    (folder / "USER.md").write_text("The user is Ann.\n")
    (folder / "IDENTITY.md").write_text("\nYou are Rex.")
    (folder / "STYLE.md").write_text(" \n")
    assert await Identity(folder).text() == "You are Rex.\n\nThe user is Ann."


async def test_what_is_not_there_stands_for_its_default(tmp_path: Path) -> None:
    (tmp_path / "SOUL.md").write_text("You are strict.")
    text = await Identity(tmp_path).text()
    assert text.startswith(DEFAULTS["IDENTITY.md"])
    assert "You are strict." in text
    assert DEFAULTS["SOUL.md"] not in text
    assert DEFAULTS["INSTRUCTIONS.md"] in text


async def test_an_identity_of_nothing_is_the_default(folder: Path) -> None:
    assert await Identity(folder).text() == DEFAULT


async def test_a_change_is_seen_at_once(folder: Path) -> None:
    identity, file = Identity(folder), folder / "SOUL.md"
    texts: list[str] = []
    for text in ("kind", "strict", ""):
        file.write_text(text)
        texts.append(await identity.text())
    file.write_text("kind")
    await identity.text()
    file.unlink()
    assert [*texts, await identity.text()] == ["kind", "strict", DEFAULT, DEFAULTS["SOUL.md"]]


async def test_a_file_that_cannot_be_read_counts_as_it_was_and_is_reported_once(folder: Path) -> None:
    identity, file = Identity(folder), folder / "SOUL.md"
    file.write_text("kind")
    (folder / "STYLE.md").write_text("brief")
    await identity.text()
    file.unlink()
    file.mkdir()  # which is how a file is unreadable for root, too
    with capture_logs() as logs:
        texts = [await identity.text(), await identity.text()]
    file.rmdir()
    assert texts == ["kind\n\nbrief", "kind\n\nbrief"]
    assert [(entry["log_level"], entry["file"]) for entry in logs] == [("warning", str(file))]
    assert await identity.text() == f"{DEFAULTS['SOUL.md']}\n\nbrief"


async def test_those_who_ask_together_share_a_reading_that_began_after_they_asked(folder: Path) -> None:
    identity, file = CountingIdentity(folder), folder / "SOUL.md"
    file.write_text("kind")
    texts: list[str] = []

    async def ask() -> None:
        texts.append(await identity.text())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        while not identity.is_reading.is_set():  # noqa: ASYNC110 a thread sets it
            await trio.sleep(0.001)
        file.write_text("strict")
        for _ in range(10):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked(0.01)
        identity.may_go_on.set()
    assert texts == ["kind"] + ["strict"] * 10
    assert identity.readings == 2


async def test_a_file_that_is_no_text_or_too_long_does_no_harm(folder: Path) -> None:
    (folder / "SOUL.md").write_bytes(b"\xff\xfe" + b"x" * (2 * LIMIT_BYTES))
    text = await Identity(folder).text()
    assert text.startswith("\ufffd\ufffdx")
    assert len(text) == LIMIT_BYTES


Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]


async def test_the_texts_are_shown_and_any_of_them_written(live: LiveSettings, running: Running) -> None:
    folder = live.home.identity
    async with running(Supervisor("root", [Child(IdentityKeeper, live, id="identity")])) as system:
        shown = await system.ask(GetIdentity())
        assert [shown.identity_file, shown.soul_file, shown.style_file, shown.instructions_file, shown.user_file] == [
            *DEFAULTS.values()
        ]
        assert list(folder.iterdir()) == []
        changed = await system.ask(ChangeIdentity(user_file="The user is Ann.\n", soul_file=""))
        assert (changed.ok, changed.updated) == (True, ["soul_file", "user_file"])
        shown = await system.ask(GetIdentity())
        assert (shown.user_file, shown.soul_file) == ("The user is Ann.\n", "")
        assert stat.S_IMODE((folder / "USER.md").stat().st_mode) == 0o600
        assert (await Identity(folder).text()).endswith("The user is Ann.")
        assert (await system.ask(ChangeIdentity())).updated == []
        await system.ask(ChangeIdentity(user_file=None, style_file=None))
        assert sorted(path.name for path in folder.iterdir()) == ["SOUL.md"]


async def test_a_text_that_the_model_would_not_read_to_its_end_is_refused(live: LiveSettings, running: Running) -> None:
    async with running(Supervisor("root", [Child(IdentityKeeper, live, id="identity")])) as system:
        await system.ask(ChangeIdentity(user_file="ä" * (LIMIT_BYTES // 2)))
        with pytest.raises(InvalidInput, match=r"32,768 bytes.*got 32,770"):
            await system.ask(ChangeIdentity(soul_file="x", user_file="ä" * (LIMIT_BYTES // 2 + 1)))
        assert (await system.ask(GetIdentity())).soul_file == DEFAULTS["SOUL.md"]
        (live.home.identity / "SOUL.md").mkdir()
        with pytest.raises(Unavailable, match="soul_file could not be saved"):
            await system.ask(ChangeIdentity(soul_file="x"))

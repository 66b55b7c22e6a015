from __future__ import annotations

import threading
from pathlib import Path

import trio
import trio.testing
from pocketpaw.actors.identity import DEFAULT, LIMIT_BYTES, Identity
from structlog.testing import capture_logs


class CountingIdentity(Identity):
    """Holds its first reading at its end, until it may go on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.readings = 0
        self.is_reading = threading.Event()
        self.may_go_on = threading.Event()

    def _read(self) -> list[str]:
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


async def test_the_texts_come_in_their_order_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "USER.md").write_text("The user is Ann.\n")
    (tmp_path / "IDENTITY.md").write_text("\nYou are Rex.")
    (tmp_path / "STYLE.md").write_text(" \n")
    assert await Identity(tmp_path).text() == "You are Rex.\n\nThe user is Ann."


async def test_a_change_is_seen_at_once(tmp_path: Path) -> None:
    identity, file = Identity(tmp_path), tmp_path / "SOUL.md"
    texts: list[str] = []
    for text in ("kind", "strict", ""):
        file.write_text(text)
        texts.append(await identity.text())
    file.write_text("kind")
    await identity.text()
    file.unlink()
    assert [*texts, await identity.text()] == ["kind", "strict", DEFAULT, DEFAULT]


async def test_a_file_that_cannot_be_read_counts_as_it_was_and_is_reported_once(tmp_path: Path) -> None:
    identity, file = Identity(tmp_path), tmp_path / "SOUL.md"
    file.write_text("kind")
    (tmp_path / "STYLE.md").write_text("brief")
    await identity.text()
    file.unlink()
    file.mkdir()  # which is how a file is unreadable for root, too
    with capture_logs() as logs:
        texts = [await identity.text(), await identity.text()]
    file.rmdir()
    assert texts == ["kind\n\nbrief", "kind\n\nbrief"]
    assert [(entry["log_level"], entry["file"]) for entry in logs] == [("warning", str(file))]
    assert await identity.text() == "brief"


async def test_those_who_ask_together_share_a_reading_that_began_after_they_asked(tmp_path: Path) -> None:
    identity, file = CountingIdentity(tmp_path), tmp_path / "SOUL.md"
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


async def test_a_file_that_is_no_text_or_too_long_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "SOUL.md").write_bytes(b"\xff\xfe" + b"x" * (2 * LIMIT_BYTES))
    text = await Identity(tmp_path).text()
    assert text.startswith("\ufffd\ufffdx")
    assert len(text) == LIMIT_BYTES

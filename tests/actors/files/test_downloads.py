"""An open file: what is said of it is said of what is sent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pocketpaw.actors.files.downloads import PIECE_BYTES, OpenFile, open_file, pull
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.actors.tools.excerpts import SNIFFED_BYTES
from pocketpaw.runtime.errors import Conflict, UnsupportedMedia

MakeLive = Callable[..., LiveSettings]


@pytest.fixture
def live(make_live: MakeLive, tmp_path: Path) -> LiveSettings:
    (tmp_path / "jail").mkdir()
    return make_live(file_jail_path=str(tmp_path / "jail"))


def jail(live: LiveSettings) -> Path:
    return Path(live.current.file_jail_path)


async def whole(file: OpenFile) -> list[bytes]:
    pieces: list[bytes] = []
    while piece := await pull(file):
        pieces.append(piece)
    file.close()
    return pieces


async def test_a_file_comes_in_pieces_and_a_part_of_it_too(live: LiveSettings) -> None:
    data = os.urandom(3 * PIECE_BYTES + 1)
    (jail(live) / "data").write_bytes(data)
    pieces = await whole(await open_file(live, "data"))
    assert (b"".join(pieces), [len(piece) for piece in pieces]) == (data, [PIECE_BYTES] * 3 + [1])
    file = await open_file(live, "data")
    file.choose(5, PIECE_BYTES + 1)
    assert b"".join(await whole(file)) == data[5 : PIECE_BYTES + 6]


async def test_what_is_added_meanwhile_is_not_read_and_what_is_cut_off_is_told(live: LiveSettings) -> None:
    log = jail(live) / "log"
    log.write_bytes(b"12345")
    file = await open_file(live, "log")
    log.write_bytes(b"1234567890")
    assert await whole(file) == [b"12345"]
    file = await open_file(live, "log")
    os.truncate(log, 0)
    with pytest.raises(Conflict, match="shorter"):
        await pull(file)
    file.close()


async def test_what_is_replaced_meanwhile_is_sent_as_it_was(live: LiveSettings) -> None:
    page = jail(live) / "page"
    page.write_text("old")
    file = await open_file(live, "page")
    (jail(live) / "new").write_text("new")
    (jail(live) / "new").replace(page)
    newer = await open_file(live, "page")
    newer.close()
    assert await whole(file) == [b"old"]
    assert file.tag != newer.tag


@pytest.mark.parametrize(
    ("name", "start", "media_type"),
    [
        ("a.txt", "x" * (SNIFFED_BYTES - 1) + "ü", "text/plain; charset=utf-8"),
        ("a", "x" * (SNIFFED_BYTES - 2) + "🙂", "text/plain; charset=utf-8"),
        ("a.qqq", "x\0", "application/octet-stream"),
        ("a.tar.gz", "x", "application/gzip"),
        ("a.csv.zst", "x", None),
        ("data:text,html", "x", None),
    ],
)
async def test_a_type_is_that_of_the_name_or_else_whether_it_is_text(
    live: LiveSettings, name: str, start: str, media_type: str | None
) -> None:
    (jail(live) / name).write_text(start)
    file = await open_file(live, name)
    file.close()
    if media_type is not None:
        assert file.media_type == media_type
    assert not file.media_type.startswith("text/html")


async def test_nothing_stays_open_where_it_is_no_file(live: LiveSettings) -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 as a list of names
    with pytest.raises(UnsupportedMedia):
        await open_file(live, ".")
    assert len(os.listdir("/proc/self/fd")) == len(before)  # noqa: PTH208

"""A folder as a zip: bounded, without links and secrets, and honest about what is not in it."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest
from pocketpaw.actors.files import folder_zip
from pocketpaw.actors.files.folder_zip import FolderZip, plan
from pocketpaw.actors.tools.jail import Jail
from pocketpaw.runtime.errors import TooLarge


@pytest.fixture
def jail(tmp_path: Path) -> Jail:
    root = tmp_path / "jail"
    root.mkdir()
    return Jail(str(root), tmp_path / "own")


def pieces(made: FolderZip) -> list[bytes]:
    found: list[bytes] = []
    while piece := made.read():
        found.append(piece)
    made.close()
    return found


def opened(made: FolderZip) -> zipfile.ZipFile:
    archive = zipfile.ZipFile(io.BytesIO(b"".join(pieces(made))))
    assert archive.testzip() is None
    return archive


def test_what_is_zipped_comes_out_as_it_was(jail: Jail) -> None:
    contents = {"random": os.urandom(3_000_000), "zeros": bytes(30_000_000), "ü.txt": "ü".encode(), "none": b""}
    for name, content in contents.items():
        (jail.root / name).write_bytes(content)
    os.utime(jail.root / "none", (0, 0))
    os.utime(jail.root / "ü.txt", (2**40, 2**40))
    made = plan(jail, ".")
    assert made.name == "jail.zip"
    with opened(made) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == contents
        assert archive.getinfo("none").date_time[0] == 1980


def test_it_is_made_in_small_pieces(jail: Jail) -> None:
    (jail.root / "random").write_bytes(os.urandom(5_000_000))
    for number in range(2_000):
        (jail.root / f"{number}.txt").write_text("small")
    sizes = [len(piece) for piece in pieces(plan(jail, "."))]
    assert max(sizes[:-1]) < folder_zip.PIECE_BYTES + 2 * folder_zip.READ_BYTES
    assert 10 < len(sizes) < 100


def test_what_is_left_out_is_listed_and_secrets_are_not_even_named(jail: Jail) -> None:
    (jail.root / ".ssh").mkdir()
    (jail.root / ".ssh/id_rsa").write_text("canary")
    (jail.root / "folder").mkdir()
    (jail.root / "folder/.netrc").write_text("canary")
    (jail.root / "folder/to_secret").symlink_to("../.ssh")
    (jail.root / "LEFT-OUT.txt").write_text("mine")
    os.mkfifo(jail.root / "pipe")
    with opened(plan(jail, ".")) as archive:
        assert archive.namelist() == ["LEFT-OUT.txt", "_LEFT-OUT.txt"]
        left = archive.read("_LEFT-OUT.txt").decode().splitlines()
        assert left == ["folder/to_secret: it is a link", "pipe: it is no plain file"]
        assert archive.read("LEFT-OUT.txt") == b"mine"


def test_what_changes_meanwhile_is_taken_as_it_was_planned(jail: Jail) -> None:
    for name in ("gone", "grown", "linked"):
        (jail.root / name).write_text("12345")
    (jail.root.parent / "outside").write_text("canary")
    made = plan(jail, ".")
    (jail.root / "gone").unlink()
    (jail.root / "grown").write_text("1234567890")
    (jail.root / "linked").unlink()
    (jail.root / "linked").symlink_to(jail.root.parent / "outside")
    with opened(made) as archive:
        assert archive.read("grown") == b"12345"
        left = archive.read("LEFT-OUT.txt").decode().splitlines()
        assert [line.partition(":")[0] for line in left] == ["gone", "linked"]
        assert archive.namelist() == ["grown", "LEFT-OUT.txt"]


def test_a_folder_beyond_the_bounds_is_refused_before_anything_is_sent(
    jail: Jail, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (jail.root / "sparse").open("wb") as file:
        file.truncate(folder_zip.SIZE_LIMIT_BYTES + 1)
    with pytest.raises(TooLarge, match="2000 MB"):
        plan(jail, ".")
    (jail.root / "sparse").unlink()
    monkeypatch.setattr(folder_zip, "FILES_LIMIT", 3)
    for number in range(4):
        (jail.root / f"{number}").touch()
    with pytest.raises(TooLarge, match="more than 3 files"):
        plan(jail, ".")
    deep = jail.root / "deep"
    for _ in range(folder_zip.DEPTH_LIMIT + 2):
        deep = deep / "d"
    deep.mkdir(parents=True)
    with pytest.raises(TooLarge, match="folders deep"):
        plan(jail, "deep")


def test_it_can_be_closed_at_any_time(jail: Jail) -> None:
    (jail.root / "random").write_bytes(os.urandom(3_000_000))
    made = plan(jail, ".")
    made.close()
    made = plan(jail, ".")
    assert made.read()
    made.close()
    made.close()
    assert made.read() == b""


def test_an_empty_folder_is_an_empty_zip(jail: Jail) -> None:
    with opened(plan(jail, ".")) as archive:
        assert archive.namelist() == []

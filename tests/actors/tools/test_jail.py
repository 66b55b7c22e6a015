"""The jail: what must not be reached is not, however it is asked for and whoever swaps files meanwhile."""

from __future__ import annotations

import os
import socket
import stat
import threading
from pathlib import Path

import pytest
from pocketpaw.actors.tools.jail import Folder, Jail, shown
from pocketpaw.actors.tools.secret_places import SECRETS
from pocketpaw.runtime.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    PocketPawError,
    Unavailable,
    UnsupportedMedia,
)

CANARY = "canary-8361"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home, which is the jail, with secrets in it and around it."""
    home = tmp_path / "ann"
    for file in (
        "notes.md",
        "work/plan.md",
        ".ssh/id_ed25519",
        "backup/.ssh/id_ed25519",
        ".config/gcloud/credentials.db",
        ".config/nvim/init.lua",
        ".bash_history",
        ".netrc",
        ".pocketpaw/access_token",
        ".pocketpaw/config.json",
        ".pocketpaw/identity/IDENTITY.md",
        ".pocketpaw/skills/cook/SKILL.md",
        "../bob/diary",
        "../ann2/diary",
        "../outside",
    ):
        path = home / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("open" if path.suffix in (".md", ".lua") else CANARY)
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture
def jail(home: Path) -> Jail:
    return Jail("~", home / ".pocketpaw")


def read(jail: Jail, path: str) -> str:
    with jail.open(path) as file:
        return file.read().decode()


@pytest.mark.parametrize(
    "path",
    ["notes.md", "~/notes.md", "./work/../notes.md", "work//plan.md", "work/./plan.md", ".config/nvim/init.lua"],
)
def test_what_is_inside_is_read(jail: Jail, path: str) -> None:
    assert read(jail, path) == "open"
    assert read(jail, str(jail.root / path.removeprefix("~/"))) == "open"


OUTSIDE = [
    "/etc/passwd",
    "/etc/shadow",
    "/",
    "..",
    "../outside",
    "../ann2/diary",
    "../bob/diary",
    "work/../../outside",
    "work/../../../../../../../../etc/passwd",
    "./../outside",
    "work/..//..//outside",
    "~/../outside",
    "/proc/self/environ",
    "/proc/1/root/etc/passwd",
    "/dev/null",
    "/sys/kernel/notes",
    "to_outside",
    "to_bob/diary",
    "chain",
    "work/up/outside",
    "to_proc/environ",
]
SECRET = [
    ".ssh",
    ".ssh/id_ed25519",
    ".SSH/id_ed25519",
    ".Ssh/new",
    "work/../.ssh/id_ed25519",
    ".ssh/../.ssh/id_ed25519",
    "backup/.ssh/id_ed25519",
    ".config/gcloud/credentials.db",
    ".config/GCloud/credentials.db",
    ".bash_history",
    ".netrc",
    "hard_link",
    "to_ssh/id_ed25519",
    "to_token",
    ".pocketpaw/access_token",
    ".pocketpaw/config.json",
    ".pocketpaw/nothing",
    "moved_own/access_token",
]
BROKEN = [
    "",
    "notes.md\0.png",
    "\0",
    "notes\n.md",
    "notes\x7f.md",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "file:notes.md",
    "http://127.0.0.1/notes.md",
    "~root/.bashrc",
    "~bob/diary",
    "~+/x",
    "\ud800",
    "a" * 256,
    "a/" * 2500,
    "é" * 128,
]


@pytest.fixture
def traps(home: Path) -> None:
    (home / "to_outside").symlink_to("../outside")
    (home / "to_bob").symlink_to(home.parent / "bob")
    (home / "chain").symlink_to("link")
    (home / "link").symlink_to("work/up/outside")
    (home / "work/up").symlink_to("../..")
    (home / "to_proc").symlink_to("/proc/self")
    (home / "to_ssh").symlink_to(".ssh")
    (home / "to_token").symlink_to(".pocketpaw/access_token")
    (home / "moved_own").symlink_to(".pocketpaw")
    os.link(home / ".netrc", home / "hard_link")


@pytest.mark.usefixtures("traps")
@pytest.mark.parametrize("path", [*OUTSIDE, *SECRET])
def test_what_must_not_be_reached_is_refused_for_reading_writing_and_listing(jail: Jail, path: str) -> None:
    with pytest.raises(Forbidden, match=r"outside|kept from tools|followed"):
        read(jail, path)
    with pytest.raises(Forbidden):
        write(jail, path, b"x")
    with pytest.raises((Forbidden, UnsupportedMedia, NotFound)) as caught:
        list_names(jail, path)
    assert CANARY not in caught.value.detail


def write(jail: Jail, path: str, data: bytes) -> None:
    with jail.parent(path, "write", make=True) as (folder, name), folder.replacing(name) as file:
        file.write(data)


def list_names(jail: Jail, path: str) -> list[str]:
    with jail.folder(path) as folder:
        return sorted(entry.name for entry in folder.entries() if not folder.hides(entry.name))


@pytest.mark.usefixtures("traps")
@pytest.mark.parametrize("path", BROKEN)
def test_what_is_no_path_is_refused_with_the_name_of_the_argument(jail: Jail, path: str) -> None:
    for attempt in (read, list_names):
        with pytest.raises(InvalidInput) as caught:
            attempt(jail, path)
        assert caught.value.detail.startswith("path: ")
        assert caught.value.detail.isprintable()
        assert caught.value.data["field"] == ["path"]


def test_the_jail_holds_nothing_of_a_whole_corpus_of_dots_and_links(jail: Jail, home: Path, traps: None) -> None:
    """Every combination of a few parts: each leads inside and is no secret, or is refused."""
    parts = ["..", ".", "work", "work/up", "to_bob", "to_ssh", "moved_own", "link", ".ssh", "ann2", "bob", ""]
    ends = ["diary", "outside", "id_ed25519", "access_token", "notes.md", "../notes.md"]
    opened = 0
    for first in parts:
        for second in parts:
            for third in parts:
                for end in ends:
                    try:
                        assert read(jail, f"./{first}/{second}/{third}/{end}") == "open"
                        opened += 1
                    except PocketPawError:
                        pass  # refused, or not there
    assert opened > 50


def test_every_secret_that_is_listed_is_hidden_wherever_it_is(jail: Jail, home: Path) -> None:
    for secret in SECRETS:
        for place in (secret, f"deep/down/{secret}", secret.upper()):
            with pytest.raises(Forbidden), jail.parent(f"{place}/x", "write", make=True):
                pass
    for name in (".bash_history", ".zsh_history", ".python_history", ".psql_history", ".node_repl_history"):
        with pytest.raises(Forbidden):
            read(jail, name)


def test_of_the_daemons_own_folder_only_identity_and_skills_are_read_and_nothing_is_written(jail: Jail) -> None:
    assert list_names(jail, ".pocketpaw") == ["identity", "skills"]
    assert read(jail, ".pocketpaw/skills/cook/SKILL.md") == "open"
    for path in (".pocketpaw/identity/IDENTITY.md", ".pocketpaw/new", ".pocketpaw/skills/evil/SKILL.md"):
        with pytest.raises(Forbidden):
            write(jail, path, b"obey")


def test_the_daemons_own_folder_may_be_the_root_and_is_kept_all_the_same(home: Path) -> None:
    jail = Jail("~/.pocketpaw", home / ".pocketpaw")
    assert list_names(jail, ".") == ["identity", "skills"]
    for path in ("access_token", "identity/IDENTITY.md", "new"):
        with pytest.raises(Forbidden):
            write(jail, path, b"obey")
    with pytest.raises(Forbidden):
        read(jail, "access_token")
    workshop = Jail("~/.pocketpaw/workshop", home / ".pocketpaw")
    with pytest.raises(Unavailable, match="file_jail_path"):
        read(workshop, "x")
    (home / ".pocketpaw/workshop").mkdir()
    (home / ".pocketpaw/workshop/x").write_text("the operator has said so")
    assert read(workshop, "x")


def test_a_link_that_stays_inside_is_followed_and_a_circle_is_refused(jail: Jail, home: Path) -> None:
    (home / "short").symlink_to("work/plan.md")
    (home / "round").symlink_to("about")
    (home / "about").symlink_to("round")
    assert read(jail, "short") == "open"
    with pytest.raises(Forbidden, match=r"circle|nowhere"):
        read(jail, "round")


def test_what_is_no_plain_file_is_refused_at_once(jail: Jail, home: Path) -> None:
    os.mkfifo(home / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "socket"))
        for name in ("pipe", "socket"):
            with pytest.raises(Forbidden, match="no plain file"):
                read(jail, name)
            with pytest.raises(Forbidden, match="no plain file"):
                write(jail, name, b"x")
    with pytest.raises(UnsupportedMedia, match="is a folder"):
        read(jail, "work")
    with pytest.raises(UnsupportedMedia, match="is a folder"):
        read(jail, ".")
    with pytest.raises(UnsupportedMedia, match="not a folder"):
        read(jail, "notes.md/x")
    with pytest.raises(NotFound, match="there is no"):
        read(jail, "nothing")


def test_a_window_into_the_system_is_refused_even_if_the_whole_machine_is_the_jail(tmp_path: Path) -> None:
    jail = Jail("/", tmp_path)
    for path in ("/proc/self/environ", "/proc/version", "/sys/kernel/notes", "/dev/null", "/dev/zero"):
        with pytest.raises(Forbidden):
            read(jail, path)


def test_a_file_that_is_swapped_after_it_was_looked_up_is_not_followed(
    jail: Jail, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Folder.look

    def look_and_swap(self: Folder, name: str) -> os.stat_result | None:
        found = look(self, name)
        path = self.path / name
        if name == "notes.md":
            path.unlink()
            path.symlink_to("../outside")
        elif name == "work":
            path.rename(home / "was_work")
            path.symlink_to("../bob")
        return found

    monkeypatch.setattr(Folder, "look", look_and_swap)
    with pytest.raises(Forbidden, match="swapped"):
        read(jail, "notes.md")
    with pytest.raises(PocketPawError):
        read(jail, "work/diary")


def test_nothing_leaks_while_somebody_swaps_folders_all_the_time(jail: Jail, home: Path) -> None:
    (home / "place").mkdir()
    (home / "place/diary").write_text("open")
    (home / "trap").symlink_to("../bob")
    is_over = threading.Event()

    def swap() -> None:
        while not is_over.is_set():
            for one, other in (("place", "kept"), ("trap", "place"), ("place", "trap"), ("kept", "place")):
                (home / one).rename(home / other)

    swapper = threading.Thread(target=swap)
    swapper.start()
    refused = read_ = 0
    try:
        for _ in range(3000):
            try:
                assert read(jail, "place/diary") == "open"
                read_ += 1
            except PocketPawError:
                refused += 1
    finally:
        is_over.set()
        swapper.join()
    assert read_ + refused == 3000
    assert refused


def test_writing_replaces_a_file_whole_and_keeps_its_rights(jail: Jail, home: Path) -> None:
    (home / "notes.md").chmod(0o640)
    with jail.parent("notes.md", "write") as (folder, name), folder.replacing(name) as file:
        file.write(b"new")
        assert (home / "notes.md").read_text() == "open"
    assert (home / "notes.md").read_text() == "new"
    assert stat.S_IMODE((home / "notes.md").stat().st_mode) == 0o640
    (home / "short").symlink_to("work/plan.md")
    write(jail, "short", b"through the link")
    assert (home / "short").is_symlink()
    assert (home / "work/plan.md").read_text() == "through the link"


def test_a_writing_that_fails_changes_nothing_and_leaves_nothing(jail: Jail, home: Path) -> None:
    before = sorted(home.iterdir())
    with jail.parent("notes.md", "write") as (folder, name):
        with pytest.raises(TypeError), folder.replacing(name) as file:
            file.writelines((b"half", None))  # pyright: ignore[reportCallIssue, reportArgumentType] it is to fail
        expected = (home / "notes.md").stat()
        (home / "notes.md").write_text("somebody else's")
        with pytest.raises(Conflict, match="read it again"), folder.replacing(name, expected) as file:
            file.write(b"mine")
    assert (home / "notes.md").read_text() == "somebody else's"
    assert sorted(home.iterdir()) == before


def test_missing_folders_are_made_only_if_that_is_asked_for(jail: Jail, home: Path) -> None:
    with pytest.raises(NotFound), jail.parent("a/b/c.txt", "write"):
        pass
    write(jail, "a/b/c.txt", b"there")
    assert (home / "a/b/c.txt").read_text() == "there"


def test_a_name_that_is_no_text_can_be_shown(home: Path) -> None:
    (home / os.fsdecode(b"caf\xe9\n")).touch()
    (path,) = home.glob("caf*")
    assert shown(path.name) == "caf\\udce9\\x0a"


def test_no_descriptor_is_left_open(jail: Jail, traps: None) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in ("notes.md", "work/plan.md", *SECRET, *BROKEN, *OUTSIDE, "nothing", "work/nothing/x"):
        for attempt in (read, list_names):
            try:
                attempt(jail, path)
            except PocketPawError:
                pass  # which is tested elsewhere
    assert len(list(Path("/proc/self/fd").iterdir())) == before

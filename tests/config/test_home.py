import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pocketpaw.config import Home, HomeError, Settings, access_token, home_path, open_home, regenerate_token


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return open_home(tmp_path / "paw")


def test_the_home_folder_is_where_it_is_set_or_under_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert home_path({}) == Path("/home/ann/.pocketpaw")
    assert home_path({"POCKETPAW_HOME": ""}) == Path("/home/ann/.pocketpaw")
    assert home_path({"POCKETPAW_HOME": "~/paw"}) == Path("/home/ann/paw")
    assert home_path({"POCKETPAW_HOME": "paw"}) == Path.cwd() / "paw"
    with pytest.raises(HomeError, match="set POCKETPAW_HOME"):
        home_path({"POCKETPAW_HOME": "~nobody-of-that-name/paw"})


def test_opening_makes_the_folder_for_its_owner_only(tmp_path: Path) -> None:
    home = open_home(tmp_path / "a" / "b")
    assert mode_of(home.root) == 0o700
    assert {path.name for path in home.root.iterdir()} == {"identity", "logs"}
    assert open_home(home.root) == home


def test_opening_tightens_a_loose_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert mode_of(open_home(tmp_path).root) == 0o700


def test_opening_removes_what_killed_writers_left(home: Home) -> None:
    old, new, other = (home.root / name for name in (".config.json.1.tmp", ".config.json.2.tmp", "notes.tmp"))
    for path in (old, new, other):
        path.touch()
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    open_home(home.root)
    assert [path.exists() for path in (old, new, other)] == [False, True, True]


def test_opening_takes_no_offence_at_what_another_writer_finishes_meanwhile(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def just_put_in_place(root: Path) -> list[Path]:
        return [root / ".vault.1.tmp"]

    monkeypatch.setattr("pocketpaw.config.home.temporaries", just_put_in_place)
    assert open_home(home.root) == home


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/paw"])
def test_a_folder_that_cannot_be_used_is_one_clear_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HomeError) as caught:
        open_home(tmp_path / place)
    text = str(caught.value)
    assert text.startswith(f"the home folder {tmp_path / place} cannot be used: ")
    assert text.endswith("; make it writable or set POCKETPAW_HOME")
    assert "\n" not in text


@pytest.mark.parametrize(("number", "opens"), [(13, False), (30, False), (28, True)])
def test_a_full_disk_is_no_reason_to_stay_down_but_a_read_only_one_is(
    home: Home, monkeypatch: pytest.MonkeyPatch, number: int, opens: bool
) -> None:
    def failing(path: Path, flags: int, mode: int = 0o777) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.open", failing)
    if opens:
        assert open_home(home.root) == home
    else:
        with pytest.raises(HomeError, match=os.strerror(number)):
            open_home(home.root)


def test_the_database_is_in_the_home_folder_unless_set(home: Home) -> None:
    assert home.database_url(Settings()) == f"sqlite:///{home.root}/pocketpaw.db"
    assert home.database_url(Settings(database_url="sqlite:////srv/x.db")) == "sqlite:////srv/x.db"


def test_the_first_access_token_is_made_and_kept(home: Home) -> None:
    token = access_token(home)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    assert home.access_token.read_text() == f"{token}\n"
    assert mode_of(home.access_token) == 0o600
    assert access_token(home) == token


def test_a_token_of_pocketpaw_is_taken_as_it_is_and_tightened(home: Home) -> None:
    home.access_token.write_text("11111111-2222-4333-8444-555555555555\n")
    home.access_token.chmod(0o644)
    assert access_token(home) == "11111111-2222-4333-8444-555555555555"
    assert mode_of(home.access_token) == 0o600


def test_all_who_ask_for_the_first_token_get_the_same(home: Home) -> None:
    for _ in range(20):
        home.access_token.unlink(missing_ok=True)
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(access_token, [home] * 8))) == 1
    assert not list(home.root.glob(".*"))


def test_an_empty_token_file_gets_a_token(home: Home) -> None:
    home.access_token.touch()
    assert access_token(home) == home.access_token.read_text().strip() != ""


@pytest.mark.parametrize(
    "content",
    [b"short\n", b"two words of some length\n", b"x" * 600, "geheim-geheim-ä".encode(), b"a" * 20 + b"\n" + b"b" * 20],
)
def test_a_file_that_holds_no_token_is_refused_and_left_alone(home: Home, content: bytes) -> None:
    home.access_token.write_bytes(content)
    with pytest.raises(HomeError, match="access_token") as caught:
        access_token(home)
    assert "geheim" not in str(caught.value)
    assert home.access_token.read_bytes() == content


def test_a_token_that_cannot_be_read_or_written_is_one_clear_line(home: Home) -> None:
    home.access_token.mkdir()
    with pytest.raises(HomeError, match="cannot be read: Is a directory"):
        access_token(home)
    with pytest.raises(HomeError, match="cannot be written: Is a directory"):
        regenerate_token(home)


def test_regenerating_replaces_the_token(home: Home) -> None:
    first = access_token(home)
    second = regenerate_token(home)
    assert second != first
    assert access_token(home) == second
    assert mode_of(home.access_token) == 0o600

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pocketpaw.config import Home, Vault, VaultError, load
from pocketpaw.config.load import SEALED_DATABASE
from pocketpaw.config.vault import NAMED

from .cut_short import cut_short

SECRETS = {
    "settings/telegram_bot_token": "4711:canary-telegram",
    "webhooks/door": "canary-door",
    "mcp/x/env/KEY": "ключ",
}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def vault(home: Home) -> Vault:
    """One that holds the secrets above."""
    vault = Vault(home)
    vault.change(SECRETS)
    return vault


def contents(home: Home) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in home.root.iterdir() if path.is_file()}


# Keeping --------------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_read_by_the_next_one_and_stands_nowhere_in_the_clear(home: Home, vault: Vault) -> None:
    assert Vault(home).read() == SECRETS
    assert {name: stat.S_IMODE((home.root / name).stat().st_mode) for name in contents(home)} == {
        "vault": 0o600,
        "vault.key": 0o600,
    }
    for secret in SECRETS.values():
        assert not any(secret.encode() in data for data in contents(home).values())
    assert [vault.get("webhooks/door"), vault.get("webhooks/window")] == ["canary-door", None]


def test_none_drops_a_secret_and_the_rest_stays(home: Home, vault: Vault) -> None:
    vault.change({"webhooks/door": None, "webhooks/nosuch": None, "mcp/x/env/KEY": "new"})
    left = {"settings/telegram_bot_token": "4711:canary-telegram", "mcp/x/env/KEY": "new"}
    assert vault.known() == Vault(home).read() == left


def test_what_is_so_already_is_not_written_again(home: Home, vault: Vault) -> None:
    before = contents(home)
    vault.change({"webhooks/door": "canary-door", "webhooks/nosuch": None})
    assert contents(home) == before
    vault.change({"webhooks/door": "another"})
    assert contents(home)["vault"] != before["vault"]
    assert contents(home)["vault.key"] == before["vault.key"]


def test_an_empty_vault_is_no_file_and_costs_nothing(home: Home) -> None:
    program = (
        "import sys; from pathlib import Path; from pocketpaw.config import *; home = Home(Path(sys.argv[1])); "
        "load(home, {}); Vault(home).change({'x': None}); Vault(home).rotate(); print('cryptography' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program, str(home.root)], capture_output=True, check=True)
    assert done.stdout.split() == [b"False"]
    assert contents(home) == {}


def test_the_same_secret_is_sealed_differently_each_time_and_place(home: Home) -> None:
    Vault(home).change({"a": "same", "b": "same"})
    entries = json.loads(home.vault.read_text())["entries"]
    assert entries["a"]["text"] != entries["b"]["text"]
    assert entries["a"]["nonce"] != entries["b"]["nonce"]


def test_threads_that_change_it_at_once_lose_nothing(home: Home) -> None:
    vault = Vault(home)
    threads = [threading.Thread(target=vault.change, args=({f"n{number}": "x"},)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Vault(home).read() == {f"n{number}": "x" for number in range(8)}


# What cannot be opened ------------------------------------------------------------------------------------------------


def another_key(home: Home) -> None:
    other = Home(home.root / "other")
    other.root.mkdir()
    Vault(other).change({"x": "y"})
    shutil.copy2(other.vault_key, home.vault_key)
    shutil.rmtree(other.root)


def as_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_a_link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("away"))


def edited(home: Home, edit: Callable[[dict[str, dict[str, str]]], None]) -> None:
    document = json.loads(home.vault.read_text())
    edit(document["entries"])
    home.vault.write_text(json.dumps(document))


def flip(entry: dict[str, str], field: str) -> None:
    entry[field] = ("B" if entry[field][0] == "A" else "A") + entry[field][1:]


def swap(entries: dict[str, dict[str, str]]) -> None:
    one, other = "webhooks/door", "settings/telegram_bot_token"
    entries[one], entries[other] = entries[other], entries[one]


DAMAGES: dict[str, tuple[Callable[[Home], object], str, str]] = {
    "wrong key": (another_key, "vault.key", "not the key of this vault"),
    "no key": (lambda home: home.vault_key.unlink(), "vault.key", "it is gone"),
    "empty key": (lambda home: home.vault_key.write_text("\n"), "vault.key", "it is empty"),
    "key for everybody": (lambda home: home.vault_key.chmod(0o644), "vault.key", r"may read it \(mode 0644\)"),
    "key for the group": (lambda home: home.vault_key.chmod(0o640), "vault.key", r"may read it \(mode 0640\)"),
    "key is a folder": (lambda home: as_a_folder(home.vault_key), "vault.key", "cannot be read: Is a directory"),
    "key is words": (lambda home: home.vault_key.write_text("let me in"), "vault.key", "line 1 is no key"),
    "key is bytes": (lambda home: home.vault_key.write_bytes(b"\xff\x00"), "vault.key", "line 1 is no key"),
    "key is damaged": (
        lambda home: home.vault_key.write_text(home.vault_key.read_text().swapcase()),
        "vault.key",
        "the key in line 1 is damaged",
    ),
    "key is on a disk that is away": (
        lambda home: as_a_link_to_nothing(home.vault_key),
        "vault.key",
        "a link to .*away, which is not there",
    ),
    "vault is on a disk that is away": (
        lambda home: as_a_link_to_nothing(home.vault),
        "vault",
        "a link to .*away, which is not there",
    ),
    "vault is gone": (lambda home: home.vault.unlink(), "vault", "the vault is gone"),
    "vault is emptied": (lambda home: home.vault.write_bytes(b""), "vault", "it is damaged"),
    "vault is cut off": (lambda home: home.vault.write_bytes(home.vault.read_bytes()[:-9]), "vault", "it is damaged"),
    "vault is something else": (lambda home: home.vault.write_bytes(b"[1]"), "vault", "it is damaged"),
    "vault is bytes": (lambda home: home.vault.write_bytes(b'{"\xff": 1}'), "vault", "it is damaged"),
    "vault is nested too deep": (
        lambda home: home.vault.write_bytes(b'{"version": 1, "entries": {}, "x": ' + b"[" * 100_000),
        "vault",
        "it is damaged",
    ),
    "vault is a folder": (lambda home: as_a_folder(home.vault), "vault", "cannot be read: Is a directory"),
    "vault is of a newer version": (
        lambda home: home.vault.write_text('{"version": 2, "entries": {}}'),
        "vault",
        "a newer PocketPaw",
    ),
    "vault has a newer form": (
        lambda home: home.vault.write_text('{"version": 2, "entries": [1]}'),
        "vault",
        "a newer PocketPaw",
    ),
    "an entry is damaged": (
        lambda home: edited(home, lambda entries: flip(entries["webhooks/door"], "text")),
        "vault",
        "the entry webhooks/door is damaged",
    ),
    "a nonce is damaged": (
        lambda home: edited(home, lambda entries: flip(entries["webhooks/door"], "nonce")),
        "vault",
        "the entry webhooks/door is damaged",
    ),
    "two entries are swapped": (lambda home: edited(home, swap), "vault", "not where it was"),
    "an entry has another name": (
        lambda home: edited(home, lambda entries: entries.update({"settings/x": entries.pop("webhooks/door")})),
        "vault",
        "the entry settings/x is damaged, or not where it was",
    ),
}


@pytest.mark.parametrize(("damage", "file", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_what_cannot_be_opened_is_named_with_what_to_do_and_is_left_as_it_is(
    home: Home, vault: Vault, damage: Callable[[Home], object], file: str, reason: str
) -> None:
    damage(home)
    before = contents(home)
    fresh = Vault(home)
    for call in (fresh.read, fresh.rotate, lambda: fresh.change({"a": "b"}), lambda: fresh.get("webhooks/door")):
        with pytest.raises(VaultError, match=reason) as caught:
            call()
        assert caught.value.path == home.root / file
        assert str(caught.value).startswith(str(home.root / file))
        assert "restart the daemon" in caught.value.fix_hint or "Install" in caught.value.fix_hint
        assert "canary" not in f"{caught.value} {caught.value.fix_hint}"
    assert contents(home) == before
    assert fresh.refresh() == {}


def test_a_key_on_a_disk_that_is_away_is_not_made_anew_for_a_vault_that_is_empty(home: Home, vault: Vault) -> None:
    vault.change(dict.fromkeys(SECRETS))
    as_a_link_to_nothing(home.vault_key)
    with pytest.raises(VaultError, match="which is not there"):
        Vault(home).change({"a": "b"})
    assert home.vault_key.is_symlink()


def test_a_vault_that_is_lost_while_it_is_used_goes_on_being_read_but_not_written(home: Home, vault: Vault) -> None:
    home.vault_key.unlink()
    assert vault.refresh() == SECRETS
    assert vault.get("webhooks/door") == "canary-door"
    with pytest.raises(VaultError):
        vault.get("webhooks/window")
    with pytest.raises(VaultError):
        vault.change({"webhooks/door": "another"})


def test_a_problem_that_is_told_again_and_again_does_not_grow(home: Home, vault: Vault) -> None:
    home.vault_key.unlink()
    fresh = Vault(home)
    fresh.refresh()
    for _ in range(3):
        with pytest.raises(VaultError):
            fresh.get("x")
    assert fresh.problem is not None
    assert fresh.problem.__traceback__ is None


def test_what_is_lost_is_named_and_much_of_it_is_counted(home: Home) -> None:
    Vault(home).change({f"webhooks/{number:02}": "x" for number in range(NAMED + 5)})
    home.vault_key.unlink()
    with pytest.raises(VaultError, match=r"webhooks/00, .*webhooks/19 and 5 more"):
        Vault(home).read()


def test_the_names_can_be_read_without_the_key(home: Home, vault: Vault) -> None:
    home.vault_key.unlink()
    assert Vault(home).names() == sorted(SECRETS)
    home.vault.write_text("{")
    with pytest.raises(VaultError):
        Vault(home).names()


def test_a_vault_that_is_gone_is_not_listed_as_an_empty_one(home: Home, vault: Vault) -> None:
    home.vault.unlink()
    with pytest.raises(VaultError, match="the vault is gone"):
        Vault(home).names()


def test_a_first_secret_that_was_cut_short_is_no_loss(home: Home) -> None:
    for _step in cut_short(home.root, "vault.change({'a': 'b'})"):
        assert Vault(home).read() in ({}, {"a": "b"})
        Vault(home).change({"c": "d"})
        assert Vault(home).read()["c"] == "d"
        for path in home.root.iterdir():
            path.unlink()


# A new key ------------------------------------------------------------------------------------------------------------


def test_after_a_new_key_the_old_one_opens_nothing(home: Home, vault: Vault) -> None:
    old = home.vault_key.read_bytes()
    assert vault.rotate() == len(SECRETS)
    assert Vault(home).read() == SECRETS
    assert len(home.vault_key.read_text().splitlines()) == 1
    home.vault_key.write_bytes(old)
    with pytest.raises(VaultError, match="not the key of this vault"):
        Vault(home).read()


def test_a_new_key_that_was_cut_short_at_any_step_leaves_everything_readable_and_is_finished_by_the_next(
    home: Home, vault: Vault
) -> None:
    steps = 0
    for step in cut_short(home.root, "vault.rotate()"):
        steps = step
        assert Vault(home).read() == SECRETS, step
        Vault(home).change({"new": str(step)})
        assert Vault(home).rotate() == len(SECRETS) + 1
        assert len(home.vault_key.read_text().splitlines()) == 1
        assert Vault(home).read() == {**SECRETS, "new": str(step)}
        Vault(home).change({"new": None})
    assert steps >= 15, "three files, each opened, written, put in place, and its name made durable"
    assert Vault(home).read() == SECRETS


def test_whoever_reads_while_another_process_renews_the_key_looks_again(home: Home, vault: Vault) -> None:
    class Interrupted(Vault):
        is_first = True

        def _entries(self):  # noqa: ANN202 - what the class has
            entries = super()._entries()
            if self.is_first:
                self.is_first = False
                vault.rotate()
            return entries

    assert Interrupted(home).read() == SECRETS


def test_the_settings_find_what_is_in_the_vault(home: Home, vault: Vault) -> None:
    loaded = load(home, {})
    assert loaded.settings.telegram_bot_token == "4711:canary-telegram"
    assert loaded.sources["telegram_bot_token"] == "vault"
    home.config.write_text('{"telegram_bot_token": "by-hand"}')
    assert load(home, {}).settings.telegram_bot_token == "by-hand"
    assert load(home, {"POCKETPAW_TELEGRAM_BOT_TOKEN": "outside"}).sources["telegram_bot_token"] == "environment"


def test_a_secret_in_the_vault_that_cannot_be_used_is_to_be_set_anew(home: Home) -> None:
    Vault(home).change({"settings/telegram_bot_token": "two canaries"})
    (problem,) = load(home, {}).problems
    assert (problem.source, problem.fix_hint) == ("vault", "Set telegram_bot_token anew.")


SEALED_ADDRESS = {"settings/database_url": "postgresql+psycopg://ann:canary@db.lan/paw"}


def open_for_everybody(home: Home) -> None:
    home.vault_key.chmod(0o644)


def gone(home: Home) -> None:
    home.vault.unlink()


def cut_off(home: Home) -> None:
    home.vault.write_text("{")


@pytest.mark.parametrize("damage", [open_for_everybody, cut_off, gone])
def test_another_database_does_not_stand_in_for_the_one_whose_address_cannot_be_read(
    home: Home, damage: Callable[[Home], None]
) -> None:
    Vault(home).change(SEALED_ADDRESS)
    damage(home)
    loaded = load(home, {})
    assert (home.database_url(loaded.settings), loaded.sources["database_url"]) == (SEALED_DATABASE, "vault")
    home.config.write_text('{"database_url": "sqlite:////paw.db"}')
    assert load(home, {}).settings.database_url == "sqlite:////paw.db"


def test_who_has_no_database_elsewhere_keeps_it_when_the_vault_cannot_be_opened(home: Home, vault: Vault) -> None:
    open_for_everybody(home)
    assert load(home, {}).settings.database_url == ""
    home.database.touch()
    cut_off(home)
    assert load(home, {}).settings.database_url == ""


def test_a_vault_that_cannot_be_opened_is_a_problem_beside_settings_that_can_be_used(home: Home, vault: Vault) -> None:
    home.config.write_text('{"ollama_model": "qwen3"}')
    home.vault_key.chmod(0o644)
    loaded = load(home, {})
    assert (loaded.settings.ollama_model, loaded.settings.telegram_bot_token) == ("qwen3", "")
    (problem,) = loaded.problems
    assert (problem.setting, problem.source) == ("vault", str(home.vault_key))
    assert f"chmod 600 {home.vault_key}" in problem.fix_hint

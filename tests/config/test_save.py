import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from pocketpaw.config import (
    Home,
    SettingError,
    Settings,
    UnreadableFileError,
    Vault,
    VaultError,
    keep_last_good,
    load,
    save,
    take_in_secrets,
)

from .cut_short import cut_short
from .test_load import POCKETPAW, documents


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_saved_settings_are_loaded_again(home: Home) -> None:
    save(home, {"web_port": 9000, "tools_deny": ["shell"], "channel_autostart": {"slack": True}, "allowed_user_id": 7})
    loaded = load(home, {})
    expected = Settings(web_port=9000, tools_deny=("shell",), channel_autostart={"slack": True}, allowed_user_id=7)
    assert loaded.settings == expected
    assert loaded.problems == ()


def test_keys_of_pocketpaw_are_kept_in_their_order(home: Home) -> None:
    home.config.write_text(json.dumps(POCKETPAW))
    save(home, {"openai_compatible_model": "other", "web_port": 9000})
    written = json.loads(home.config.read_text())
    in_vault = "openai_compatible_api_key"
    assert list(written) == [*(name for name in POCKETPAW if name != in_vault), "web_port"]
    assert {**written, in_vault: POCKETPAW[in_vault]} == POCKETPAW | {
        "openai_compatible_model": "other",
        "web_port": 9000,
    }


def test_none_takes_a_setting_out(home: Home) -> None:
    save(home, {"web_port": 9000, "log_level": "debug"})
    save(home, {"web_port": None, "web_host": None})
    assert json.loads(home.config.read_text()) == {"log_level": "debug"}


def test_the_files_are_for_their_owner_only(home: Home) -> None:
    home.config.write_text("{}")
    home.config.chmod(0o644)
    save(home, {"anthropic_api_key": "sk-ant-geheim"})
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.root.iterdir()}
    assert modes == dict.fromkeys(("config.json", "config.json.last-good", "vault", "vault.key"), 0o600)


@pytest.mark.parametrize("change", [{"web_port": 99_999}, {"nonsense": 1}, {"web_port": 1, "log_level": "loud"}])
def test_a_bad_change_is_refused_as_a_whole(home: Home, change: dict[str, object]) -> None:
    save(home, {"web_port": 9000})
    before = home.config.read_bytes()
    with pytest.raises(SettingError):
        save(home, change)
    assert home.config.read_bytes() == before


@pytest.mark.parametrize("content", [b"{", b"", b"[]", b"\xff"])
def test_a_file_that_could_not_be_read_is_never_written_over(home: Home, content: bytes) -> None:
    save(home, {"web_port": 9000})
    good = home.last_good.read_bytes()
    home.config.write_bytes(content)
    with pytest.raises(UnreadableFileError, match=r"config\.json"):
        save(home, {"web_port": 1})
    assert not keep_last_good(home)
    assert home.config.read_bytes() == content
    assert home.last_good.read_bytes() == good


def test_a_file_with_a_bad_value_can_be_saved_but_is_no_good_copy(home: Home) -> None:
    home.config.write_text('{"web_port": 99999}')
    save(home, {"log_level": "debug"})
    assert json.loads(home.config.read_text()) == {"web_port": 99_999, "log_level": "debug"}
    assert not home.last_good.exists()
    save(home, {"web_port": 9000})
    assert json.loads(home.last_good.read_text()) == {"web_port": 9000, "log_level": "debug"}


def test_what_an_editor_wrote_becomes_the_good_copy_at_the_next_start(home: Home) -> None:
    assert keep_last_good(home), "no file is a good one"
    assert not home.last_good.exists()
    home.config.write_text('{"web_port": 9000}')
    assert keep_last_good(home)
    kept = home.last_good.stat()
    assert keep_last_good(home)
    assert home.last_good.stat() == kept, "the same content is not written again"
    home.last_good.write_text("{")
    assert keep_last_good(home)
    assert json.loads(home.last_good.read_text()) == {"web_port": 9000}


def test_a_link_to_the_file_stays_a_link(home: Home, tmp_path_factory: pytest.TempPathFactory) -> None:
    target = tmp_path_factory.mktemp("dotfiles") / "paw.json"
    target.write_text("{}")
    home.config.symlink_to(target)
    save(home, {"web_port": 9000})
    assert home.config.is_symlink()
    assert json.loads(target.read_text()) == {"web_port": 9000}


@pytest.mark.parametrize(
    ("call", "which"),
    [(call, which) for call in ("os.open", "os.fsync") for which in (1, 2, 3)]
    + [("pathlib.Path.replace", which) for which in (1, 2)],
)
def test_a_failing_disk_leaves_the_old_file_and_no_other(
    home: Home, monkeypatch: pytest.MonkeyPatch, call: str, which: int
) -> None:
    home.config.write_text('{"web_port": 9000}')
    calls = 0
    real = {"os.open": os.open, "os.fsync": os.fsync, "pathlib.Path.replace": Path.replace}[call]

    def failing(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == which:
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownVariableType]

    monkeypatch.setattr(call, failing)
    with pytest.raises(OSError, match="No space left"):
        save(home, {"web_port": 1})
    monkeypatch.undo()
    assert home.config.read_text() == '{"web_port": 9000}'
    assert {path.name for path in home.root.iterdir()} <= {"config.json", "config.json.last-good"}


WRITER = """
import sys
from pathlib import Path
from pocketpaw.config import Home, save
home = Home(Path(sys.argv[1]))
for number in range(1, 10**9):
    save(home, {"web_port": number % 60_000, "tools_deny": ["x" * 5_000] * (number % 7)})
    print(number, flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(home: Home) -> None:
    save(home, {"web_port": 1})
    for round_ in range(12):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(home.root)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "1\n"
        time.sleep(round_ * 0.0007)
        writer.send_signal(signal.SIGKILL)
        acknowledged = writer.stdout.read().split()
        writer.stdout.close()
        writer.wait()
        loaded = load(home, {})
        assert loaded.problems == ()
        port, last = loaded.settings.web_port, int((acknowledged or ["1"])[-1])
        assert port in (last, last + 1), "what was acknowledged is there"
        assert len(loaded.settings.tools_deny) == port % 7
        assert json.loads(home.last_good.read_text())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=documents)
def test_saving_changes_what_it_names_and_nothing_else(home: Home, document: dict[str, object]) -> None:
    home.config.write_text(json.dumps(document))
    save(home, {"web_port": 9000, "log_level": None})
    expected = {key: value for key, value in document.items() if key != "log_level"} | {"web_port": 9000}
    assert json.loads(home.config.read_text()) == expected
    assert load(home, {}).settings.web_port == 9000


# Secrets --------------------------------------------------------------------------------------------------------------

TOKEN = "4711:canary-telegram"
OTHER_TOKEN = "xoxb-canary-slack"
DATABASE = "postgresql+psycopg://ann:canary-password@db.lan/paw"


def in_the_clear(home: Home, *secrets: str) -> set[str]:
    """The files in which one of these stands."""
    return {path.name for path in home.root.iterdir() for secret in secrets if secret.encode() in path.read_bytes()}


def test_a_secret_is_saved_in_the_vault_and_the_rest_in_the_file(home: Home) -> None:
    save(home, {"telegram_bot_token": TOKEN, "database_url": DATABASE, "web_port": 9000})
    assert json.loads(home.config.read_text()) == json.loads(home.last_good.read_text()) == {"web_port": 9000}
    loaded = load(home, {})
    expected = Settings(telegram_bot_token=TOKEN, database_url=DATABASE, web_port=9000)
    assert (loaded.settings, loaded.problems) == (expected, ())
    assert in_the_clear(home, TOKEN, DATABASE, "canary") == set()


def test_a_secret_that_is_taken_back_leaves_the_vault(home: Home) -> None:
    save(home, {"telegram_bot_token": TOKEN, "slack_bot_token": OTHER_TOKEN, "database_url": DATABASE})
    save(home, {"telegram_bot_token": None, "slack_bot_token": "", "database_url": "sqlite:////paw.db"})
    assert Vault(home).read() == {}
    assert load(home, {}).settings == Settings(database_url="sqlite:////paw.db")


def test_secrets_in_the_files_are_taken_into_the_vault_and_nothing_else_is_changed(home: Home) -> None:
    others = {**POCKETPAW, "channel_autostart": {"slack": True}}
    home.config.write_text(json.dumps({**others, "telegram_bot_token": TOKEN, "database_url": DATABASE}))
    home.last_good.write_text(json.dumps({**others, "telegram_bot_token": "canary-of-before"}))
    vault = Vault(home)
    assert take_in_secrets(home, vault) == ["database_url", "openai_compatible_api_key", "telegram_bot_token"]
    kept = {name: value for name, value in others.items() if name != "openai_compatible_api_key"}
    assert list(json.loads(home.config.read_text()).items()) == list(kept.items())
    assert keep_last_good(home, vault)
    assert json.loads(home.last_good.read_text()) == kept
    loaded = load(home, {})
    assert (loaded.settings.telegram_bot_token, loaded.settings.database_url) == (TOKEN, DATABASE)
    assert loaded.settings.openai_compatible_api_key == "sk-fake"
    assert loaded.problems == ()
    assert in_the_clear(home, "canary", "sk-fake") == set()
    before = {path.name: path.read_bytes() for path in home.root.iterdir()}
    assert take_in_secrets(home, vault) == []
    assert {path.name: path.read_bytes() for path in home.root.iterdir()} == before


def test_what_was_written_by_hand_is_newer_than_what_the_vault_has(home: Home) -> None:
    save(home, {"telegram_bot_token": "canary-of-before"})
    home.config.write_text(json.dumps({"telegram_bot_token": TOKEN}))
    assert load(home, {}).settings.telegram_bot_token == TOKEN
    save(home, {"web_port": 9000})
    assert json.loads(home.config.read_text()) == {"web_port": 9000}
    assert load(home, {}).settings.telegram_bot_token == TOKEN


def test_what_is_set_outside_the_files_is_not_stored(home: Home) -> None:
    environ = {"POCKETPAW_TELEGRAM_BOT_TOKEN": TOKEN}
    assert load(home, environ, {"slack_bot_token": OTHER_TOKEN}).settings.slack_bot_token == OTHER_TOKEN
    assert take_in_secrets(home, Vault(home)) == []
    assert list(home.root.iterdir()) == []


def test_a_secret_that_cannot_be_used_stays_where_its_problem_is_told_and_the_good_one_is_taken(home: Home) -> None:
    home.config.write_text('{"telegram_bot_token": "two words", "slack_bot_token": 5}')
    home.last_good.write_text(json.dumps({"telegram_bot_token": TOKEN, "matrix_access_token": "was-taken-out"}))
    assert take_in_secrets(home, Vault(home)) == ["telegram_bot_token"]
    loaded = load(home, {})
    assert loaded.settings == Settings(telegram_bot_token=TOKEN)
    assert [problem.setting for problem in loaded.problems] == ["telegram_bot_token", "slack_bot_token"]
    assert in_the_clear(home, TOKEN, "was-taken-out") == set()


def test_beside_a_file_that_cannot_be_read_the_good_copys_secrets_are_taken(home: Home) -> None:
    home.config.write_text("{ broken")
    home.last_good.write_text(json.dumps({"telegram_bot_token": TOKEN, "web_port": 9000}))
    assert take_in_secrets(home, Vault(home)) == ["telegram_bot_token"]
    assert home.config.read_text() == "{ broken"
    assert json.loads(home.last_good.read_text()) == {"web_port": 9000}
    assert load(home, {}).settings == Settings(telegram_bot_token=TOKEN, web_port=9000)


def test_a_backend_of_pocketpaw_finds_its_key_in_the_vault(home: Home) -> None:
    home.config.write_text(json.dumps({"agent_backend": "claude_agent_sdk", "anthropic_api_key": "sk-ant-x"}))
    vault = Vault(home)
    assert take_in_secrets(home, vault) == ["anthropic_api_key"]
    assert keep_last_good(home, vault)
    assert json.loads(home.last_good.read_text()) == {"agent_backend": "claude_agent_sdk"}
    assert (load(home, {}).settings.agent_backend, load(home, {}).problems) == ("anthropic", ())


@pytest.mark.parametrize(
    "change", [{"telegram_bot_token": "new"}, {"telegram_bot_token": None}, {"database_url": DATABASE, "web_port": 1}]
)
def test_while_the_vault_cannot_be_opened_no_secret_is_changed_and_anything_else_is(
    home: Home, change: dict[str, object]
) -> None:
    save(home, {"telegram_bot_token": TOKEN, "web_port": 9000})
    home.vault_key.unlink()
    home.config.write_text(json.dumps({"slack_bot_token": OTHER_TOKEN, "web_port": 9000}))
    before = {path.name: path.read_bytes() for path in home.root.iterdir()}
    with pytest.raises(VaultError):
        save(home, change)
    with pytest.raises(VaultError):
        take_in_secrets(home, Vault(home))
    assert {path.name: path.read_bytes() for path in home.root.iterdir()} == before
    assert keep_last_good(home, Vault(home))
    assert in_the_clear(home, OTHER_TOKEN) == {"config.json"}, "no second place"
    save(home, {"web_port": 9001})
    assert home.vault.read_bytes() == before["vault"]
    assert json.loads(home.config.read_text()) == {"slack_bot_token": OTHER_TOKEN, "web_port": 9001}
    assert load(home, {}).settings == Settings(slack_bot_token=OTHER_TOKEN, web_port=9001)
    assert in_the_clear(home, OTHER_TOKEN) == {"config.json"}, "no second place"


def test_a_file_that_cannot_be_written_leaves_the_vault_as_it_was(home: Home) -> None:
    save(home, {"telegram_bot_token": TOKEN})
    home.last_good.unlink()
    home.last_good.mkdir()
    with pytest.raises(IsADirectoryError):
        save(home, {"telegram_bot_token": "new", "slack_bot_token": OTHER_TOKEN, "web_port": 9000})
    assert load(home, {}).settings == Settings(telegram_bot_token=TOKEN)


def test_moving_secrets_that_is_cut_short_at_any_step_loses_none(home: Home) -> None:
    written = json.dumps({"web_port": 9000, "telegram_bot_token": TOKEN, "note": "mine"})
    home.config.write_text(written)
    steps = 0
    for step in cut_short(home.root, "take_in_secrets(home, vault)"):
        steps = step
        for _ in range(2):
            assert load(home, {}).settings == Settings(telegram_bot_token=TOKEN, web_port=9000), step
            take_in_secrets(home, Vault(home))
        assert json.loads(home.config.read_text()) == {"web_port": 9000, "note": "mine"}
        for path in home.root.iterdir():
            path.unlink()
        home.config.write_text(written)
    assert steps > 15

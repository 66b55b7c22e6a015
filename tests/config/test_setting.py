import re
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pocketpaw.config import SETTINGS, SettingError, check, parse
from pocketpaw.config.setting import table

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("web_port", 0, 0),
        ("web_port", 65_535, 65_535),
        ("turn_timeout_s", 30, 30.0),
        ("openai_compatible_base_url", " http://127.0.0.1:9099/v1/ ", "http://127.0.0.1:9099/v1"),
        ("openai_compatible_api_key", "sk-fake\n", "sk-fake"),
        ("discord_gateway_url", "ws://127.0.0.1:1", "ws://127.0.0.1:1"),
        ("fallback_backends", ["ollama", "cli:claude"], ("ollama", "cli:claude")),
        ("discord_allowed_user_ids", [1, 2**60], (1, 2**60)),
        ("channel_autostart", {"telegram": False}, {"telegram": False}),
        ("allowed_user_id", 42, 42),
        ("allowed_user_id", None, None),
        ("web_port", None, 8888),
        ("database_url", "postgresql+psycopg://paw:geheim@db/paw", "postgresql+psycopg://paw:geheim@db/paw"),
    ],
)
def test_a_right_value_is_taken(name: str, value: object, expected: object) -> None:
    assert check(name, value) == expected


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("web_port", 65_536, "expected `int` <= 65535, got 65536"),
        ("web_port", "8888", "expected `int`, got `str`"),
        ("web_port", True, "expected `int`, got `bool`"),
        ("web_port", 10**30, "expected `int` <= 65535"),
        ("turn_timeout_s", float("nan"), "expected `float` >= 1.0"),
        ("localhost_auth_bypass", "false", "expected `bool`, got `str`"),
        ("agent_backend", "gpt", "or cli:<name>, got 'gpt'"),
        ("fallback_backends", ["ollama", "gpt"], "expected a list of auto, embedded"),
        ("slack_allowed_channel_ids", "shell", "expected `array`, got `str`"),
        ("slack_allowed_channel_ids", ["a\nb"], "expected one line of printable text"),
        ("user_typo", 1, "there is no such setting"),
        ("web_host", "two words", "expected a host name or an IP address, got 'two words'"),
        ("ollama_host", "localhost:11434", "expected an address such as https://host/path"),
        ("ollama_host", f"http://ann:{'x' * 8192}@lan", "expected at most 8192 characters, got 8207"),
        ("slack_allowed_channel_ids", ["a", "x" * 8193], "expected at most 8192 characters, got 8193"),
        ("ollama_model", "\ud800", "expected one line of printable text"),
        ("allowed_user_id", 2**63, "expected a user's number"),
        ("self_audit_schedule", "daily", "expected five cron fields"),
        ("database_url", "mysql://paw:geheim@db/paw", "got 'mysql://paw:…@db/paw'"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_expected_and_what_came(
    name: str, value: object, complaint: str
) -> None:
    with pytest.raises(SettingError, match=re.escape(complaint)) as caught:
        check(name, value)
    assert caught.value.setting == name
    assert str(caught.value).startswith(f"{name}: ")


@pytest.mark.parametrize("value", ["geheim geheim", "geheim\x00", ["geheim"], {"geheim": 1}, "geheim" * 1400])
def test_the_refusal_of_a_secret_does_not_show_it(value: object) -> None:
    with pytest.raises(SettingError) as caught:
        check("telegram_bot_token", value)
    assert "geheim" not in str(caught.value)


def test_a_key_pasted_where_its_file_belongs_is_refused_and_not_shown() -> None:
    with pytest.raises(SettingError, match="the path of the key's file") as caught:
        check("gchat_service_account_key", '{"private_key": "geheim"}')
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("web_port", " 9000 ", 9000),
        ("turn_timeout_s", "2.5", 2.5),
        ("localhost_auth_bypass", "No", False),
        ("localhost_auth_bypass", "1", True),
        ("openai_compatible_model", "123", "123"),
        ("allowed_user_id", "42", 42),
        ("tools_deny", "shell, browser,", ("shell", "browser")),
        ("tools_deny", '["shell"]', ("shell",)),
        ("discord_allowed_user_ids", "1, 2", (1, 2)),
        ("channel_autostart", '{"telegram": false}', {"telegram": False}),
    ],
)
def test_text_from_the_environment_is_read_by_the_type(name: str, text: str, expected: object) -> None:
    value = parse(name, text)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("web_port", "eighty", "expected `int`, got `str`"),
        ("web_port", "", "expected `int`, got `str`"),
        ("localhost_auth_bypass", "maybe", "expected true or false, got 'maybe'"),
        ("tools_deny", '["shell"', "expected JSON"),
        ("channel_autostart", "telegram", "expected JSON"),
        ("channel_autostart", "[" * 100_000, "expected JSON"),
        ("ollama_model", "\udcff", "expected printable text"),
    ],
)
def test_text_that_means_no_value_is_refused(name: str, text: str, complaint: str) -> None:
    with pytest.raises(SettingError, match=re.escape(complaint)):
        parse(name, text)


@given(st.sampled_from(sorted(SETTINGS)), json_values)
def test_any_json_value_is_either_taken_for_good_or_refused(name: str, value: object) -> None:
    try:
        taken = check(name, value)
    except SettingError:
        return
    assert check(name, msgspec.json.decode(msgspec.json.encode(taken))) == taken


@given(st.sampled_from(sorted(SETTINGS)), st.text() | st.from_regex(r"\A[\[{]?[\w, .\"]*[\]}]?\Z"))
def test_any_text_is_either_taken_for_good_or_refused(name: str, text: str) -> None:
    try:
        taken = parse(name, text)
    except SettingError:
        return
    assert check(name, msgspec.json.decode(msgspec.json.encode(taken))) == taken


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("openai_compatible_api_key", "sk-abcdefghijklmnop1234", "sk-…1234"),
        ("openai_compatible_api_key", "sk-fake", "…"),
        ("openai_compatible_api_key", "x" * 19, "…"),
        ("openai_compatible_api_key", "", ""),
        ("database_url", "postgresql+psycopg://paw:p@ss/wd@db/paw", "postgresql+psycopg://paw:…@db/paw"),
        (
            "database_url",
            "postgresql+psycopg://db/paw?user=paw&password=geheim",
            "postgresql+psycopg://db/paw?user=paw&password=…",
        ),
        ("database_url", "sqlite:////srv/paw.db", "sqlite:////srv/paw.db"),
        ("openai_compatible_base_url", "http://127.0.0.1:9099/v1", "http://127.0.0.1:9099/v1"),
        ("web_port", 8888, 8888),
    ],
)
def test_a_mask_shows_too_little_to_be_used(name: str, value: object, shown: object) -> None:
    assert SETTINGS[name].mask(value) == shown


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_a_mask_is_told_from_a_secret(secret: str) -> None:
    setting = SETTINGS["anthropic_api_key"]
    assert setting.is_mask(setting.mask(secret))
    assert not setting.is_mask(secret)
    assert secret != setting.mask(secret)


def test_a_mask_is_no_secret_that_could_be_stored() -> None:
    with pytest.raises(SettingError):
        check("anthropic_api_key", "sk-…1234")


def test_a_field_that_is_not_described_is_refused() -> None:
    class Bare(msgspec.Struct):
        port: Annotated[int, msgspec.Meta(ge=1)] = 1

    with pytest.raises(TypeError, match="port is not described"):
        table(Bare)

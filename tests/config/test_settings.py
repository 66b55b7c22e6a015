import re
import subprocess
import sys

import msgspec
import pytest
from pocketpaw.config import SETTINGS, Setting, SettingError, Settings, accept, is_mask, masked, rows
from pocketpaw.config.document import Document
from rich.pretty import pretty_repr

CONTRACT = re.findall(
    r"\w+",
    """
agent_backend fallback_backends openai_compatible_base_url openai_compatible_api_key openai_compatible_model
openai_compatible_max_tokens anthropic_api_key anthropic_model ollama_host ollama_model litellm_api_base litellm_api_key
litellm_model openrouter_api_key openrouter_model gemini_model google_api_key web_host web_port localhost_auth_bypass
session_token_ttl_hours api_cors_allowed_origins api_rate_limit_per_key file_jail_path max_concurrent_conversations
memory_backend file_auto_learn compaction_recent_window compaction_char_budget compaction_summary_chars
compaction_llm_summarize tool_profile tools_allow tools_deny injection_scan_enabled self_audit_enabled
self_audit_schedule health_check_on_startup notifications_enabled notification_channels channel_autostart
webhook_sync_timeout media_max_file_size_mb telegram_bot_token allowed_user_id discord_bot_token
discord_allowed_user_ids slack_bot_token slack_app_token signal_api_url matrix_homeserver matrix_user_id
matrix_access_token teams_app_id teams_app_password whatsapp_access_token whatsapp_phone_number_id
whatsapp_verify_token gchat_mode gchat_service_account_key gchat_project_id gchat_subscription_id
gchat_allowed_space_ids database_url embedded_idle_s agent_idle_s turn_timeout_s log_level log_format telegram_api_url
discord_api_url discord_gateway_url slack_api_url anthropic_base_url
""",
)

KEY = "sk-abcdefghijklmnop1234"
DATABASE = "postgresql+psycopg://paw:geheim@db/paw"


def test_every_setting_of_the_contract_is_there() -> None:
    assert set(CONTRACT) <= set(SETTINGS)


def test_the_defaults_are_the_ones_agreed() -> None:
    settings = Settings()
    assert settings.agent_backend == "auto"
    assert (settings.web_host, settings.web_port) == ("127.0.0.1", 8888)
    assert settings.localhost_auth_bypass is True
    assert settings.max_concurrent_conversations == 32
    assert (settings.agent_idle_s, settings.embedded_idle_s, settings.turn_timeout_s) == (120, 300, 600)
    assert settings.api_rate_limit_per_key == 600
    assert settings.session_token_ttl_hours == 24


@pytest.mark.parametrize("row", rows(), ids=[row.name for row in rows()])
def test_every_row_is_complete(row: Setting) -> None:
    assert re.fullmatch(r"[A-Z].*\.", row.help), "help is a sentence"
    assert row.env == f"POCKETPAW_{row.name.upper()}"
    assert row.check(msgspec.json.decode(msgspec.json.encode(row.default))) == row.default
    if row.kind in ("whole number", "number") and row.default is not None:
        assert None not in row.about.bounds, "a number has bounds"
    if re.search(r"_(api_key|account_key|token|password)$", row.name):
        assert row.secret
    if row.name.endswith("_s"):
        assert row.unit == "s"


def test_settings_survive_messagepack_and_have_a_json_schema() -> None:
    settings = Settings(web_port=1, tools_allow=("a",), channel_autostart={"slack": True}, allowed_user_id=7)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(settings), type=Settings) == settings
    properties = msgspec.json.schema(Settings)["$defs"]["Settings"]["properties"]
    assert properties["web_port"]["maximum"] == 65_535
    assert properties["anthropic_api_key"]["format"] == "password"


def test_no_form_of_the_settings_shows_a_secret() -> None:
    settings = Settings(anthropic_api_key=KEY, database_url=DATABASE, web_port=1)
    document = Document({"key": KEY}, KEY)
    texts = [repr(settings), str(settings), pretty_repr(settings), repr(document), pretty_repr(document)]
    shown = " ".join([*texts, repr(masked(settings))])
    assert KEY not in shown
    assert "geheim" not in shown
    assert repr(settings) == "<Settings: anthropic_api_key, web_port, database_url>"
    assert settings.secret_values() == {KEY, "geheim"}
    assert masked(settings)["anthropic_api_key"] == "sk-…1234"
    assert list(masked(settings)) == list(SETTINGS)


def test_what_a_client_was_shown_and_wrote_back_changes_nothing() -> None:
    current = Settings(anthropic_api_key=KEY, database_url=DATABASE)
    written = msgspec.json.decode(msgspec.json.encode(masked(current) | {"web_port": 9000}))
    changes = accept(written, current)
    assert "anthropic_api_key" not in changes
    assert "database_url" not in changes
    assert changes["web_port"] == 9000
    assert msgspec.structs.replace(current, **{**changes, "web_port": 8888}) == current


def test_a_mask_from_before_a_change_is_still_a_mask() -> None:
    assert accept({"anthropic_api_key": "sk-…9999", "litellm_api_key": "…"}, Settings()) == {}
    assert is_mask("anthropic_api_key", "sk-…9999")
    assert not is_mask("anthropic_api_key", KEY)
    assert not is_mask("nonsense", "…")


def test_an_address_changed_around_its_masked_password_is_refused() -> None:
    with pytest.raises(SettingError, match="the password in it is masked"):
        accept({"database_url": "postgresql+psycopg://paw:…@elsewhere/paw"}, Settings(database_url=DATABASE))


def test_a_change_is_checked_and_null_resets() -> None:
    assert accept({"web_port": None, "anthropic_api_key": ""}, Settings()) == {
        "web_port": None,
        "anthropic_api_key": "",
    }
    with pytest.raises(SettingError, match="nonsense: there is no such setting"):
        accept({"nonsense": 1}, Settings())
    with pytest.raises(SettingError, match="web_port"):
        accept({"web_port": -1}, Settings())


def test_importing_the_settings_loads_nothing_heavy() -> None:
    heavy = {"pydantic", "rich", "trio", "sqlalchemy", "quart", "httpx2", "asyncio", "secrets", "logging"}
    program = "import sys, pocketpaw.config; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "pocketpaw.config.settings" in loaded
    assert not heavy & set(loaded)

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pocketpaw.config import SETTINGS, Home, Settings, keep_last_good, load

POCKETPAW = {
    "agent_backend": "openai_agents",
    "openai_agents_provider": "openai_compatible",
    "llm_provider": "openai_compatible",
    "openai_compatible_base_url": "http://127.0.0.1:9099/v1",
    "openai_compatible_api_key": "sk-fake",
    "openai_compatible_model": "fake",
    "allowed_user_id": None,
    "soul_ocean": {"openness": 0.7},
    "user_avatar_emoji": "🐾",
}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_with_nothing_set_the_defaults_hold(home: Home) -> None:
    loaded = load(home, {})
    assert loaded.settings == Settings()
    assert loaded.problems == ()
    assert set(loaded.sources.values()) == {"default"}


def test_each_place_overrides_the_weaker_one(home: Home) -> None:
    home.config.write_text('{"web_port": 1, "web_host": "file", "ollama_model": "file"}')
    environ = {"POCKETPAW_WEB_PORT": "2", "POCKETPAW_WEB_HOST": "env", "POCKETPAW_OLLAMA_MODEL": " "}
    loaded = load(home, environ, {"web_port": 3, "web_host": None, "log_level": "debug"})
    assert loaded.settings.web_port == 3
    assert loaded.settings.web_host == "env"
    assert loaded.settings.ollama_model == "file"
    assert loaded.settings.log_level == "debug"
    picked = [loaded.sources[name] for name in ("web_port", "web_host", "ollama_model", "log_level", "log_format")]
    assert picked == ["command line", "environment", "config.json", "command line", "default"]
    assert loaded.problems == ()


def test_a_file_of_pocketpaw_loads(home: Home) -> None:
    home.config.write_text(json.dumps(POCKETPAW))
    loaded = load(home, {})
    assert loaded.problems == ()
    assert loaded.settings.agent_backend == "openai_compatible"
    assert loaded.settings.openai_compatible_base_url == "http://127.0.0.1:9099/v1"
    assert loaded.settings.openai_compatible_api_key == "sk-fake"
    assert loaded.translated == {"agent_backend": "openai_agents"}
    assert loaded.unknown_keys == ("openai_agents_provider", "llm_provider", "soul_ocean", "user_avatar_emoji")


@pytest.mark.parametrize(
    ("written", "backend"),
    [
        ({"agent_backend": "claude_agent_sdk", "anthropic_api_key": "sk-ant-x"}, "anthropic"),
        ({"agent_backend": "claude_agent_sdk", "claude_sdk_provider": "ollama"}, "ollama"),
        ({"agent_backend": "google_adk", "google_api_key": "x"}, "gemini"),
        ({"agent_backend": "copilot_sdk", "copilot_sdk_provider": "litellm"}, "litellm"),
        ({"agent_backend": "ollama", "openai_agents_provider": "litellm"}, "ollama"),
    ],
)
def test_a_backend_of_pocketpaw_becomes_its_provider(home: Home, written: dict[str, object], backend: str) -> None:
    home.config.write_text(json.dumps(written))
    loaded = load(home, {})
    assert loaded.settings.agent_backend == backend
    assert loaded.problems == ()


@pytest.mark.parametrize(
    "written",
    [
        {"agent_backend": "claude_agent_sdk"},
        {"agent_backend": "openai_agents", "openai_agents_provider": "openai_compatible"},
        {"agent_backend": "openai_agents"},
        {"agent_backend": "codex_cli"},
        {"agent_backend": "google_adk", "google_adk_provider": ["google"]},
    ],
)
def test_a_backend_of_pocketpaw_without_counterpart_is_a_problem(home: Home, written: dict[str, object]) -> None:
    home.config.write_text(json.dumps(written))
    loaded = load(home, {})
    assert loaded.settings.agent_backend == "auto"
    assert [problem.setting for problem in loaded.problems] == ["agent_backend"]


def test_what_a_backend_of_pocketpaw_needs_may_stand_elsewhere(home: Home) -> None:
    home.config.write_text('{"agent_backend": "openai_agents", "fallback_backends": ["openai_agents", "embedded"]}')
    environ = {
        "POCKETPAW_OPENAI_AGENTS_PROVIDER": "openai_compatible",
        "POCKETPAW_OPENAI_COMPATIBLE_BASE_URL": "http://127.0.0.1/v1",
    }
    loaded = load(home, environ)
    assert loaded.settings.agent_backend == "openai_compatible"
    assert loaded.settings.fallback_backends == ("openai_compatible", "embedded")
    assert load(home, environ | {"POCKETPAW_AGENT_BACKEND": "openai_agents"}).sources["agent_backend"] == "environment"


def test_a_bad_value_leaves_the_default_and_names_its_line(home: Home) -> None:
    text = '{\r\n  "nested": {"web_port": 1},\r\n\r\n  "web_port" : 99999,\r\n  "log_level": "debug"}'
    home.config.write_bytes(text.encode())
    loaded = load(home, {})
    assert loaded.settings == Settings(log_level="debug")
    (problem,) = loaded.problems
    assert (problem.setting, problem.source, problem.line) == ("web_port", str(home.config), 4)
    assert problem.message == "web_port: expected `int` <= 65535, got 99999; using the default"
    assert problem.fix_hint == f"Correct it in line 4 of {home.config}, or take it out."
    assert home.config.read_bytes() == text.encode()


def test_a_bad_value_gives_way_to_the_last_good_copy(home: Home) -> None:
    home.config.write_text('{"web_port": 9000, "log_level": "debug"}')
    assert keep_last_good(home)
    home.config.write_text('{"web_port": 99999}')
    assert not keep_last_good(home)
    loaded = load(home, {})
    assert loaded.settings == Settings(web_port=9000), "what was taken out stays out"
    assert loaded.sources["web_port"] == "config.json.last-good"
    assert "using the value from config.json.last-good" in loaded.problems[0].message


def test_a_bad_variable_gives_way_to_the_file(home: Home) -> None:
    home.config.write_text('{"web_port": 9000}')
    loaded = load(home, {"POCKETPAW_WEB_PORT": "x"}, {"log_level": "loud"})
    assert loaded.settings == Settings(web_port=9000)
    variable, option = loaded.problems
    assert (variable.source, variable.line) == ("POCKETPAW_WEB_PORT", None)
    assert variable.message.endswith("using the value from config.json")
    assert variable.fix_hint == "Correct POCKETPAW_WEB_PORT, or leave it out."
    assert (option.source, option.setting) == ("command line", "log_level")


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b'{\n  "a": 1,\n  oops\n}', 3, "invalid JSON: Expecting property name"),
        (b"", 1, "invalid JSON: Expecting value"),
        (b'{"a": "\xff"}', 1, "it is not UTF-8 text"),
        (b'{\n"a": "\n\xff"}', 3, "it is not UTF-8 text"),
        (b"[1, 2]", 1, "expected a JSON object"),
        (b'{"a": NaN}', None, "NaN is not a JSON number"),
        (b'{"a": 1e999}', None, "the number 1e999 is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", None, "invalid JSON"),
        (b'{"a": ' + b"[" * 100_000, None, "invalid JSON"),
    ],
)
def test_a_file_that_is_no_json_object_is_named_with_its_line(
    home: Home, content: bytes, line: int | None, reason: str
) -> None:
    home.config.write_bytes(content)
    loaded = load(home, {"POCKETPAW_WEB_PORT": "9000"})
    assert loaded.settings == Settings(web_port=9000)
    (problem,) = loaded.problems
    assert (problem.setting, problem.source, problem.line) == ("", str(home.config), line)
    assert reason in problem.message
    assert problem.message.endswith("using the defaults")
    assert home.config.read_bytes() == content


def test_for_a_damaged_file_the_last_good_copy_stands_in_visibly(home: Home) -> None:
    home.config.write_text('{"web_port": 9000, "kept": 1}')
    keep_last_good(home)
    home.config.write_text('{"web_port": 9000, "kep')
    loaded = load(home, {})
    assert loaded.settings == Settings(web_port=9000)
    assert loaded.sources["web_port"] == "config.json.last-good"
    assert loaded.problems[0].message.endswith("using the last good copy")
    assert loaded.unknown_keys == ("kept",)


def test_a_last_good_copy_that_is_damaged_too_is_passed_over(home: Home) -> None:
    home.config.write_text("{")
    home.last_good.write_text("{")
    loaded = load(home, {})
    assert loaded.settings == Settings()
    assert loaded.problems[0].message.endswith("using the defaults")


def test_a_file_that_cannot_be_opened_is_a_problem(home: Home) -> None:
    home.config.mkdir()
    (problem,) = load(home, {}).problems
    assert "it cannot be read: Is a directory" in problem.message


def test_a_byte_order_mark_does_no_harm(home: Home) -> None:
    home.config.write_bytes(b'\xef\xbb\xbf{"web_port": 0.5}')
    assert load(home, {}).problems[0].line == 1


def test_problems_show_no_secret(home: Home) -> None:
    home.config.write_text('{"telegram_bot_token": ["geheim"], "database_url": "mysql://a:geheim@b/c"}')
    loaded = load(home, {"POCKETPAW_ANTHROPIC_API_KEY": "geheim geheim"})
    assert len(loaded.problems) == 3
    assert "geheim" not in repr(loaded)


def test_variables_that_are_no_settings_are_listed(home: Home) -> None:
    loaded = load(home, {"POCKETPAW_WEBPORT": "1", "POCKETPAW_HOME": "/x", "PATH": "/bin"})
    assert loaded.unknown_variables == ("POCKETPAW_WEBPORT",)
    assert loaded.problems == ()


def test_loading_writes_nothing(home: Home) -> None:
    home.config.write_text('{"web_port": 9000}')
    load(home, {})
    assert list(home.root.iterdir()) == [home.config]


keys = st.sampled_from(sorted(SETTINGS)) | st.text()
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(keys, json_values, max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=documents, indent=st.none() | st.integers(0, 3))
def test_any_json_object_loads_and_each_bad_setting_is_named_once(
    home: Home, document: dict[str, object], indent: int
) -> None:
    text = json.dumps(document, indent=indent)
    home.config.write_text(text)
    loaded = load(home, {})
    named = [problem.setting for problem in loaded.problems]
    assert len(set(named)) == len(named)
    for problem in loaded.problems:
        assert problem.line is not None
        assert json.dumps(problem.setting) in text.split("\n")[problem.line - 1]
    assert set(loaded.unknown_keys) == document.keys() - SETTINGS.keys()
    for name in (document.keys() & SETTINGS.keys()) - set(named):
        assert loaded.sources[name] == ("default" if document[name] is None else "config.json")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary() | json_values.map(json.dumps).map(str.encode),
    variables=st.dictionaries(keys, st.text(), max_size=3),
)
def test_any_file_and_any_environment_load(home: Home, content: bytes, variables: dict[str, str]) -> None:
    home.config.write_bytes(content)
    loaded = load(home, {f"POCKETPAW_{name.upper()}": text for name, text in variables.items()})
    assert loaded.sources.keys() == SETTINGS.keys()
    assert home.config.read_bytes() == content

"""The settings, one flat table: each field's name, type, bounds, unit, default and help.

Everything else derives from it: the file, the environment, the command line, the API and the README's table. To add a
setting, add its field. PocketPaw 0.4's names stand where it has the setting.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from .setting import MASK, Setting, SettingError, about, table

Backend = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(auto|embedded|openai_compatible|anthropic|ollama|litellm|openrouter|gemini|cli:[A-Za-z0-9._-]+)$"
    ),
]
Rule = Annotated[str, msgspec.Meta(pattern=r"^([^@()\s]+@)?[A-Za-z0-9_*?-]+(\(.*\))?$")]
PrivateHost = Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]*|[0-9A-Fa-f.:]+(/\d{1,3})?)$")]
Route = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(images|tools|(longer|shorter)_than:\d+|costs_over:\d+(\.\d+)?|topic:[^>]*[^>\s,-][^>]*?) *-> *"
        r"(embedded|openai_compatible|anthropic|ollama|litellm|openrouter|gemini|cli:[A-Za-z0-9._-]+)(:\S+)?$"
    ),
]
_APP = (
    r"[a-z][a-z0-9+-]*\.[a-z0-9+.-]+|tauri"  # a scheme of its own: https://www.rfc-editor.org/rfc/rfc8252#section-7.1
)
OAuthClient = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9._-]{1,64}( +(https://[A-Za-z0-9.-]+(:\d{1,5})?(/[^\s#]*)?"
        rf"|http://(localhost|127\.0\.0\.1|\[::1\])(:\d{{1,5}})?(/[^\s#]*)?|({_APP}):/[^\s#]*))+$"
    ),
]
Price = Annotated[str, msgspec.Meta(pattern=r"^\d+(\.\d+)?/\d+(\.\d+)?$")]
Identifier = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
ChannelScope = Annotated[str, msgspec.Meta(pattern=r"^[a-z]+(:[a-z]+)?$")]

NoticeChat = Annotated[
    str, msgspec.Meta(pattern=r"^(discord|slack|whatsapp|telegram|signal|matrix|teams|google_chat|gchat):\S+$")
]

_BACKENDS = "auto, embedded, openai_compatible, anthropic, ollama, litellm, openrouter, gemini or cli:<name>"
_RULE = "rules such as shell(git *), read_* or telegram@web_fetch"
_TOKEN_LIMIT = "Longest reply to ask for; 0 leaves it to the server."  # noqa: S105 - a help sentence


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator set, complete and checked. Its repr shows no value, since many are secret."""

    agent_backend: Annotated[
        Backend,
        about("The model backend; `auto` takes the first that is configured, else `embedded`.", expects=_BACKENDS),
    ] = "auto"
    fallback_backends: Annotated[
        tuple[Backend, ...],
        about("Backends to try in this order when the first one fails.", expects=f"a list of {_BACKENDS}"),
    ] = ()
    model_routes: Annotated[
        tuple[Route, ...],
        about(
            "Rules that send a request to a certain backend first, each as CONDITION -> BACKEND or BACKEND:MODEL; "
            "conditions are images, tools, longer_than:CHARACTERS, shorter_than:CHARACTERS, topic:WORD,WORD and "
            "costs_over:USD. The first that holds counts.",
            expects="a list of rules such as images -> anthropic, or topic:code,python -> openrouter:some/model",
        ),
    ] = ()
    model_prices: Annotated[
        dict[str, Price],
        about(
            "What models cost whose backends do not say, by model, as in/out: US dollars per million tokens.",
            expects='a map such as {"claude-sonnet-4-6": "3/15"}',
        ),
    ] = {}

    openai_compatible_base_url: Annotated[
        str, about("Address of a server that speaks OpenAI's chat completions; it usually ends in /v1.", is_url=True)
    ] = ""
    openai_compatible_api_key: Annotated[str, about("Its API key, if it wants one.", secret=True)] = ""
    openai_compatible_model: Annotated[str, about("The model to ask it for.")] = ""
    openai_compatible_max_tokens: Annotated[int, about(_TOKEN_LIMIT, unit="tokens", ge=0, le=10_000_000)] = 0
    anthropic_api_key: Annotated[str, about("Anthropic's API key.", secret=True)] = ""
    anthropic_model: Annotated[str, about("Anthropic's model.")] = "claude-sonnet-4-6"
    anthropic_base_url: Annotated[str, about("Address of Anthropic's API.", is_url=True)] = "https://api.anthropic.com"
    anthropic_max_tokens: Annotated[
        int, about("Longest reply to ask for; 0 takes 8192.", unit="tokens", ge=0, le=10_000_000)
    ] = 0
    anthropic_thinking_tokens: Annotated[
        int, about("How much it may think before it answers; 0 = not at all.", unit="tokens", ge=0, le=1_000_000)
    ] = 0
    ollama_host: Annotated[str, about("Address of the Ollama server.", is_url=True)] = "http://localhost:11434"
    ollama_model: Annotated[str, about("Ollama's model.")] = "llama3.2"
    ollama_context_tokens: Annotated[
        int,
        about(
            "How much Ollama's model reads at most; 0 leaves it to the server, which may forget the beginning.",
            unit="tokens",
            ge=0,
            le=10_000_000,
        ),
    ] = 0
    litellm_api_base: Annotated[str, about("Address of the LiteLLM proxy.", is_url=True)] = "http://localhost:4000"
    litellm_api_key: Annotated[str, about("LiteLLM's API key.", secret=True)] = ""
    litellm_model: Annotated[str, about("The model to ask LiteLLM for.")] = ""
    litellm_max_tokens: Annotated[int, about(_TOKEN_LIMIT, unit="tokens", ge=0, le=10_000_000)] = 0
    openrouter_api_key: Annotated[str, about("OpenRouter's API key.", secret=True)] = ""
    openrouter_model: Annotated[str, about("The model to ask OpenRouter for.")] = ""
    openrouter_base_url: Annotated[str, about("Address of OpenRouter's API.", is_url=True)] = (
        "https://openrouter.ai/api/v1"
    )
    google_api_key: Annotated[str, about("Google's API key, for Gemini.", secret=True)] = ""
    gemini_model: Annotated[str, about("Gemini's model.")] = "gemini-3-pro-preview"
    gemini_base_url: Annotated[str, about("Address of the Gemini API.", is_url=True)] = (
        "https://generativelanguage.googleapis.com"
    )
    embedded_idle_s: Annotated[
        float,
        about(
            "The embedded model's process is stopped after this time without a question.",
            unit="s",
            ge=1,
            le=86_400,
            needs_restart=True,
        ),
    ] = 300.0

    web_host: Annotated[
        str,
        about(
            "Address to listen on; 0.0.0.0 or :: for every network.",
            pattern=r"^[A-Za-z0-9._:%-]+$",
            expects="a host name or an IP address",
            needs_restart=True,
        ),
    ] = "127.0.0.1"
    web_port: Annotated[
        int, about("TCP port to listen on; 0 takes any free one.", ge=0, le=65_535, needs_restart=True)
    ] = 8888
    localhost_auth_bypass: Annotated[bool, about("Programs on this machine need no credential.")] = True
    session_token_ttl_hours: Annotated[int, about("How long a session token lives.", unit="h", ge=1, le=8_760)] = 24
    api_cors_allowed_origins: Annotated[
        tuple[str, ...], about("Origins of web pages elsewhere that may use the API, such as https://paw.example.")
    ] = ()
    oauth_clients: Annotated[
        tuple[OAuthClient, ...],
        about(
            "Programs that may ask for access by OAuth2, each as ID REDIRECT_URI [REDIRECT_URI ...]; an address on "
            "this machine (http://localhost/...) stands for every port.",
            expects="a list such as my-app https://app.example/callback com.example.app:/callback",
        ),
    ] = ("pocketpaw-desktop tauri://oauth-callback http://localhost:1420/oauth-callback http://localhost/",)
    api_rate_limit_per_key: Annotated[
        int,
        about(
            "API requests that one credential or address may make; 0 = no limit.",
            unit="per minute",
            ge=0,
            le=10_000_000,
        ),
    ] = 600
    auth_rate_limit_per_peer: Annotated[
        int,
        about("Attempts to log in that one address may make; 0 = no limit.", unit="per minute", ge=0, le=10_000_000),
    ] = 12
    ws_rate_limit_per_peer: Annotated[
        int, about("WebSockets that one address may open; 0 = no limit.", unit="per minute", ge=0, le=10_000_000)
    ] = 60
    cloudflared_path: Annotated[
        str, about("The program cloudflared, which makes the tunnel; empty = looked for on the PATH.")
    ] = ""
    cloudflared_token: Annotated[
        str, about("Token of a Cloudflare tunnel of your own; empty = another address at each start.", secret=True)
    ] = ""
    cloudflared_url: Annotated[str, about("The address of that tunnel, which leads to this daemon.", is_url=True)] = ""
    file_jail_path: Annotated[str, about("The folder whose files the API and the tools may reach.")] = "~"

    max_concurrent_conversations: Annotated[int, about("Turns that run at once; more wait.", ge=1, le=10_000)] = 32
    agent_idle_s: Annotated[
        float,
        about("A session's agent is put to sleep after this time.", unit="s", ge=1, le=86_400, needs_restart=True),
    ] = 120.0
    turn_timeout_s: Annotated[float, about("A turn that takes longer is given up.", unit="s", ge=1, le=86_400)] = 600.0
    compaction_recent_window: Annotated[
        int, about("Latest messages that are never summarized.", unit="messages", ge=0, le=10_000)
    ] = 10
    compaction_char_budget: Annotated[
        int, about("History beyond this is summarized.", unit="characters", ge=0, le=100_000_000)
    ] = 16_000
    compaction_summary_chars: Annotated[
        int, about("Length of an old message's summary.", unit="characters", ge=0, le=1_000_000)
    ] = 300
    compaction_llm_summarize: Annotated[bool, about("Let the model write the summary of what no longer fits.")] = True
    memory_backend: Annotated[
        str,
        about(
            "Where long-term memories are kept; `file` is the home folder.",
            pattern=r"^\w+$",
            expects="a backend's name",
        ),
    ] = "file"
    file_auto_learn: Annotated[bool, about("Keep facts from conversations as memories without being asked.")] = False

    tool_profile: Annotated[
        Literal["minimal", "coding", "full"], about("Which tools the agent has.", expects="minimal, coding or full")
    ] = "full"
    tools_allow: Annotated[
        tuple[Rule, ...],
        about(
            "Tools that run without asking, also beyond the profile: tool, tool(pattern) or who@tool.", expects=_RULE
        ),
    ] = ()
    tools_ask: Annotated[
        tuple[Rule, ...], about("Tools that ask each time, whatever allows them; written as above.", expects=_RULE)
    ] = ()
    tools_deny: Annotated[
        tuple[Rule, ...], about("Tools denied whatever else allows them; written as above.", expects=_RULE)
    ] = ()
    approval_timeout_s: Annotated[
        float, about("A tool that asks is denied after this time without an answer.", unit="s", ge=1, le=604_800)
    ] = 3600.0
    agent_max_steps: Annotated[
        int, about("Rounds of tools that one turn may take; then the agent answers.", ge=1, le=1_000)
    ] = 40
    agent_max_tokens: Annotated[
        int, about("Tokens that one turn may take; 0 = no limit.", unit="tokens", ge=0, le=1_000_000_000)
    ] = 0
    mcp_call_timeout_s: Annotated[
        float, about("A call of an MCP server's tool is given up after this time.", unit="s", ge=1, le=86_400)
    ] = 120.0
    web_search_url: Annotated[
        str, about("Address of the search engine that the agent may use; empty = no web search.", is_url=True)
    ] = ""
    web_search_kind: Annotated[
        Literal["searxng", "brave"], about("What kind of search engine it is.", expects="searxng or brave")
    ] = "searxng"
    web_search_api_key: Annotated[str, about("The search engine's API key, if it wants one.", secret=True)] = ""
    web_fetch_private_hosts: Annotated[
        tuple[PrivateHost, ...],
        about(
            "Host names, addresses or networks that the agent may fetch from although they are not public.",
            expects="a list such as nas.lan, 192.168.1.20, 10.0.0.0/8",
        ),
    ] = ()
    skills_git_base: Annotated[str, about("Where a skill named owner/repo is fetched from, with git.", is_url=True)] = (
        "https://github.com"
    )
    injection_scan_enabled: Annotated[bool, about("Look for injected instructions in what comes from outside.")] = True
    self_audit_enabled: Annotated[bool, about("Audit the daemon's own security on a schedule.")] = True
    self_audit_schedule: Annotated[
        str, about("When, as a cron line in local time.", pattern=r"^\S+( +\S+){4}$", expects="five cron fields")
    ] = "0 3 * * *"
    health_check_on_startup: Annotated[bool, about("Run every health check at start.")] = True

    time_zone: Annotated[
        str,
        about(
            "The time zone that reminders and schedules go by, such as Europe/Berlin; empty = this machine's.",
            pattern=r"^[A-Za-z0-9_+/-]*$",
            expects="a name such as Europe/Berlin or UTC",
        ),
    ] = ""
    notifications_enabled: Annotated[bool, about("Send notices of reminders and of trouble.")] = True
    notification_channels: Annotated[
        tuple[NoticeChat, ...],
        about(
            "Where notices of reminders and of trouble go, each as channel:chat.", expects="chats such as telegram:42"
        ),
    ] = ()
    channel_autostart: Annotated[
        dict[str, bool], about("Channels, by name, that start (true) or stay off (false); a configured one starts.")
    ] = {}
    channel_scopes: Annotated[
        tuple[ChannelScope, ...],
        about(
            "What the agent may do for people whom a channel's list of users names, or who are paired.",
            expects="scopes such as chat, memory, files:read or admin",
        ),
    ] = ("chat", "sessions", "memory", "reminders", "skills", "mcp", "files:read", "files:write")
    webhook_sync_timeout: Annotated[
        int, about("A webhook called with ?wait=true is answered by then.", unit="s", ge=1, le=600)
    ] = 30
    media_max_file_size_mb: Annotated[
        int, about("Largest file taken from a channel or an upload.", unit="MB", ge=0, le=1_000_000)
    ] = 50

    telegram_bot_token: Annotated[str, about("Telegram bot token from @BotFather.", secret=True)] = ""
    allowed_user_id: Annotated[
        Identifier | None, about("The Telegram user who may talk to the bot.", expects="a user's number")
    ] = None
    telegram_api_url: Annotated[str, about("Address of Telegram's bot API.", is_url=True)] = "https://api.telegram.org"
    discord_bot_token: Annotated[str, about("Discord bot token.", secret=True)] = ""
    discord_allowed_user_ids: Annotated[
        tuple[Identifier, ...], about("Discord users who may talk to the bot; empty = all.")
    ] = ()
    discord_allowed_guild_ids: Annotated[
        tuple[Identifier, ...], about("Discord servers that the bot serves; empty = all.")
    ] = ()
    discord_api_url: Annotated[str, about("Address of Discord's API.", is_url=True)] = "https://discord.com/api/v10"
    discord_gateway_url: Annotated[str, about("Address of Discord's gateway.", is_url=True)] = (
        "wss://gateway.discord.gg"
    )
    slack_bot_token: Annotated[str, about("Slack bot token (xoxb-…).", secret=True)] = ""
    slack_app_token: Annotated[str, about("Slack app-level token for socket mode (xapp-…).", secret=True)] = ""
    slack_allowed_channel_ids: Annotated[
        tuple[str, ...], about("Slack channels that the bot serves; empty = all.")
    ] = ()
    slack_api_url: Annotated[str, about("Address of Slack's API.", is_url=True)] = "https://slack.com/api"
    signal_api_url: Annotated[str, about("Address of signal-cli's REST API.", is_url=True)] = "http://localhost:8080"
    signal_phone_number: Annotated[str, about("The phone number that the bot uses, as +15550100.")] = ""
    signal_allowed_phone_numbers: Annotated[tuple[str, ...], about("Phone numbers that may write; empty = all.")] = ()
    matrix_homeserver: Annotated[str, about("Address of the Matrix home server.", is_url=True)] = ""
    matrix_user_id: Annotated[str, about("The bot's Matrix user, as @paw:example.org.")] = ""
    matrix_access_token: Annotated[str, about("Its access token.", secret=True)] = ""
    matrix_allowed_room_ids: Annotated[tuple[str, ...], about("Matrix rooms that the bot serves; empty = all.")] = ()
    teams_app_id: Annotated[str, about("Microsoft Teams app id.")] = ""
    teams_app_password: Annotated[str, about("Its password.", secret=True)] = ""
    teams_allowed_tenant_ids: Annotated[tuple[str, ...], about("Tenants that may write; empty = all.")] = ()
    teams_login_url: Annotated[str, about("Address where Teams' bot tokens are issued.", is_url=True)] = (
        "https://login.microsoftonline.com"
    )
    whatsapp_mode: Annotated[
        Literal["", "personal", "business"], about("How WhatsApp is reached.", expects="personal, business or nothing")
    ] = ""
    whatsapp_access_token: Annotated[str, about("WhatsApp Business access token.", secret=True)] = ""
    whatsapp_phone_number_id: Annotated[str, about("The id of the business's phone number.")] = ""
    whatsapp_verify_token: Annotated[str, about("What Meta's webhook check must send.", secret=True)] = ""
    whatsapp_allowed_phone_numbers: Annotated[tuple[str, ...], about("Phone numbers that may write; empty = all.")] = ()
    whatsapp_api_url: Annotated[str, about("Address of Meta's Graph API.", is_url=True)] = (
        "https://graph.facebook.com/v21.0"
    )
    gchat_mode: Annotated[
        Literal["webhook", "pubsub"], about("How Google Chat sends events.", expects="webhook or pubsub")
    ] = "webhook"
    gchat_service_account_key: Annotated[
        str,
        about(
            "File that holds the service account's key.",
            secret=True,
            pattern=r"^[^{]*$",
            expects="the path of the key's file, not its content",
        ),
    ] = ""
    gchat_project_id: Annotated[str, about("Google Cloud project, for pubsub.")] = ""
    gchat_subscription_id: Annotated[str, about("Pub/Sub subscription, for pubsub.")] = ""
    gchat_allowed_space_ids: Annotated[
        tuple[str, ...], about("Google Chat spaces that the bot serves; empty = all.")
    ] = ()
    gchat_api_url: Annotated[str, about("Address of Google Chat's API.", is_url=True)] = (
        "https://chat.googleapis.com/v1"
    )

    database_url: Annotated[
        str,
        about(
            "Database, as an SQLAlchemy address; empty is the SQLite file in the home folder.",
            pattern=r"^$|^(sqlite|postgresql\+psycopg)://\S+$",
            expects="sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME",
            needs_restart=True,
        ),
    ] = ""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        about("Least severe events that are logged.", expects="debug, info, warning or error"),
    ] = "info"
    log_format: Annotated[
        Literal["auto", "console", "json"],
        about(
            "Form of the log; `auto` is console on a terminal, else JSON.",
            expects="auto, console or json",
            needs_restart=True,
        ),
    ] = "auto"

    def __repr__(self) -> str:
        return f"<Settings: {', '.join(self.changed()) or 'the defaults'}>"

    def __rich_repr__(self) -> list[tuple[str, str]]:  # msgspec's own would show the values in rich's tracebacks
        return [(name, MASK) for name in self.changed()]

    def changed(self) -> list[str]:
        """Name what differs from the defaults."""
        return [name for name, setting in SETTINGS.items() if getattr(self, name) != setting.default]

    def secret_values(self) -> frozenset[str]:
        """Return the exact texts that no log, error or answer may show, passwords inside addresses included."""
        return frozenset(part for name, setting in SETTINGS.items() for part in setting.secrets_in(getattr(self, name)))


SETTINGS: Mapping[str, Setting] = table(Settings)
"""The table by name, in the order in which it is written above."""


def rows() -> tuple[Setting, ...]:
    """Return the table's rows, in order, for documents and listings."""
    return tuple(SETTINGS.values())


def check(name: str, value: object) -> object:
    """Return `value`, a JSON value, as the setting `name` holds it; raises SettingError."""
    return _named(name).check(value)


def parse(name: str, text: str) -> object:
    """Return the value that `text` means for the setting `name`; raises SettingError."""
    return _named(name).parse(text)


def masked(settings: Settings) -> dict[str, object]:
    """Return every setting by name with the secrets masked; encodes as JSON."""
    return {name: setting.mask(getattr(settings, name)) for name, setting in SETTINGS.items()}


def is_mask(name: str, value: object) -> bool:
    """Tell whether a client wrote back the mask that it was shown for the setting `name`."""
    return name in SETTINGS and SETTINGS[name].is_mask(value)


def accept(written: Mapping[str, object], current: Settings) -> dict[str, object]:
    """Return what a client, who was shown `masked(current)`, wants changed: checked, written-back masks left out.

    None stands for "back to the default". Raises SettingError for an unknown name, a bad value, or an address that was
    changed around its masked password.
    """
    changes: dict[str, object] = {}
    for name, value in written.items():
        setting = _named(name)
        if setting.is_mask(value):
            if not setting.secret and value != setting.mask(getattr(current, name)):
                raise SettingError(name, "the password in it is masked; write it whole")
            continue
        changes[name] = None if value is None else setting.check(value)
    return changes


def _named(name: str) -> Setting:
    if name not in SETTINGS:
        raise SettingError(name, "there is no such setting")
    return SETTINGS[name]

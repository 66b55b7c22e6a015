"""The catalogue of well-known MCP servers, as data. To add one, add its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ...runtime.errors import InvalidInput
from .configuration import ServerConfig, Transport
from .protocol import EnvKey, PresetView

DOWNLOAD_S = 90.0
"""npx and uvx fetch a package before they run it for the first time."""


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """A row. `command` begins its command line, or there is a `url`; headers may name variables of `env_keys`."""

    id: str
    name: str
    description: str
    icon: str
    category: str
    docs_url: str
    command: tuple[str, ...] = ()
    package: str = ""
    url: str = ""
    headers: dict[str, str] = {}
    env_keys: tuple[EnvKey, ...] = ()
    needs_args: bool = False

    @property
    def transport(self) -> Transport:
        return "streamable-http" if self.url else "stdio"

    def view(self, *, is_installed: bool) -> PresetView:
        return PresetView(
            id=self.id,
            name=self.name,
            description=self.description,
            icon=self.icon,
            category=self.category,
            package=self.package,
            transport=self.transport,
            url=self.url,
            docs_url=self.docs_url,
            needs_args=self.needs_args,
            oauth=False,
            installed=is_installed,
            env_keys=list(self.env_keys),
        )

    def config(self, env: Mapping[str, str], extra_args: Sequence[str]) -> ServerConfig:
        """The server that it describes; raises InvalidInput if something that it needs is missing."""
        missing = [key.key for key in self.env_keys if key.required and not env.get(key.key)]
        if missing:
            raise InvalidInput(f"{self.id} needs {', '.join(missing)}", field="env")
        if self.needs_args and not extra_args:
            raise InvalidInput(f"{self.id} needs arguments: {self.description}", field="extra_args")
        return ServerConfig(
            name=self.id,
            transport=self.transport,
            command=self.command[0] if self.command else "",
            args=(*self.command[1:], *extra_args),
            url=self.url,
            env=dict(env),
            headers=self.headers,
            timeout=DOWNLOAD_S,
        )


REFERENCE = "https://github.com/modelcontextprotocol/servers"
ARCHIVED = "https://github.com/modelcontextprotocol/servers-archived"

_ROWS = (
    Preset(
        id="filesystem",
        name="Filesystem",
        description="Read, write and search files in the folders that are given as arguments",
        icon="folder",
        category="data",
        package="@modelcontextprotocol/server-filesystem",
        command=("npx", "-y", "@modelcontextprotocol/server-filesystem"),
        docs_url=f"{REFERENCE}/tree/main/src/filesystem",
        needs_args=True,
    ),
    Preset(
        id="git",
        name="Git",
        description="Read, search and commit to Git repositories",
        icon="git-branch",
        category="dev",
        package="mcp-server-git",
        command=("uvx", "mcp-server-git"),
        docs_url=f"{REFERENCE}/tree/main/src/git",
    ),
    Preset(
        id="time",
        name="Time",
        description="The time in any time zone, and conversions between them",
        icon="clock",
        category="productivity",
        package="mcp-server-time",
        command=("uvx", "mcp-server-time"),
        docs_url=f"{REFERENCE}/tree/main/src/time",
    ),
    Preset(
        id="fetch",
        name="Web Fetch",
        description="Fetch web pages and turn them into Markdown",
        icon="globe",
        category="search",
        package="mcp-server-fetch",
        command=("uvx", "mcp-server-fetch"),
        docs_url=f"{REFERENCE}/tree/main/src/fetch",
    ),
    Preset(
        id="memory",
        name="Memory graph",
        description="A knowledge graph that lasts from one conversation to the next",
        icon="brain",
        category="ai",
        package="@modelcontextprotocol/server-memory",
        command=("npx", "-y", "@modelcontextprotocol/server-memory"),
        docs_url=f"{REFERENCE}/tree/main/src/memory",
        env_keys=(EnvKey("MEMORY_FILE_PATH", "File to keep it in", required=False, secret=False),),
    ),
    Preset(
        id="sequential-thinking",
        name="Sequential thinking",
        description="Think a problem through step by step",
        icon="lightbulb",
        category="ai",
        package="@modelcontextprotocol/server-sequential-thinking",
        command=("npx", "-y", "@modelcontextprotocol/server-sequential-thinking"),
        docs_url=f"{REFERENCE}/tree/main/src/sequentialthinking",
    ),
    Preset(
        id="everything",
        name="Everything",
        description="Every feature of the protocol, to try a client with",
        icon="flask-conical",
        category="dev",
        package="@modelcontextprotocol/server-everything",
        command=("npx", "-y", "@modelcontextprotocol/server-everything"),
        docs_url=f"{REFERENCE}/tree/main/src/everything",
    ),
    Preset(
        id="github",
        name="GitHub",
        description="Repositories, issues, pull requests and actions",
        icon="github",
        category="dev",
        url="https://api.githubcopilot.com/mcp/",
        headers={"Authorization": "Bearer ${GITHUB_PERSONAL_ACCESS_TOKEN}"},
        docs_url="https://github.com/github/github-mcp-server",
        env_keys=(EnvKey("GITHUB_PERSONAL_ACCESS_TOKEN", "Personal access token", placeholder="github_pat_..."),),
    ),
    Preset(
        id="brave-search",
        name="Brave Search",
        description="Search the web, images, videos and news",
        icon="search",
        category="search",
        package="@brave/brave-search-mcp-server",
        command=("npx", "-y", "@brave/brave-search-mcp-server"),
        docs_url="https://github.com/brave/brave-search-mcp-server",
        env_keys=(EnvKey("BRAVE_API_KEY", "API key", placeholder="BSA..."),),
    ),
    Preset(
        id="tavily-search",
        name="Tavily Search",
        description="Search the web and extract pages",
        icon="search",
        category="search",
        package="tavily-mcp",
        command=("npx", "-y", "tavily-mcp"),
        docs_url="https://github.com/tavily-ai/tavily-mcp",
        env_keys=(EnvKey("TAVILY_API_KEY", "API key", placeholder="tvly-..."),),
    ),
    Preset(
        id="exa-search",
        name="Exa Search",
        description="Neural web search and research",
        icon="radar",
        category="search",
        package="exa-mcp-server",
        command=("npx", "-y", "exa-mcp-server"),
        docs_url="https://github.com/exa-labs/exa-mcp-server",
        env_keys=(EnvKey("EXA_API_KEY", "API key"),),
    ),
    Preset(
        id="sqlite",
        name="SQLite",
        description="Query and change a SQLite database: --db-path and its file as arguments",
        icon="database",
        category="data",
        package="mcp-server-sqlite",
        command=("uvx", "mcp-server-sqlite"),
        docs_url=f"{ARCHIVED}/tree/main/src/sqlite",
        needs_args=True,
    ),
    Preset(
        id="postgres",
        name="PostgreSQL",
        description="Query, explain and tune a PostgreSQL database",
        icon="database",
        category="data",
        package="postgres-mcp",
        command=("uvx", "postgres-mcp", "--access-mode=restricted"),
        docs_url="https://github.com/crystaldba/postgres-mcp",
        env_keys=(EnvKey("DATABASE_URI", "Database address", placeholder="postgresql://user:password@host/name"),),
    ),
    Preset(
        id="mongodb",
        name="MongoDB",
        description="Query and manage MongoDB databases",
        icon="database",
        category="data",
        package="mongodb-mcp-server",
        command=("npx", "-y", "mongodb-mcp-server"),
        docs_url="https://github.com/mongodb-js/mongodb-mcp-server",
        env_keys=(EnvKey("MDB_MCP_CONNECTION_STRING", "Connection string", placeholder="mongodb://..."),),
    ),
    Preset(
        id="playwright",
        name="Playwright",
        description="Drive a browser by what is on the page",
        icon="monitor",
        category="dev",
        package="@playwright/mcp",
        command=("npx", "-y", "@playwright/mcp", "--headless"),
        docs_url="https://github.com/microsoft/playwright-mcp",
    ),
    Preset(
        id="puppeteer",
        name="Puppeteer",
        description="Drive a Chrome browser (no longer maintained: prefer Playwright)",
        icon="monitor",
        category="dev",
        package="@modelcontextprotocol/server-puppeteer",
        command=("npx", "-y", "@modelcontextprotocol/server-puppeteer"),
        docs_url=f"{ARCHIVED}/tree/main/src/puppeteer",
    ),
    Preset(
        id="context7",
        name="Context7",
        description="Documentation of libraries, up to date",
        icon="book-copy",
        category="dev",
        package="@upstash/context7-mcp",
        command=("npx", "-y", "@upstash/context7-mcp"),
        docs_url="https://github.com/upstash/context7",
        env_keys=(EnvKey("CONTEXT7_API_KEY", "API key", required=False),),
    ),
    Preset(
        id="kubernetes",
        name="Kubernetes",
        description="Pods, deployments and other resources of a cluster",
        icon="server",
        category="devops",
        package="kubernetes-mcp-server",
        command=("npx", "-y", "kubernetes-mcp-server", "--read-only"),
        docs_url="https://github.com/containers/kubernetes-mcp-server",
        env_keys=(EnvKey("KUBECONFIG", "Configuration file", required=False, secret=False),),
    ),
    Preset(
        id="notion",
        name="Notion",
        description="Search, read and change pages and databases",
        icon="book-open",
        category="productivity",
        package="@notionhq/notion-mcp-server",
        command=("npx", "-y", "@notionhq/notion-mcp-server"),
        docs_url="https://github.com/makenotion/notion-mcp-server",
        env_keys=(EnvKey("NOTION_TOKEN", "Integration secret", placeholder="ntn_..."),),
    ),
    Preset(
        id="home-assistant",
        name="Home Assistant",
        description="Lights, sensors and automations of Home Assistant",
        icon="house",
        category="home",
        package="ha-mcp",
        command=("uvx", "ha-mcp"),
        docs_url="https://github.com/homeassistant-ai/ha-mcp",
        env_keys=(
            EnvKey("HOMEASSISTANT_URL", "Address", placeholder="http://homeassistant.local:8123", secret=False),
            EnvKey("HOMEASSISTANT_TOKEN", "Long-lived access token"),
        ),
    ),
)
PRESETS: Mapping[str, Preset] = {preset.id: preset for preset in _ROWS}

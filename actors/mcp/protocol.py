"""What the MCP actors are asked and what they answer."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

import msgspec

from ...runtime import Done, Message
from ..tools.protocol import ToolInfo, ToolOutput
from .configuration import CONNECT_S, Header, ServerConfig, ServerName, Text, Timeout, Transport, Url, VariableName

KEEPER = "mcp/keeper"
SERVERS = "mcp/servers"

R = TypeVar("R")

ServerState = Literal["disabled", "starting", "connecting", "connected", "backoff", "parked", "stopping"]


class ServerStatus(msgspec.Struct, frozen=True):
    """One configured server; `error` is empty while it is connected, else why it is not, if that is known.

    `backoff` means that it is tried again in a moment, `parked` that it failed too often, or only a person can mend it,
    and that it is looked at now and then.
    """

    enabled: bool
    connected: bool
    transport: Transport
    tool_count: int
    error: str
    restarts: int
    state: ServerState


class ToolSummary(msgspec.Struct, frozen=True):
    name: str
    description: str


class Trial(msgspec.Struct, frozen=True):
    """What came of trying a server."""

    connected: bool
    error: str
    tools: list[ToolSummary]


class Toggled(msgspec.Struct, frozen=True):
    status: str
    enabled: bool


class EnvKey(msgspec.Struct, frozen=True):
    """A variable that a preset needs."""

    key: str
    label: str
    required: bool = True
    placeholder: str = ""
    secret: bool = True


class PresetView(msgspec.Struct, frozen=True):
    """A server of the catalogue; with `needs_args`, installing it takes `extra_args` (a path, an address)."""

    id: str
    name: str
    description: str
    icon: str
    category: str
    package: str
    transport: Transport
    url: str
    docs_url: str
    needs_args: bool
    oauth: bool
    installed: bool
    env_keys: list[EnvKey]


class Installed(msgspec.Struct, frozen=True):
    """`connected` tells whether the server has answered yet; `error` says why not."""

    status: str
    connected: bool
    tools: list[ToolSummary]
    error: str


class Offer(msgspec.Struct, frozen=True):
    """A resource (`name` is its URI) or a prompt of a server."""

    name: str
    description: str


class _Described(Message[R], Generic[R]):
    name: ServerName
    transport: Transport = "stdio"
    command: Text = ""
    args: tuple[Text, ...] = ()
    url: Url = ""
    env: dict[VariableName, Text] = msgspec.field(default_factory=dict[str, str])
    headers: dict[str, Header] = msgspec.field(default_factory=dict[str, str])
    enabled: bool = True
    timeout: Timeout = CONNECT_S

    def config(self) -> ServerConfig:
        return msgspec.convert(msgspec.structs.asdict(self), ServerConfig)


class GetMcpStatus(Message[dict[str, ServerStatus]], to=KEEPER):
    """Every configured MCP server by name."""


class AddMcpServer(_Described[Done], to=KEEPER):
    """Save an MCP server, in the place of the one of that name if there is one, and connect to it.

    In `headers` and `url`, `${NAME}` stands for a variable of `env`. A value that is written back masked stays.
    """


class TryMcpServer(_Described[Trial], to=KEEPER):
    """Connect to an MCP server once, without saving it, and say what it offers."""


class RemoveMcpServer(Message[Done], to=KEEPER):
    """Disconnect an MCP server and forget it."""

    name: ServerName


class ToggleMcpServer(Message[Toggled], to=KEEPER):
    """Turn an MCP server off, or on again."""

    name: ServerName


class ListMcpPresets(Message[list[PresetView]], to=KEEPER):
    """The catalogue of well-known MCP servers."""


class InstallMcpPreset(Message[Installed], to=KEEPER):
    """Save a server of the catalogue and connect to it."""

    preset_id: str
    env: dict[VariableName, Text] = msgspec.field(default_factory=dict[str, str])
    extra_args: tuple[Text, ...] = ()


class ListMcpTools(Message[list[ToolInfo]], to=KEEPER):
    """The tools of every connected server, from memory."""


class OfferMcpTools(Message[Done], to=KEEPER):
    """The tools of a server have changed: offer the agents what there is now."""


class GetMcpProblems(Message[list[str]], to=KEEPER):
    """What of the configuration cannot be used."""


class WaitUntilConnected(Message[list[ToolInfo]]):
    """Answered by a server's actor with its tools once it is connected, or with why it could not."""


class ListResources(Message[list[Offer]], to="mcp/servers/{server}"):
    """What can be read of a server."""

    server: ServerName


class ReadResource(Message[ToolOutput], to="mcp/servers/{server}"):
    """Read a resource of a server."""

    server: ServerName
    uri: str


class ListPrompts(Message[list[Offer]], to="mcp/servers/{server}"):
    """The prompts that a server has ready."""

    server: ServerName

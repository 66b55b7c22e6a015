"""The configured MCP servers: `mcp_servers.json` in the home folder, with the names of PocketPaw 0.4.

What a server is given that may be secret is in the vault, and the file has `…` in its place. Invariant: what cannot be
read is not written over, and what is not understood stays in the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, cast
from urllib.parse import parse_qsl, urlsplit

import msgspec
import structlog

from ...config import Vault, VaultError
from ...config.document import UnreadableFileError, read_document
from ...config.private_file import tighten, write_private
from ...config.setting import MASK
from ...runtime.errors import InvalidInput
from . import sealing
from .sealing import VARIABLE, Entries

log = structlog.get_logger()

FILE = "mcp_servers.json"

Transport = Literal["stdio", "http", "streamable-http", "sse"]
"""`http` is streamable HTTP, or SSE where the server is too old for that."""

ServerName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
VariableName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Text = Annotated[str, msgspec.Meta(max_length=32_768, pattern=r"^[^\x00]*$")]
Url = Annotated[str, msgspec.Meta(pattern=r"^$|^https?://[^\s/?#]+\S*$")]
Header = Annotated[str, msgspec.Meta(max_length=32_768, pattern=r"^[ -~]*$")]

CONNECT_S = 15.0
Timeout = Annotated[float, msgspec.Meta(gt=0, le=600)]

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASS|AUTH|CREDENTIAL|COOKIE|HEADER|DSN|CONN", re.IGNORECASE)
LONG_ENOUGH = 12


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One server. `env` is its environment; in `headers` and `url`, `${NAME}` stands for the value of one of them."""

    name: ServerName
    transport: Transport = "stdio"
    command: Text = ""
    args: tuple[Text, ...] = ()
    url: Url = ""
    env: dict[VariableName, Text] = {}
    headers: dict[str, Header] = {}
    enabled: bool = True
    timeout: Timeout = CONNECT_S
    """Seconds that it may take to start and to say what it offers."""

    def __repr__(self) -> str:
        return f"<ServerConfig {self.name}>"  # the rest may be secret

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("name", self.name)]

    @property
    def is_local(self) -> bool:
        return self.transport == "stdio"

    def check(self) -> ServerConfig:
        """Return itself; raises InvalidInput if it lacks what its transport needs."""
        if self.is_local and not self.command.strip():
            raise InvalidInput("command: a stdio server needs the program to run", field="command")
        if not self.is_local and not self.url:
            raise InvalidInput(f"url: a server over {self.transport} needs an address", field="url")
        missing = [name for text in (self.url, *self.headers.values()) for name in self._missing(text)]
        if missing:
            raise InvalidInput(f"env: {', '.join(missing)} is used but has no value", field="env")
        try:
            _ = urlsplit(self.filled(self.url)).port
        except ValueError as error:
            raise InvalidInput(f"url: {error}", field="url") from None
        return self

    def filled(self, text: str) -> str:
        """Return `text` with the variables in it replaced."""
        return VARIABLE.sub(lambda match: self.env[match[1]], text)

    def secrets(self) -> Iterator[str]:
        """Yield the exact texts that no log, error or answer may show."""
        for name, value in (*self.env.items(), *self.headers.items()):
            if is_secret(name, value) and not VARIABLE.search(value):
                yield value
                yield value.rpartition(" ")[2]  # of "Bearer …"
        address = urlsplit(self.filled(self.url))
        if password := address.password:
            yield password
        for name, value in (("", address.username or ""), *parse_qsl(address.query)):
            if is_secret(name, value):
                yield value

    def _missing(self, text: str) -> list[str]:
        return [name for name in VARIABLE.findall(text) if not self.env.get(name)]


def is_secret(name: str, value: str) -> bool:
    """Whether a variable looks as if it held a credential: to hide `production` would blacken every log."""
    looks_random = len(value) >= LONG_ENOUGH and any(map(str.isdigit, value)) and not re.search(r"[\s/]", value)
    return bool(SECRET_NAME.search(name)) or looks_random


class Servers(msgspec.Struct, frozen=True):
    """What the file holds. `problems` says what in it could not be understood."""

    by_name: Mapping[str, ServerConfig]
    problems: tuple[str, ...] = ()


Values = Mapping[str, str]


def load(path: Path, vault: Vault) -> Servers:
    """Read the file; one that is not there holds no server. Secrets that somebody wrote into it go to the vault.

    Raises UnreadableFileError.
    """
    values, entries = _read(path)
    written = sealing.found(entries)
    sealing.fill(entries, vault.refresh())
    servers = _understood(entries)
    if vault.problem is None and written:
        try:
            vault.change(written)
            _write(path, values, entries, sealed=sealing.found(entries))
            log.info("secrets were moved from mcp_servers.json to the vault", names=sorted(written))
        except (VaultError, OSError) as error:
            log.warning("secrets stay in mcp_servers.json", reason=str(error))
    return servers


def change(path: Path, vault: Vault, edit: Callable[[Entries], None]) -> Servers:
    """Read the file, edit its entries, write it whole or not at all.

    A secret is in the vault before the file refers to it, and leaves it after the file no longer does.

    Raises:
        UnreadableFileError, VaultError, OSError: and nothing was changed; nor if `edit` raises.
    """
    values, entries = _read(path)
    known = vault.refresh()
    marked = sealing.marked(entries)
    sealing.fill(entries, known)
    before = sealing.found(entries)
    edit(entries)
    servers = _understood(entries)
    secrets = sealing.found(entries)
    added = {
        name: text for name, text in secrets.items() if text != (known if vault.problem is None else before).get(name)
    }
    vault.change(added)
    try:
        _write(path, values, entries, sealed=secrets if vault.problem is None else marked)
    except OSError:
        vault.change({name: known.get(name) for name in added})
        raise
    if vault.problem is None:
        vault.change(dict.fromkeys(before.keys() - secrets.keys()))
    return servers


def put(entries: Entries, config: ServerConfig) -> None:
    """Add `config`, or put it in the place of the one of its name. A value written back masked stays as it was."""
    known = find(entries, config.name)
    if known is None:
        known = dict[str, object]()
        entries.append(known)
    written = unmasked(config, cast("Values", known.get("env", {})), cast("Values", known.get("headers", {})))
    known.update(msgspec.to_builtins(written.check()))


def unmasked(config: ServerConfig, env: Values, headers: Values) -> ServerConfig:
    """Put what is known in the place of values that were shown masked and written back so."""
    return msgspec.structs.replace(
        config,
        env={name: env.get(name, value) if MASK in value else value for name, value in config.env.items()},
        headers={name: headers.get(name, value) if MASK in value else value for name, value in config.headers.items()},
    )


def find(entries: Entries, name: str) -> dict[str, object] | None:
    return next((entry for entry in entries if entry.get("name") == name), None)


def _read(path: Path) -> tuple[dict[str, object], Entries]:
    values = read_document(path).values
    if values:
        tighten(path)
    try:
        msgspec.json.encode(values)
    except UnicodeEncodeError as error:
        raise UnreadableFileError(path, "one of its texts has a lone surrogate, which is half a character") from error
    entries = values.get("servers", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in cast("list[object]", entries)):
        raise UnreadableFileError(path, 'expected {"servers": [{…}, …]}')
    return values, cast("Entries", entries)


def _write(path: Path, values: Mapping[str, object], entries: Entries, *, sealed: Collection[str]) -> None:
    sealing.seal(entries, sealed)
    data = msgspec.json.format(msgspec.json.encode({**values, "servers": entries}), indent=2)
    write_private(path, data + b"\n")


def _understood(entries: Entries) -> Servers:
    servers: dict[str, ServerConfig] = {}
    problems: list[str] = []
    for number, entry in enumerate(entries, 1):
        if unknown := sealing.unfilled(entry):
            text = f"{', '.join(unknown)} cannot be had from the vault: write it anew, or put the vault back"
            problems.append(f"server {number} ({entry['name']}): {text}")
            continue
        try:
            config = msgspec.convert(entry, ServerConfig).check()
        except msgspec.ValidationError as error:
            problems.append(f"server {number} ({entry.get('name', 'without a name')}): {error}")
            continue
        except InvalidInput as error:
            problems.append(f"server {number} ({entry['name']}): {error.detail}")
            continue
        if config.name in servers:
            problems.append(f"server {number} ({config.name}): there is one of that name already")
        else:
            servers[config.name] = config
    return Servers(servers, tuple(problems))

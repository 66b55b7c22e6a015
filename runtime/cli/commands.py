"""The command `pocketpaw`. Whatever takes long to import is imported by the command that needs it."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ...config import (
    Home,
    HomeError,
    SettingError,
    access_token,
    home_path,
    load,
    open_home,
    parse,
    regenerate_token,
)
from .failure import MEANINGS, DaemonGaveUp, ExitCode, Failure, HomeTaken, HomeUnusable, NoDaemon, PortUnusable

if TYPE_CHECKING:
    from ...actors.settings import LiveSettings
    from ...config import Settings
    from .client import Client
    from .doctor import Finding

C = TypeVar("C", bound=Callable[..., Any])

_EVERYWHERE = {"0.0.0.0": "every IPv4 network", "::": "every network"}  # noqa: S104 - named to warn of it
_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANINGS.items())


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def commands() -> None:
    """PocketPaw: an AI agent that lives on your own machine.

    Its data is in ~/.pocketpaw, or where POCKETPAW_HOME says.
    """


def main() -> None:
    commands(prog_name="pocketpaw")


@commands.command()
def version() -> None:
    """Say which version this is."""
    from importlib.metadata import version as installed_version

    click.echo(f"pocketpaw {installed_version('pocketpaw')}")


@commands.command()
@click.option("--regenerate", is_flag=True, help="Make a new token; whoever has the old one is locked out.")
def token(*, regenerate: bool) -> None:
    """Show the token by which other machines are let in."""
    home = _home()
    if regenerate and (url := _running(home)) is not None:
        raise Failure(f"a daemon is running ({url or 'starting'}) and would go on taking the old token: stop it first")
    try:
        click.echo(regenerate_token(home) if regenerate else access_token(home))
    except HomeError as error:
        raise HomeUnusable(str(error)) from error


@commands.group()
def vault() -> None:
    """The secrets that PocketPaw keeps, sealed, in its data folder."""


@vault.command("list")
def list_secrets() -> None:
    """Name the secrets in the vault, one a line."""
    from .vault import names

    for name in names(_home()):
        click.echo(name)


@vault.command()
def rotate() -> None:
    """Seal the secrets with a new key and forget the old one; also while the daemon runs."""
    from .vault import rotate as rotate_key

    home = _home()
    count = rotate_key(home, _running(home), partial(_client, None, None))
    sealed = f"the vault has a new key: {count} secret{'' if count == 1 else 's'} sealed anew"
    click.echo(sealed if count else "there is no secret in the vault")


# serve ----------------------------------------------------------------------------------------------------------------


def _as_setting(_context: click.Context, parameter: click.Parameter, value: str | None) -> object:
    """Check an option as the setting that it overrides."""
    if value is None:
        return None
    try:
        return parse(f"web_{parameter.name}", value)
    except SettingError as error:
        raise click.BadParameter(error.message) from error


@commands.command()
@click.option("--host", callback=_as_setting, help="Address to listen on; 0.0.0.0 or :: for every network.")
@click.option("--port", callback=_as_setting, help="TCP port to listen on; 0 takes any free one.")
@click.option("--dev", is_flag=True, help="Start anew whenever a source file changes.")
@click.option("--until-eof", is_flag=True, hidden=True, help="Stop when standard input ends.")
def serve(host: str | None, port: int | None, *, dev: bool, until_eof: bool) -> None:
    """Run the daemon until SIGTERM or Ctrl-C; a second one ends it at once."""
    overrides: dict[str, object] = {
        name: value for name, value in (("web_host", host), ("web_port", port)) if value is not None
    }
    if dev:
        from .reload import serve_and_reload

        options = [text for name, value in overrides.items() for text in (f"--{name.removeprefix('web_')}", str(value))]
        sys.exit(serve_and_reload(options))
    if until_eof:
        from .child_daemon import stop_at_eof

        stop_at_eof()
    _serve(_home(), overrides)


def _serve(home: Home, overrides: dict[str, object]) -> None:
    import trio

    from ...actors.settings import LiveSettings
    from ..daemon import run
    from ..exits import leaf
    from ..ownership import AlreadyRunning, owning
    from ..system import RootGaveUp
    from .doctor import port_problem

    try:
        with owning(home) as note_url:
            live = LiveSettings(home, os.environ, overrides)
            settings = live.current
            if problem := port_problem(settings.web_host, settings.web_port):
                raise PortUnusable(f"{problem}; choose another with --port")
            _introduce(live)
            trio.run(run, live, partial(_announce, settings, note_url))
            gc.freeze()  # nothing is left to collect: the interpreter's last look at everything takes over a second
    except AlreadyRunning as error:
        raise HomeTaken(str(error)) from error
    except HomeError as error:
        raise HomeUnusable(str(error)) from error
    except (RootGaveUp, BaseExceptionGroup) as error:
        cause = leaf(error)
        if not isinstance(cause, RootGaveUp):
            raise
        raise DaemonGaveUp(f"the daemon gave up: {cause}") from error


def _introduce(live: LiveSettings) -> None:
    """Say what is about to run: where its data is, which model answers, what is wrong with the settings."""
    from ...actors.models.catalogue import configured

    click.echo(f"Data is in {live.home.root}")
    selection = configured(live.current)
    names = [f"{backend.model} ({backend.name})" for backend in selection.backends]
    click.echo(f"Answers come from {', else '.join(names) or 'no model'}")
    for problem in live.problems:
        _warn(f"{problem.message}. {problem.fix_hint}")
    for sentence in selection.problems:
        _warn(sentence)


def _announce(settings: Settings, note_url: Callable[[str], None], url: str) -> None:
    """Say where the daemon is, and note it for the commands; called again whenever the listener was restarted."""
    from .client import is_loopback

    try:
        note_url(_from_here(url))
    except OSError as error:
        _warn(f"its address could not be noted, so commands need --url {_from_here(url)}: {error.strerror}")
    click.echo(f"PocketPaw is at {url}")
    if not is_loopback(url):
        reach = _EVERYWHERE.get(settings.web_host, f"the network of {settings.web_host}")
        _warn(f"it listens on {reach}: whoever reaches this machine there reaches PocketPaw, and needs its token")
    click.echo("`pocketpaw token` shows the token that other machines need. Ctrl-C stops it.")


def _from_here(url: str) -> str:
    """The address by which this machine reaches a daemon that listens everywhere."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _warn(sentence: str) -> None:
    click.secho(f"warning: {sentence}", fg="yellow", err=True)


# Commands that talk to a daemon ---------------------------------------------------------------------------------------


def _reaching(command: C) -> C:
    """Add the options that say which daemon to talk to."""
    url = click.option("--url", envvar="POCKETPAW_URL", help="The daemon to talk to, if not this user's own.")
    token_ = click.option("--token", envvar="POCKETPAW_TOKEN", help="Its token; better set as POCKETPAW_TOKEN.")
    return url(token_(command))


_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@commands.command()
@click.argument("message", nargs=-1)
@click.option("--session", "session_id", help="Go on with this session; without it a new one begins.")
@_reaching
def chat(message: tuple[str, ...], session_id: str | None, url: str | None, token: str | None) -> None:
    """Say MESSAGE to the agent, or what is piped in; without either, talk with it.

    Ctrl-C stops the answer, a second one leaves. If no daemon is running, one is started for the visit.
    """
    is_conversation = not message and sys.stdin.isatty()
    content = " ".join(message) or ("" if is_conversation else sys.stdin.buffer.read().decode(errors="replace"))
    if not is_conversation and not content.strip():
        raise click.UsageError("there is nothing to say: the message is empty")
    try:
        with _visited(url, token) as client:
            from .conversation import Conversation

            conversation = Conversation(client, session_id)
            if is_conversation:
                conversation.converse()
            else:
                conversation.say(content)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(ExitCode.INTERRUPTED) from None


@commands.command()
@click.argument("channel")
@_reaching
def pair(channel: str, url: str | None, token: str | None) -> None:
    """Make a code by which somebody shows on CHANNEL, as telegram, that they may talk there."""
    from .client import PairingCode

    made = _client(url, token).post("/channels/pairings", PairingCode, body={"channel": channel})
    click.echo(f"{made.code}\n{made.hint} It is good once, until {made.expires_at}.")


@commands.command()
@_as_json
@_reaching
def approvals(url: str | None, token: str | None, *, as_json: bool) -> None:
    """Show the calls of tools that wait for a person."""
    client = _client(url, token)
    if as_json:
        click.echo(client.get_raw("/chat/approvals"))
        return
    from .client import ApprovalRow
    from .tables import print_approvals

    print_approvals(client.get("/chat/approvals", list[ApprovalRow]))


@commands.command()
@click.argument("request_id")
@click.option("--scope", type=click.Choice(["once", "session", "always"]), default="once", show_default=True)
@_reaching
def approve(request_id: str, scope: str, url: str | None, token: str | None) -> None:
    """Approve the call REQUEST_ID: once, for its session, or always."""
    _decide(request_id, scope, url, token)


@commands.command()
@click.argument("request_id")
@_reaching
def deny(request_id: str, url: str | None, token: str | None) -> None:
    """Deny the call REQUEST_ID."""
    _decide(request_id, None, url, token)


def _decide(request_id: str, scope: str | None, url: str | None, token: str | None) -> None:
    import trio

    trio.run(_client(url, token).decide, request_id, scope)
    click.echo(f"{request_id}: {'denied' if scope is None else 'approved'}")


@commands.command()
@_as_json
@_reaching
def status(url: str | None, token: str | None, *, as_json: bool) -> None:
    """Show the supervision tree as it is now."""
    client = _client(url, token)
    if as_json:
        click.echo(client.get_raw("/runtime/tree"))
        return
    from .client import TreeNode
    from .tables import print_tree

    print_tree(client.get("/runtime/tree", TreeNode))


@commands.command()
@_reaching
def mcp(url: str | None, token: str | None) -> None:
    """Offer chats, sessions, memory and health to another program, as an MCP server on stdin and stdout.

    The daemon offers the same over HTTP, at /mcp.
    """
    from .mcp import serve

    serve(partial(_client, url, token))


@commands.command()
@click.option("--limit", default=20, type=click.IntRange(1, 500), show_default=True, help="How many to show.")
@click.option("--search", default="", help="Only those with this in their source or message.")
@_as_json
@_reaching
def errors(limit: int, search: str, url: str | None, token: str | None, *, as_json: bool) -> None:
    """Show the latest errors, newest first."""
    client = _client(url, token)
    if as_json:
        click.echo(client.get_raw("/health/errors", limit=limit, search=search))
        return
    from .client import ErrorRow
    from .tables import print_errors

    print_errors(client.get("/health/errors", list[ErrorRow], limit=limit, search=search))


@commands.command()
@_as_json
@_reaching
def doctor(url: str | None, token: str | None, *, as_json: bool) -> None:
    """Check this installation, and the daemon if one is running; fails if something is broken."""
    import msgspec

    findings = list(_findings(url, token))
    if as_json:
        click.echo(msgspec.json.encode(findings))
    for finding in () if as_json else findings:
        color = {"ok": "green", "warning": "yellow", "broken": "red"}[finding.status]
        click.echo(f"{click.style(f'{finding.status:8}', fg=color)}{finding.check}: {finding.message}")
        if finding.fix_hint:
            click.echo(f"{'':8}{finding.fix_hint}")
    if any(finding.status == "broken" for finding in findings):
        raise click.exceptions.Exit(ExitCode.FAILED)


def _findings(url: str | None, token: str | None) -> Generator[Finding]:
    from . import doctor as checks

    try:
        home = Home(home_path(os.environ))
    except HomeError as error:
        yield checks.Finding("home", "broken", str(error))
        return
    found = checks.check_home(home.root)
    yield found
    if found.status == "ok":
        yield checks.check_token(home)
    loaded = load(home, os.environ)
    yield from checks.check_settings(loaded)
    yield checks.check_database(home.database_url(loaded.settings))
    yield from _check_models(loaded.settings)
    if url is None and _running(home) is None:
        yield checks.check_port(loaded.settings.web_host, loaded.settings.web_port)
        yield checks.Finding("daemon", "ok", "it is not running; `pocketpaw serve` starts it")
        return
    try:
        client = _client(url, token)
    except Failure as failure:
        yield checks.Finding("daemon", "broken", failure.message, "Wait a moment and look again.")
    else:
        yield from checks.check_daemon(client)


def _check_models(settings: Settings) -> Generator[Finding]:
    from ...actors.models.catalogue import configured
    from ...actors.models.embedded_worker import BACKEND, INSTALL_HINT, find_model
    from ...actors.models.errors import ModelNotInstalled
    from .doctor import Finding

    selection = configured(settings)
    for problem in selection.problems:
        yield Finding("models", "broken", problem, "Correct the settings, or set agent_backend to auto.")
    for backend in selection.backends:
        try:
            where = str(find_model()) if backend.name == BACKEND else backend.base_url
        except ModelNotInstalled as error:
            yield Finding("models", "broken", error.detail, f"Run {INSTALL_HINT}")
        else:
            yield Finding("models", "ok", f"{backend.model} ({backend.name}) at {where}")


@commands.command("import")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Only say what would be taken.")
@_as_json
@_reaching
def import_(folder: Path, url: str | None, token: str | None, *, dry_run: bool, as_json: bool) -> None:
    """Take over what the existing PocketPaw's home FOLDER holds, such as ~/.pocketpaw of another user or disk.

    Nothing is changed there, and what is set or said here stays. A second time only what is new there is taken. If no
    daemon is running, one is started for the visit.
    """
    from .import_home import import_home

    with _visited(url, token) as client:
        import_home(client, folder, dry_run=dry_run, as_json=as_json)


# Which daemon ---------------------------------------------------------------------------------------------------------


def _home() -> Home:
    """The home folder, ready to be used."""
    try:
        return open_home(home_path(os.environ))
    except HomeError as error:
        raise HomeUnusable(str(error)) from error


def _running(home: Home) -> str | None:
    """The address of the daemon of this home folder; empty while it starts, None if there is none."""
    from ..ownership import running_daemon

    return running_daemon(home)


def _client(url: str | None, token: str | None) -> Client:
    """A client of the daemon at `url`, else of the one of this home folder."""
    from .client import Client

    if url is not None:
        return Client(url.rstrip("/"), token or "")  # our own token is not for strangers
    home = Home(home_path(os.environ))
    own = _running(home)
    if own is None:
        hint = "start it with `pocketpaw serve`, or name another with --url"
        raise NoDaemon(f"no daemon is running on {home.root}: {hint}")
    if not own:
        raise NoDaemon(f"the daemon on {home.root} is still starting")
    return Client(own, token or access_token(home))


@contextmanager
def _visited(url: str | None, token: str | None) -> Generator[Client]:
    """A client of a running daemon, or of one that is started now and stopped at the end."""
    home = None if url is not None else _home()
    if home is None or _running(home) is not None:
        yield _client(url, token)
        return
    from .child_daemon import ChildDaemon

    daemon = ChildDaemon(["--host", "127.0.0.1", "--port", "0"], home.logs / "visit.log")
    try:
        daemon.wait_until_serving(partial(_running, home))
        yield _client(None, token)
    finally:
        daemon.stop()

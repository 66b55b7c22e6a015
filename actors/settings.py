"""The settings in force, and the actor that changes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import msgspec
import structlog
import trio

from ..config import (
    SETTINGS,
    Home,
    HomeError,
    Loaded,
    Problem,
    SettingError,
    Settings,
    UnreadableFileError,
    Vault,
    VaultError,
    accept,
    access_token,
    keep_last_good,
    load,
    masked,
    regenerate_token,
    save,
    take_in_secrets,
)
from ..config.load import COMMAND_LINE, DEFAULT, ENVIRONMENT
from ..config.vault import MCP
from ..runtime import Actor, Message
from ..runtime.errors import Forbidden, InvalidInput, Unavailable
from .access.known_credentials import ENDED_TOPIC, CredentialsEnded, is_derived
from .access.scopes import refuse_wider
from .channels.platforms import GUEST_SCOPES, PLATFORM_SETTINGS

log = structlog.get_logger()


class LiveSettings:
    """The settings in force, shared by every actor: read `current` each time one is needed, and do not keep it.

    Only the settings actor replaces the settings. Raises HomeError if there is no access token and none can be made.
    """

    def __init__(self, home: Home, environ: Mapping[str, str], overrides: Mapping[str, object] | None = None) -> None:
        self.home = home
        self.vault = Vault(home)
        self._environ = dict(environ)
        self._overrides = dict(overrides or {})
        self.access_token = access_token(home)
        self.secrets = frozenset({self.access_token})
        """What no log, error or answer may show. A secret that was replaced stays in it: it may still turn up."""
        self.is_tunnelled = False
        """Whether the daemon can be reached through a tunnel; set by whoever opens one, before it does."""
        self.served_at: tuple[str, int] | None = None
        """The address and port that the listener has opened last."""
        self.replace(self.load())
        self.at_start: Settings = self.current
        """What the daemon started with, and so what holds for settings that need a restart."""

    @property
    def current(self) -> Settings:
        return self.loaded.settings

    @property
    def problems(self) -> tuple[Problem, ...]:
        return self.loaded.problems

    def load(self) -> Loaded:
        """Read all places anew; changes nothing here. Blocks on the disk."""
        return load(self.home, self._environ, self._overrides, self.vault)

    def replace(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.hide(loaded.settings.secret_values())
        self.hide(text for name, text in self.vault.known().items() if not name.startswith(MCP))

    def hide(self, texts: Iterable[str]) -> None:
        """Keep these out of logs, errors and events from now on."""
        hidden = frozenset(texts)
        if not hidden <= self.secrets:
            self.secrets |= hidden

    def secret(self, name: str) -> str | None:
        """Return a secret that is no setting, from memory. Raises Unavailable if the vault cannot be opened."""
        try:
            return self.vault.get(name)
        except VaultError as error:
            raise vault_closed(error) from error

    async def keep_secrets(self, changes: Mapping[str, str | None]) -> None:
        """Keep secrets that are no settings, or with None drop them; on disk when it returns. Raises Unavailable."""
        self.hide(text for text in changes.values() if text is not None)
        try:
            await trio.to_thread.run_sync(self.vault.change, changes)
        except VaultError as error:
            raise vault_closed(error) from error
        except OSError as error:
            raise Unavailable(f"{self.vault.path} could not be written: {error.strerror}") from error


def vault_closed(error: VaultError) -> Unavailable:
    """The answer to who needs a secret, or wants to change one, while the vault cannot be opened."""
    return Unavailable(f"the vault cannot be opened: {error}. {error.fix_hint}", path=str(error.path))


class GetSettings(Message[dict[str, object]], to="settings"):
    """Every setting by name, secrets masked."""


class Changed(msgspec.Struct, frozen=True):
    """What a change of settings did."""

    status: str
    updated: list[str]
    restart_needed: list[str]
    """Saved, and in force from the daemon's next start."""
    overridden: list[str]
    """Saved, but an environment variable or the command line says otherwise and wins."""


class ChangeSettings(Message[Changed], to="settings"):
    """Change settings; null puts one back to its default, and a mask that was written back is ignored."""

    changes: dict[str, object]


class NewAccessToken(msgspec.Struct, frozen=True):
    token: str


class RegenerateToken(Message[NewAccessToken], to="settings"):
    """Replace the access token; the old one and every session end at once. API keys and OAuth tokens stay."""


class VaultRotated(msgspec.Struct, frozen=True):
    """`secrets` were sealed anew."""

    secrets: int


class RotateVaultKey(Message[VaultRotated], to="settings"):
    """Seal every secret in the vault with a new key, and forget the old one."""


class SettingsKeeper(Actor):
    """Saves one change after the other, so that none loses another's; the disk is waited for off the loop."""

    def __init__(self, live: LiveSettings) -> None:
        super().__init__()
        self._live = live

    async def on_start(self) -> None:
        await self._take_in_secrets()
        home = self._live.home
        try:
            await trio.to_thread.run_sync(keep_last_good, home, self._live.vault)
        except OSError as error:
            log.warning(
                "no copy of the settings was kept", actor=self.path, file=str(home.last_good), reason=str(error)
            )

    async def get_settings(self, message: GetSettings) -> dict[str, object]:
        return masked(self._live.current)

    async def change_settings(self, message: ChangeSettings) -> Changed:
        try:
            changes = self._differing(accept(message.changes, self._live.current))
        except SettingError as error:
            raise InvalidInput(str(error), field=["body", error.setting]) from error
        refuse_wider(self.principal, self._given(changes))
        if changes:
            self._live.replace(await trio.to_thread.run_sync(self._save, changes))
        changed = self._changed(list(changes))
        if changed.updated:
            names = ", ".join(changed.updated)
            event = {
                "event_type": "settings_changed",
                "content": f"settings changed: {names}",
                "metadata": {"updated": changed.updated},
            }
            self.publish("events", "settings_changed", event)
        return changed

    async def regenerate_token(self, message: RegenerateToken) -> NewAccessToken:
        if is_derived(self.principal):
            raise Forbidden("an API key or an OAuth token cannot have the access token: use the one in force")
        live = self._live
        try:
            token = await trio.to_thread.run_sync(regenerate_token, live.home)
        except HomeError as error:
            raise Unavailable(str(error)) from error
        live.secrets |= {token}
        live.access_token = token
        self.publish(ENDED_TOPIC, "ended", CredentialsEnded(kinds=["master", "session"]))
        log.info("access token regenerated", actor=self.path, by=self.principal.name)
        return NewAccessToken(token)

    async def rotate_vault_key(self, message: RotateVaultKey) -> VaultRotated:
        vault = self._live.vault
        try:
            count = await trio.to_thread.run_sync(vault.rotate)
        except VaultError as error:
            raise vault_closed(error) from error
        except OSError as error:
            raise Unavailable(f"the vault's key could not be renewed: {error.strerror}") from error
        log.info("the vault's key was renewed", actor=self.path, by=self.principal.name, secrets=count)
        return VaultRotated(count)

    async def _take_in_secrets(self) -> None:
        live = self._live
        try:
            taken = await trio.to_thread.run_sync(take_in_secrets, live.home, live.vault)
        except (VaultError, OSError) as error:
            log.warning("secrets stay in the configuration file", actor=self.path, reason=str(error))
            return
        for name in taken:
            log.info("a secret was moved from the configuration file to the vault", actor=self.path, setting=name)
        if taken:
            live.replace(await trio.to_thread.run_sync(live.load))

    def _differing(self, written: dict[str, object]) -> dict[str, object]:
        """Leave out what is so already: a client that writes everything back must not pin every default in the file."""
        live = self._live
        faulty = {problem.setting for problem in live.problems}
        unseen = {name for name, setting in SETTINGS.items() if setting.secret and live.vault.problem is not None}
        untouched = {name for name, source in live.loaded.sources.items() if source == DEFAULT} - faulty - unseen
        return {
            name: value
            for name, value in written.items()
            if (name not in untouched if value is None else value != getattr(live.current, name) or name in faulty)
        }

    def _given(self, changes: dict[str, object]) -> list[str]:
        """The scopes that people on channels come to by these changes."""
        before = self._live.current.channel_scopes
        wanted = changes.get("channel_scopes", before)
        after = {*cast("tuple[str, ...]", SETTINGS["channel_scopes"].default if wanted is None else wanted)}
        return sorted(after | GUEST_SCOPES if changes.keys() & PLATFORM_SETTINGS else after - {*before})

    def _changed(self, updated: list[str]) -> Changed:
        live = self._live
        sources = live.loaded.sources
        return Changed(
            status="ok",
            updated=updated,
            restart_needed=[
                name
                for name in updated
                if SETTINGS[name].about.needs_restart and getattr(live.current, name) != getattr(live.at_start, name)
            ],
            overridden=[name for name in updated if sources[name] in (ENVIRONMENT, COMMAND_LINE)],
        )

    def _save(self, changes: dict[str, object]) -> Loaded:
        path = self._live.home.config
        try:
            save(self._live.home, changes, self._live.vault)
        except UnreadableFileError as error:
            raise Unavailable(f"nothing was saved, as {error}: correct that file first", path=str(path)) from error
        except VaultError as error:
            raise vault_closed(error) from error
        except OSError as error:
            raise Unavailable(f"the settings could not be saved to {path}: {error.strerror}", path=str(path)) from error
        return self._live.load()

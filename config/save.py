"""Saving settings, secrets in the vault and the rest in the file, and keeping a copy of the file's last good state.

Invariant: what could not be read is never written over, and a save that fails leaves config.json and vault as they
were. A secret is in the vault before it leaves the file, and leaves the vault after the file says so.
"""

from collections.abc import Collection, Mapping

from .document import Document, UnreadableFileError, read_document, write_document
from .home import Home
from .load import bad_settings, entry_of
from .setting import SettingError
from .settings import SETTINGS, check
from .vault import Vault, VaultError


def save(home: Home, changes: Mapping[str, object], vault: Vault | None = None) -> None:
    """Put `changes` into config.json, or the vault if they are secret; None takes a setting out, back to its default.

    Keys that are no settings are kept. Raises SettingError for an unknown name or a bad value, UnreadableFileError if
    the file is there but cannot be read, VaultError if the vault cannot and a secret is to be changed, and OSError.
    """
    vault = vault or Vault(home)
    checked = {name: None if value is None else check(name, value) for name, value in changes.items()}
    values = {**read_document(home.config).values, **checked}
    values = {name: value for name, value in values.items() if name not in checked or value is not None}
    try:
        vault.read()
    except VaultError:
        known = vault.known()
        if any(
            SETTINGS[name].secret or _secret(name, value) or entry_of(name) in known for name, value in checked.items()
        ):
            raise
    _write(home, values, vault, chosen=checked.keys())


def take_in_secrets(home: Home, vault: Vault) -> list[str]:
    """Move the secrets that stand in config.json into the vault, and return the settings' names.

    An older version of ours has left them there, or somebody wrote them by hand. So are those of the last good copy
    that stand in for something unusable. Raises VaultError if there are any and the vault cannot be opened, and
    OSError; nothing is lost by either.
    """
    vault.refresh()
    kept = _secrets_in(_kept(home) or {})
    try:
        values = read_document(home.config).values
    except UnreadableFileError:
        values, found, unusable = None, dict[str, str](), kept.keys()
    else:
        found = _secrets_in(values)
        unusable = {error.setting for error in bad_settings(Document(values, ""), vault.known())}
    stand_ins = {name: kept[name] for name in kept.keys() & unusable if vault.get(entry_of(name)) is None}
    vault.change(_entries(stand_ins))
    if values is not None and found:
        vault.read()
        _write(home, values, vault)
    if kept:
        write_document(home.last_good, _without_secrets(_kept(home) or {}))
    return sorted(found.keys() | stand_ins.keys())


def keep_last_good(home: Home, vault: Vault | None = None) -> bool:
    """Copy config.json but for its secrets to the last good copy if everything in it is right; tell whether it is.

    Run it at every start, so that what was written with an editor is kept too. Raises OSError.
    """
    try:
        document = read_document(home.config)
    except UnreadableFileError:
        return False
    if bad_settings(document, (vault or Vault(home)).refresh()):
        return False
    values = _without_secrets(document.values)
    if document.text and values != _kept(home):
        write_document(home.last_good, values)
    return True


def _write(home: Home, values: dict[str, object], vault: Vault, chosen: Collection[str] = ()) -> None:
    """Write `values`, the secrets among them to the vault; of the `chosen` settings, no other secret stays in it."""
    before = vault.known()
    added = {} if vault.problem else _entries(_secrets_in(values))
    plain = {name: value for name, value in values.items() if entry_of(name) not in added}
    vault.change(added)
    try:
        if not bad_settings(Document(plain, ""), vault.known()):
            write_document(
                home.last_good, _without_secrets(plain)
            )  # first: who is told of a failure finds the old ones
        write_document(home.config, plain)
    except OSError:
        vault.change({name: before.get(name) for name in added})
        raise
    vault.change({entry: None for name in chosen if (entry := entry_of(name)) in before.keys() - added.keys()})


def _secrets_in(values: Mapping[str, object]) -> dict[str, str]:
    """The settings that are secret, or hold a password, and can be used."""
    return {name: text for name, value in values.items() if (text := _secret(name, value)) is not None}


def _without_secrets(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if _secret(name, value) is None}


def _secret(name: str, value: object) -> str | None:
    """The value as the setting holds it, if there is a secret in it; a bad value is left where a person finds it."""
    if name not in SETTINGS or not isinstance(value, str):
        return None
    try:
        checked = check(name, value)
    except SettingError:
        return None
    return checked if isinstance(checked, str) and any(SETTINGS[name].secrets_in(checked)) else None


def _entries(secrets: Mapping[str, str]) -> dict[str, str]:
    return {entry_of(name): text for name, text in secrets.items()}


def _kept(home: Home) -> dict[str, object] | None:
    try:
        return read_document(home.last_good).values
    except UnreadableFileError:
        return None

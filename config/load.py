"""Loading the settings from every place where they may stand.

Invariant: loading never fails and writes nothing; what is wrong becomes a `Problem` beside settings that can be used.
"""

from collections.abc import Iterator, Mapping

import msgspec

from .document import Document, UnreadableFileError, read_document
from .home import Home
from .legacy import modern
from .setting import MASK, SettingError
from .settings import SETTINGS, Settings
from .vault import Vault, VaultError

DEFAULT = "default"
VAULT = "vault"
FILE = "config.json"
LAST_GOOD = "config.json.last-good"
ENVIRONMENT = "environment"
COMMAND_LINE = "command line"

SEALED_DATABASE = f"postgresql+psycopg://{MASK}"
"""Where the database is, as long as only the vault knows and it cannot be opened: nothing that can be."""

_PREFIX = "POCKETPAW_"
_ENTRIES = "settings/"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something wrong with what was set, and what is used instead; holds no secret."""

    setting: str
    """Empty if it concerns the whole file, `vault` if it concerns that."""
    source: str
    """A file's path, an environment variable's name, or `command line`."""
    line: int | None
    message: str
    fix_hint: str


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """The settings in force and where they came from."""

    settings: Settings
    problems: tuple[Problem, ...]
    sources: dict[str, str]
    """By setting: `default`, `vault`, `config.json`, `config.json.last-good`, `environment` or `command line`."""
    translated: dict[str, str]
    """By setting: PocketPaw 0.4's word for what is in force, where ours differs."""
    unknown_keys: tuple[str, ...]
    """Keys of the file that are no settings of ours; saving keeps them."""
    unknown_variables: tuple[str, ...]
    """Environment variables that look like settings and are not."""


def load(
    home: Home,
    environ: Mapping[str, str],
    overrides: Mapping[str, object] | None = None,
    vault: Vault | None = None,
) -> Loaded:
    """Gather the settings, weakest first: default, vault, config.json, environment, command line (`overrides`).

    A secret in config.json was written there by hand, after the one in the vault. A value that cannot be used is passed
    over: the last good copy of the file decides, then the next weaker place. An empty environment variable counts as
    unset, and so does None anywhere. Overrides that name no setting are ignored.
    """
    vault = vault or Vault(home)
    secrets = settings_in(vault.refresh())
    if _is_database_sealed(home, vault):
        secrets["database_url"] = SEALED_DATABASE
    problems, layers = _file_layers(home, _Layer(source=VAULT, values=secrets))
    if vault.problem is not None:
        problems.append(_locked(vault.problem))
    layers += [_environment(environ), _Layer(source=COMMAND_LINE, values=overrides or {}, is_text=True)]
    set_anywhere = {name: value for layer in layers for name, value in layer.values.items()}
    values: dict[str, object] = {}
    sources = dict.fromkeys(SETTINGS, DEFAULT)
    translated: dict[str, str] = {}
    refused: list[tuple[_Layer, SettingError]] = []
    for layer in layers:
        for name, written in layer.settings():
            word = modern(name, written, set_anywhere)
            try:
                values[name] = layer.read(name, word)
            except SettingError as error:
                refused.append((layer, error))
                continue
            sources[name] = layer.source
            translated.pop(name, None)
            if word != written:
                translated[name] = str(written)
    problems += [layer.problem(error, sources[error.setting]) for layer, error in refused if not layer.is_fallback]
    return Loaded(
        settings=msgspec.convert(values, Settings),
        problems=tuple(problems),
        sources=sources,
        translated=translated,
        unknown_keys=tuple(name for layer in layers if layer.document for name in layer.foreign()),
        unknown_variables=tuple(
            layer.place(name) for layer in layers if layer.source == ENVIRONMENT for name in layer.foreign()
        ),
    )


def entry_of(setting: str) -> str:
    """The name that a setting's secret has in the vault."""
    return f"{_ENTRIES}{setting}"


def settings_in(secrets: Mapping[str, str]) -> dict[str, object]:
    """Return those secrets of the vault that are settings, by the setting's name."""
    return {name.removeprefix(_ENTRIES): text for name, text in secrets.items() if name.startswith(_ENTRIES)}


def bad_settings(document: Document, secrets: Mapping[str, str]) -> list[SettingError]:
    """Return what is wrong with the values in a configuration file; `secrets` is what the vault holds."""
    set_anywhere = {**settings_in(secrets), **document.values}
    layer = _Layer(source=FILE, values=document.values)
    errors: list[SettingError] = []
    for name, written in layer.settings():
        try:
            layer.read(name, modern(name, written, set_anywhere))
        except SettingError as error:
            errors.append(error)
    return errors


class _Layer(msgspec.Struct, frozen=True, kw_only=True):
    """What is set in one place."""

    source: str
    values: Mapping[str, object]
    path: str = ""
    document: Document | None = None
    is_text: bool = False
    is_fallback: bool = False
    """Shows through where the file above it is wrong; that is reported already."""

    def settings(self) -> Iterator[tuple[str, object]]:
        return ((name, value) for name, value in self.values.items() if name in SETTINGS and value is not None)

    def foreign(self) -> Iterator[str]:
        return (name for name in self.values if name not in SETTINGS)

    def read(self, name: str, written: object) -> object:
        setting = SETTINGS[name]
        return setting.parse(written) if self.is_text and isinstance(written, str) else setting.check(written)

    def place(self, name: str) -> str:
        """Say where exactly `name` is set."""
        return f"{_PREFIX}{name.upper()}" if self.source == ENVIRONMENT else self.path or self.source

    def problem(self, error: SettingError, used: str) -> Problem:
        place = self.place(error.setting)
        line = self.document.line_of(error.setting) if self.document else None
        where = f"line {line} of {place}" if line else place
        hint = f"Correct it in {where}, or take it out." if self.path else f"Correct {where}, or leave it out."
        return Problem(
            setting=error.setting,
            source=place,
            line=line,
            message=f"{error}; using the {used if used == DEFAULT else f'value from {used}'}",
            fix_hint=f"Set {error.setting} anew." if self.source == VAULT else hint,
        )


def _file_layers(home: Home, vault: _Layer) -> tuple[list[Problem], list[_Layer]]:
    try:
        document = read_document(home.config)
    except UnreadableFileError as error:
        good = _last_good(home)
        layers = [] if good is None else [_Layer(source=LAST_GOOD, values=good.values, document=good, is_fallback=True)]
        return [_unreadable(error, "the last good copy" if layers else "the defaults")], [*layers, vault]
    layer = _Layer(source=FILE, values=document.values, path=str(home.config), document=document)
    good = _last_good(home)
    beneath = {} if good is None else {name: good.values.get(name) for name, _ in layer.settings()}
    return [], [_Layer(source=LAST_GOOD, values=beneath, is_fallback=True), vault, layer]


def _last_good(home: Home) -> Document | None:
    try:
        document = read_document(home.last_good)
    except UnreadableFileError:
        return None  # as good as none: the trouble with the file that it stands in for is what is reported
    return document if document.text else None


def _is_database_sealed(home: Home, vault: Vault) -> bool:
    """Whether the vault may know of another database than the file in the home folder, and cannot be asked."""
    entry = entry_of("database_url")
    if vault.problem is None or entry in vault.known():
        return False
    try:
        names = vault.names()
    except VaultError:
        names = []
    return entry in names or not (names or home.database.exists())


def _unreadable(error: UnreadableFileError, used: str) -> Problem:
    where = f"line {error.line} of {error.path}" if error.line else str(error.path)
    return Problem(
        setting="",
        source=str(error.path),
        line=error.line,
        message=f"{where}: {error.reason}; using {used}",
        fix_hint=f"Correct {where}; the file was left as it is, and no setting is saved until it can be read.",
    )


def _locked(error: VaultError) -> Problem:
    return Problem(
        setting=VAULT,
        source=str(error.path),
        line=None,
        message=f"the vault cannot be opened: {error}; no secret is saved or changed until it can",
        fix_hint=error.fix_hint,
    )


def _environment(environ: Mapping[str, str]) -> _Layer:
    names = {
        variable.removeprefix(_PREFIX).lower(): text
        for variable, text in environ.items()
        if variable.startswith(_PREFIX) and variable != "POCKETPAW_HOME" and text.strip()
    }
    return _Layer(source=ENVIRONMENT, values=names, is_text=True)

"""The home folder: where everything that the daemon keeps on disk lives, and the access token in it."""

import errno
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from .private_file import create_private, probe, temporaries, tighten, write_private
from .settings import Settings

_TOKEN_LENGTH = range(16, 513)
_LEFTOVER_AFTER_S = 60.0  # a file is written in less, so an older temporary one has lost its writer


class HomeError(Exception):
    """The home folder cannot be used; the text is one line that says which path, why, and what to do."""


class Home(msgspec.Struct, frozen=True):
    """The paths inside the home folder."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def last_good(self) -> Path:
        """The copy of the latest configuration file in which everything was right."""
        return self.root / "config.json.last-good"

    @property
    def access_token(self) -> Path:
        return self.root / "access_token"

    @property
    def vault(self) -> Path:
        """The secrets, sealed."""
        return self.root / "vault"

    @property
    def vault_key(self) -> Path:
        """What opens the vault; a copy of the home folder without it gives no secret away."""
        return self.root / "vault.key"

    @property
    def database(self) -> Path:
        return self.root / "pocketpaw.db"

    @property
    def identity(self) -> Path:
        return self.root / "identity"

    @property
    def skills(self) -> Path:
        return self.root / "skills"

    @property
    def uploads(self) -> Path:
        """Where uploads wait, being received, before they go to where they belong."""
        return self.root / "uploads"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def database_url(self, settings: Settings) -> str:
        """Return the database's SQLAlchemy address: the one that is set, else the file in this folder."""
        return settings.database_url or f"sqlite:///{self.database}"


def home_path(environ: Mapping[str, str]) -> Path:
    """Return where the home folder is or would be: `POCKETPAW_HOME`, else `~/.pocketpaw`. Raises HomeError."""
    try:
        return Path(environ.get("POCKETPAW_HOME", "").strip() or "~/.pocketpaw").expanduser().absolute()
    except RuntimeError:
        raise HomeError("there is no home folder for this user; set POCKETPAW_HOME to a folder") from None


def open_home(root: Path) -> Home:
    """Make the home folder ready: there, writable, mode 0700, without what killed writers left. Raises HomeError."""
    home = Home(root)
    try:
        for folder in (home.root, home.identity, home.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tighten(home.root)
        _sweep(home.root)
        _probe(home.root)
    except OSError as error:
        raise HomeError(
            f"the home folder {root} cannot be used: {_reason(error)}; make it writable or set POCKETPAW_HOME"
        ) from error
    return home


def access_token(home: Home) -> str:
    """Return the master token, made if there is none yet; who makes it first wins. Raises HomeError."""
    path = home.access_token
    try:
        if not path.exists():
            create_private(path, _line(_new_token()))
        tighten(path)
        token = path.read_text("ascii").strip()
        if not token:  # a writer other than us died over it: it holds nothing that could be lost
            return regenerate_token(home)
    except (OSError, UnicodeDecodeError) as error:
        raise HomeError(f"the access token {path} cannot be read: {_reason(error)}") from error
    if len(token) not in _TOKEN_LENGTH or not token.isprintable() or " " in token:
        raise HomeError(
            f"{path} holds no access token: expected one line of 16 to 512 characters; delete it for a new one"
        )
    return token


def regenerate_token(home: Home) -> str:
    """Replace the master token and return the new one. Raises HomeError."""
    token = _new_token()
    try:
        write_private(home.access_token, _line(token))
    except OSError as error:
        raise HomeError(f"the access token {home.access_token} cannot be written: {_reason(error)}") from error
    return token


def _new_token() -> str:
    import secrets  # 5 ms, needed at the first start only

    return secrets.token_urlsafe(32)


def _line(token: str) -> bytes:
    return f"{token}\n".encode("ascii")


def _probe(folder: Path) -> None:
    try:
        probe(folder)
    except OSError as error:
        if error.errno not in (
            errno.ENOSPC,
            errno.EDQUOT,
        ):  # a full disk is for health to show, not a reason to stay down
            raise


def _sweep(folder: Path) -> None:
    for leftover in temporaries(folder):
        try:
            written_at = leftover.stat().st_mtime
        except FileNotFoundError:
            continue  # its writer has finished just now
        if written_at < time.time() - _LEFTOVER_AFTER_S:
            leftover.unlink(missing_ok=True)


def _reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not ASCII text"
    return error.strerror or type(error).__name__

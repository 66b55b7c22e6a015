"""The vault's commands: what is in it, and a new key for it."""

from __future__ import annotations

from collections.abc import Callable

from ...config import Home, Vault, VaultError
from .client import Client, VaultRotated
from .failure import Failure, HomeTaken


def names(home: Home) -> list[str]:
    """Name what is in the vault. Raises Failure."""
    try:
        return Vault(home).names()
    except VaultError as error:
        raise _closed(error) from error


def rotate(home: Home, running: str | None, client: Callable[[], Client]) -> int:
    """Renew the vault's key: through the daemon if one is `running`, else here; returns how many secrets there are.

    Raises Failure.
    """
    from ..ownership import AlreadyRunning, owning

    if running is not None:
        return client().post("/vault/rotate", VaultRotated).secrets
    try:
        with owning(home):
            return Vault(home).rotate()
    except AlreadyRunning as error:
        raise HomeTaken(str(error)) from error
    except VaultError as error:
        raise _closed(error) from error
    except OSError as error:
        raise Failure(f"the vault's key could not be renewed: {error.strerror}; the old one is kept") from error


def _closed(error: VaultError) -> Failure:
    return Failure(f"the vault cannot be opened: {error}. {error.fix_hint}")

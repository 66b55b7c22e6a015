"""PocketPaw 0.4's secrets: `secrets.enc`, sealed under a key made of what the machine and its user are called.

Version 2 is `PAW\\x02`, a nonce of 12 bytes and AES-256-GCM under Argon2id; version 1 is Fernet under PBKDF2 (its
`credentials.py`). Nothing is written.
"""

from __future__ import annotations

import base64
import getpass
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import msgspec

SECRETS = "secrets.enc"
SALT = ".salt"
HEADER = b"PAW\x02"
NONCE_BYTES = 12
SALT_BYTES = 16
FERNET = b"gAAAA"

MACHINE_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")
HARDWARE = "NO_HARDWARE_UUID"
"""What it takes for the hardware's id everywhere but on a Mac, whose secrets are not read here."""


class SecretsSealed(Exception):
    """The secrets are there and cannot be read; the text says why."""


class Owner(msgspec.Struct, frozen=True):
    """What the key is made of."""

    machine: str
    user: str


def read_secrets(home: Path, owners: Iterable[Owner] | None = None) -> dict[str, str]:
    """Open the secrets of a home; without any, there are none. It takes some 0.1 s for each owner that is tried.

    Raises: SecretsSealed.
    """
    try:
        sealed = (home / SECRETS).read_bytes()
        salt = (home / SALT).read_bytes()[:SALT_BYTES] if sealed else b""
    except FileNotFoundError as error:
        if Path(error.filename).name == SECRETS:
            return {}
        raise SecretsSealed(f"{SALT}, which belongs to {SECRETS}, is not there") from None
    except OSError as error:
        raise SecretsSealed(f"it cannot be read: {error.strerror}") from error
    if not sealed:
        return {}
    for owner in likely_owners() if owners is None else owners:
        opened = _open(sealed, salt, owner)
        if opened is not None:
            return _read(opened)
    raise SecretsSealed("it was locked on another machine, or by another user: set them anew")


def likely_owners() -> list[Owner]:
    """This machine and its users, as PocketPaw may have seen them: from a terminal, as a service, or in a container."""
    machines: list[str] = []
    for file in MACHINE_FILES:
        try:
            machines.append(Path(file).read_text().strip())
        except OSError:
            continue
    users: list[str | None] = [os.environ.get("USER"), os.environ.get("USERNAME"), "pocketpaw"]
    for ask in (os.getlogin, getpass.getuser):
        try:
            users.insert(0, ask())
        except (OSError, KeyError):
            continue
    machines.append(platform.node())
    return [Owner(machine, user) for machine in _once(machines) for user in _once(users)]


def _once(names: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(name for name in names if name))


def _open(sealed: bytes, salt: bytes, owner: Owner) -> bytes | None:
    """What was sealed, if `owner` sealed it."""
    from cryptography.exceptions import InvalidTag
    from cryptography.fernet import Fernet, InvalidToken
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        if sealed.startswith(HEADER):
            nonce, rest = sealed[len(HEADER) :][:NONCE_BYTES], sealed[len(HEADER) + NONCE_BYTES :]
            return AESGCM(_key_2(salt, owner)).decrypt(nonce, rest, HEADER)
        if sealed.startswith(FERNET):
            return Fernet(_key_1(salt, owner)).decrypt(sealed)
    except (InvalidTag, InvalidToken):
        return None
    except ValueError as error:  # cut off, or a salt that is too short
        raise SecretsSealed(f"it is damaged: {error}") from None
    raise SecretsSealed("it is of a kind that is not known here")


def _key_2(salt: bytes, owner: Owner) -> bytes:
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    kdf = Argon2id(salt=salt, length=32, iterations=3, memory_cost=65_536, lanes=4)
    return kdf.derive(f"{owner.machine}|{HARDWARE}|{owner.user}".encode())


def _key_1(salt: bytes, owner: Owner) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

    kdf = PBKDF2HMAC(algorithm=SHA256(), length=32, salt=salt, iterations=480_000)
    return base64.urlsafe_b64encode(kdf.derive(f"{owner.machine}|{owner.user}".encode()))


def _read(opened: bytes) -> dict[str, str]:
    try:
        return msgspec.json.decode(opened, type=dict[str, str])
    except msgspec.DecodeError:
        raise SecretsSealed("what is in it is not what PocketPaw writes") from None

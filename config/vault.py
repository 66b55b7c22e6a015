"""The vault: secrets in one small file, each sealed with AES-256-GCM under a key that lies beside it.

It is here because the settings need it before there is a store. Invariants: nothing is written over what could not be
read, and what a call has answered survives a crash at any moment.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from .home import Home
from .private_file import OTHERS, create_private, write_private

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION = 1
KEY_BYTES = 32
NONCE_BYTES = 12  # https://csrc.nist.gov/pubs/sp/800/38/d/final, section 8.2.2: random ones for less than 2**32 entries
MCP = "mcp/"
"""Begins the names of what MCP servers are given: all of their variables, of which many are no secrets."""

NAMED = 20
"""Entries that are named in a sentence; more are counted."""


class VaultError(Exception):
    """The vault cannot be opened: neither read nor written; the text says which file, why, and what to do."""

    def __init__(self, path: Path, reason: str, fix_hint: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
        self.fix_hint = fix_hint

    def anew(self) -> VaultError:
        """The same without its history: one that is kept and raised again would grow with each time."""
        return VaultError(self.path, self.reason, self.fix_hint)


class _Sealed(msgspec.Struct, frozen=True):
    """One entry: which key it is sealed with, and what it needs to be opened with it."""

    key: str
    nonce: bytes
    text: bytes


class _Form(msgspec.Struct, frozen=True):
    version: int


class _File(_Form, frozen=True):
    entries: dict[str, _Sealed]


class _Key:
    """A key, named by a hash of itself, so that a damaged one is known."""

    def __init__(self, secret: bytes) -> None:
        self.id = hashlib.sha256(b"pocketpaw vault key\0" + secret).hexdigest()[:16]
        self._secret = secret

    def line(self) -> str:
        return f"{self.id} {base64.b64encode(self._secret).decode()}\n"

    def seal(self, name: str, text: str) -> _Sealed:
        nonce = os.urandom(NONCE_BYTES)
        return _Sealed(self.id, nonce, self._cipher().encrypt(nonce, text.encode(), _bound_to(name)))

    def open(self, name: str, entry: _Sealed) -> str:
        """Raises cryptography's InvalidTag, ValueError."""
        return self._cipher().decrypt(entry.nonce, entry.text, _bound_to(name)).decode()

    def _cipher(self) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # 35 ms and 7 MB, paid by who has secrets only

        return AESGCM(self._secret)


class Vault:
    """One home's vault. Every call but `get` and `names` waits for the disk; from any thread.

    Whoever writes has to hold the home: a lock in here keeps only the threads of one process apart.
    """

    def __init__(self, home: Home) -> None:
        self.path = home.vault
        self.key_path = home.vault_key
        self.problem: VaultError | None = None
        """Why it could not be opened when it was last tried."""
        self._values: dict[str, str] = {}
        self._lock = threading.RLock()

    def get(self, name: str) -> str | None:
        """Return a secret as it was when last read or written. Raises VaultError if it could not be looked for."""
        value = self._values.get(name)
        if value is None and self.problem is not None:
            raise self.problem.anew()
        return value

    def known(self) -> dict[str, str]:
        """Return all that was read when it could last be opened."""
        return dict(self._values)

    def refresh(self) -> dict[str, str]:
        """Read the files anew if they can be read; see `problem`. Returns what is known then."""
        try:
            return self.read()
        except VaultError:
            return self.known()

    def read(self) -> dict[str, str]:
        """Open every entry; no file is an empty vault. Raises VaultError."""
        with self._lock:
            try:
                try:
                    self._values = self._open()
                except VaultError:
                    self._values = self._open()  # another process may have renewed the key just between the two files
            except VaultError as error:
                self.problem = error.anew()
                raise
            self.problem = None
            return self.known()

    def change(self, changes: Mapping[str, str | None]) -> None:
        """Keep these secrets, or with None drop them; on disk when it returns. Raises VaultError, OSError."""
        if not changes:
            return
        with self._lock:
            before = self.read()
            after = {name: text for name, text in {**before, **changes}.items() if text is not None}
            if after != before:
                self._write(after, self._keys() or [self._make_key()])

    def rotate(self) -> int:
        """Seal every entry with a new key and forget the old ones; returns how many there are.

        The new key is on disk before anything is sealed with it, and the old ones are until nothing is any more. So
        whenever this is cut short, all can be read, and the next time finishes it. Raises VaultError, OSError.
        """
        with self._lock:
            values = self.read()
            if not self.path.exists():
                return 0
            new = _Key(os.urandom(KEY_BYTES))
            self._write_keys([new, *self._keys()])
            self._write(values, [new])
            self._write_keys([new])
            return len(values)

    def names(self) -> list[str]:
        """Name the entries, which needs no key. Raises VaultError."""
        return sorted(self._entries())

    # The two files ----------------------------------------------------------------------------------------------------

    def _open(self) -> dict[str, str]:
        entries = self._entries()
        keys = {key.id: key for key in self._keys()}
        if not entries:
            return {}
        if not keys:
            raise self._lost(entries, self.key_path, "it is gone")
        return {name: self._opened(name, entry, keys, entries) for name, entry in entries.items()}

    def _opened(self, name: str, entry: _Sealed, keys: Mapping[str, _Key], entries: Iterable[str]) -> str:
        from cryptography.exceptions import InvalidTag

        if entry.key not in keys:
            raise self._lost(entries, self.key_path, "it is not the key of this vault")
        try:
            return keys[entry.key].open(name, entry)
        except (InvalidTag, ValueError) as error:
            raise self._lost(entries, self.path, f"the entry {name} is damaged, or not where it was") from error

    def _entries(self) -> dict[str, _Sealed]:
        data = self._data(self.path)
        if data is None:
            if self.key_path.exists() and not self.path.exists():  # looked for again: the first secret makes both
                hint = f"Put {self.path} back, or delete {self.key_path} too to begin anew; then restart the daemon."
                raise VaultError(self.path, "the vault is gone, but its key is there", hint)
            return {}
        try:
            version = msgspec.json.decode(data, type=_Form).version
            if version != VERSION:
                hint = "Install that version again, or restore the files from before."
                raise VaultError(self.path, f"it was written by a newer PocketPaw (its form is {version})", hint)
            return msgspec.json.decode(data, type=_File).entries
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise VaultError(self.path, f"it is damaged ({error})", self._restore()) from error

    def _keys(self) -> list[_Key]:
        """The keys, the newest first: there is more than one while they are renewed."""
        data = self._data(self.key_path)
        if data is None:
            return []
        mode = self.key_path.stat().st_mode
        if mode & OTHERS:
            hint = f"If nobody has taken it: chmod 600 {self.key_path}; then restart the daemon."
            raise VaultError(self.key_path, f"others than its owner may read it (mode {mode & 0o7777:04o})", hint)
        if not data.strip():
            raise VaultError(self.key_path, "it is empty", self._restore())
        return [self._key(number, line) for number, line in enumerate(data.splitlines(), 1)]

    def _key(self, number: int, line: bytes) -> _Key:
        try:
            name, text = line.decode("ascii").split()
            secret = base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error) as error:
            raise VaultError(self.key_path, f"line {number} is no key", self._restore()) from error
        key = _Key(secret)
        if len(secret) != KEY_BYTES or key.id != name:
            raise VaultError(self.key_path, f"the key in line {number} is damaged", self._restore())
        return key

    def _data(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            if path.is_symlink():  # what it leads to, on a disk of its own, may come back
                reason = f"it is a link to {path.readlink()}, which is not there"
                raise VaultError(path, reason, "Bring that back, then restart the daemon.") from None
            return None
        except OSError as error:
            hint = "Make it a file that the daemon can read, then restart the daemon."
            raise VaultError(path, f"it cannot be read: {error.strerror}", hint) from error

    def _make_key(self) -> _Key:
        """Make the first key. The vault is written before: a key without one would mean that the vault was lost."""
        if not self.path.exists():
            self._write({}, [])
        create_private(self.key_path, _Key(os.urandom(KEY_BYTES)).line().encode())
        return self._keys()[0]

    def _write_keys(self, keys: Iterable[_Key]) -> None:
        write_private(self.key_path, "".join(key.line() for key in keys).encode())

    def _write(self, values: Mapping[str, str], keys: list[_Key]) -> None:
        entries = {name: keys[0].seal(name, values[name]) for name in sorted(values)}
        data = msgspec.json.encode(_File(VERSION, entries))
        write_private(self.path, msgspec.json.format(data, indent=1) + b"\n")
        self._values = dict(values)

    def _lost(self, entries: Iterable[str], path: Path, reason: str) -> VaultError:
        names = sorted(entries)
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        reason = f"{reason}; so these secrets cannot be read: {', '.join(names[:NAMED])}{more}"
        return VaultError(path, reason, self._restore())

    def _restore(self) -> str:
        return (
            f"Put {self.path.name} and {self.key_path.name} back together from a copy; or move both out of "
            f"{self.path.parent} and set the secrets anew. Then restart the daemon."
        )


def _bound_to(name: str) -> bytes:
    """What is sealed with an entry, so that it opens under its own name only."""
    return b"pocketpaw vault 1\0" + name.encode()

"""Protectors of the master key that need nothing but this machine: a key file, a passphrase.

Both satisfy `hsmbridge.core.protocols.Protector`. Neither keeps a secret in what it shows of itself.
"""

import os
import secrets
import stat
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hsmbridge.core.errors import HsmBridgeError, Status, StoreError
from hsmbridge.core.secrets import Secret

_KEY_SIZE = 32
_NONCE_SIZE = 12
_SALT_SIZE = 16
_ASSOCIATED = b"hsmbridge master key 1"

_FILE_HEADER = b"hsmbridge key file 1\n"
_FILE_SIZE = len(_FILE_HEADER) + 2 * _KEY_SIZE + 1
_FILE_INFO = b"hsmbridge key file 1"

# RFC 9106 section 4, second recommended option; memory in KiB.
_ITERATIONS, _LANES, _MEMORY = 3, 4, 64 * 1024
_MOST_ITERATIONS, _MOST_LANES, _MOST_MEMORY = 64, 64, 1024 * 1024
_PARAMETERS = 12


class KeyFileProtector:
    """Protects the master key with a random key in a file that only its owner can read.

    The file stands beside the store's backup, not in it: who has both, has every software key.
    """

    name = "key file"

    def __init__(self, path: Path) -> None:
        self._path = path

    def __repr__(self) -> str:
        return "KeyFileProtector()"

    def protect(self, master_key: bytes) -> bytes:
        """The protected form; makes the key file unless it is there. Raises StoreError (MASTER_KEY_UNAVAILABLE)."""
        try:
            key = self._read()
        except FileNotFoundError:
            key = self._make()
        return _encrypt(_file_key(key), master_key)

    def recover(self, protected: bytes) -> bytes:
        """The master key. Raises StoreError (MASTER_KEY_UNAVAILABLE)."""
        try:
            key = self._read()
        except FileNotFoundError as missing:
            raise _locked(
                "The key file of the store is missing; put it back from a backup. No new one is made:"
                " it could not open this store.",
                missing,
            ) from missing
        try:
            return _decrypt(_file_key(key), protected)
        except InvalidTag as wrong:
            raise _locked("The key file is not the one of this store; put the right one in its place.") from wrong

    def _read(self) -> bytes:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise
        except OSError as failure:
            raise _locked("The key file cannot be read; it must be a plain file of the daemon's user.", failure) from (
                failure
            )
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                raise _locked("The key file must be a plain file that belongs to the daemon's user.")
            if status.st_mode & 0o077:
                raise _locked("The key file can be read or written by others than its owner; set its mode to 0600.")
            content = os.read(fd, _FILE_SIZE + 1)
        finally:
            os.close(fd)
        try:
            if not content.startswith(_FILE_HEADER) or len(content) != _FILE_SIZE:
                raise ValueError
            return bytes.fromhex(content[len(_FILE_HEADER) : -1].decode("ascii"))
        except ValueError:
            # Without the cause: it would show part of what the file holds.
            raise _locked("The key file is damaged or no hsmbridge key file; put the right one in its place.") from None

    def _make(self) -> bytes:
        key = secrets.token_bytes(_KEY_SIZE)
        part = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(_FILE_HEADER + key.hex().encode() + b"\n")
                    file.flush()
                    os.fsync(fd)
                # A link, unlike a rename, never replaces a key file that somebody else just made.
                self._path.hardlink_to(part)
            finally:
                part.unlink()
            _sync_directory(self._path.parent)
        except FileExistsError:
            return self._read()
        except OSError as failure:
            raise _locked(
                "The key file cannot be made; its directory must exist and be writable.", failure
            ) from failure
        return key


class PassphraseProtector:
    """Protects the master key with a passphrase (Argon2id, RFC 9106, then AES-256-GCM)."""

    name = "passphrase"

    def __init__(self, passphrase: bytes) -> None:
        if not passphrase:
            raise _locked("The store's passphrase is empty; give one.")
        self._passphrase = Secret(passphrase)

    def __repr__(self) -> str:
        return "PassphraseProtector()"

    def protect(self, master_key: bytes) -> bytes:
        """The protected form, with the salt and the costs in front."""
        parameters = b"".join(number.to_bytes(4, "big") for number in (_ITERATIONS, _LANES, _MEMORY))
        salt = secrets.token_bytes(_SALT_SIZE)
        key = self._derive(salt, _ITERATIONS, _LANES, _MEMORY)
        return parameters + salt + _encrypt(key, master_key, parameters + salt)

    def recover(self, protected: bytes) -> bytes:
        """The master key. Raises StoreError (MASTER_KEY_UNAVAILABLE)."""
        head = protected[: _PARAMETERS + _SALT_SIZE]
        iterations, lanes, memory = (int.from_bytes(head[at : at + 4], "big") for at in (0, 4, 8))
        # The costs are not authenticated before they are paid.
        if not (
            len(head) == _PARAMETERS + _SALT_SIZE
            and 1 <= iterations <= _MOST_ITERATIONS
            and 1 <= lanes <= _MOST_LANES
            and 8 * lanes <= memory <= _MOST_MEMORY
        ):
            raise _locked("The protected master key in the store is damaged; restore the store from a backup.")
        key = self._derive(head[_PARAMETERS:], iterations, lanes, memory)
        try:
            return _decrypt(key, protected[len(head) :], head)
        except InvalidTag as wrong:
            raise _locked("The passphrase is not the one of this store; give the right one.") from wrong

    def _derive(self, salt: bytes, iterations: int, lanes: int, memory: int) -> bytes:
        kdf = Argon2id(salt=salt, length=_KEY_SIZE, iterations=iterations, lanes=lanes, memory_cost=memory)
        return kdf.derive(self._passphrase.reveal())


def _file_key(key: bytes) -> bytes:
    return HKDF(SHA256(), _KEY_SIZE, salt=None, info=_FILE_INFO).derive(key)


def _encrypt(key: bytes, master_key: bytes, head: bytes = b"") -> bytes:
    nonce = secrets.token_bytes(_NONCE_SIZE)
    return nonce + AESGCM(key).encrypt(nonce, master_key, _ASSOCIATED + head)


def _decrypt(key: bytes, protected: bytes, head: bytes = b"") -> bytes:
    if len(protected) < _NONCE_SIZE:
        raise InvalidTag
    return AESGCM(key).decrypt(protected[:_NONCE_SIZE], protected[_NONCE_SIZE:], _ASSOCIATED + head)


def _locked(message: str, failure: OSError | None = None) -> HsmBridgeError:
    return StoreError(Status.MASTER_KEY_UNAVAILABLE, message, origin="" if failure is None else str(failure))


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""Encryption by a TPM: RSAES-OAEP (RFC 8017) and AES-CFB (SP 800-38A, segments of a whole block).

Whatever is wrong with data to be decrypted raises the same DecryptionFailed.
"""

from tpm2_pytss import TPM2_RC, TSS2_Exception

from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.calls import Encrypted
from hsmbridge.core.errors import DecryptionFailed, HsmBridgeError, LimitError, RequestError, Status
from hsmbridge.providers.tpm import sequences
from hsmbridge.providers.tpm.device import Opened
from hsmbridge.providers.tpm.errors import base_code
from hsmbridge.providers.tpm.key_use import KeyUse
from hsmbridge.providers.tpm.schemes import DECRYPTION_SCHEMES, field_size, oaep_limit

# libtpms calls what OpenSSL refuses a failure; that the TPM is not in failure mode was seen before a verdict is asked.
_NOT_DECRYPTED = frozenset(
    int(code) for code in (TPM2_RC.VALUE, TPM2_RC.SIZE, TPM2_RC.RANGE, TPM2_RC.BINDING, TPM2_RC.FAILURE)
)


def encrypt_oaep(use: KeyUse, nonce: bytes, plaintext: bytes, aad: bytes) -> Encrypted:
    """OAEP with an empty label. Raises LimitError (DATA_TOO_LARGE), RequestError (INVALID_ARGUMENT)."""
    check(use.row, nonce, aad)
    limit = oaep_limit(use.row, use.key.row)
    if len(plaintext) > limit:
        raise LimitError(Status.DATA_TOO_LARGE, f"{use.row.name} encrypts at most {limit} bytes at once with this key.")
    scheme = DECRYPTION_SCHEMES[use.row.name]
    message = bytes(plaintext)

    def command(opened: Opened) -> bytes:
        key = use.object(opened)
        return bytes(opened.esapi.rsa_encrypt(key, message, scheme, session1=opened.secrecy.covering))

    return Encrypted(b"", use.tpm.run(command).rjust(field_size(use.key.row), b"\0"))


def decrypt_oaep(use: KeyUse, nonce: bytes, ciphertext: bytes, aad: bytes, tag: bytes) -> bytes:
    """Raises DecryptionFailed, RequestError (INVALID_ARGUMENT)."""
    check(use.row, nonce, aad)
    if tag or len(ciphertext) != field_size(use.key.row):
        raise DecryptionFailed(Status.DECRYPTION_FAILED)
    scheme = DECRYPTION_SCHEMES[use.row.name]
    encrypted = bytes(ciphertext)

    def command(opened: Opened) -> bytes:
        key = use.object(opened)
        return bytes(opened.esapi.rsa_decrypt(key, encrypted, scheme, session1=opened.secrecy.authorising))

    return use.tpm.run(command, _verdict)


def encrypt_cfb(use: KeyUse, nonce: bytes, plaintext: bytes, aad: bytes) -> Encrypted:
    """Raises RequestError (INVALID_ARGUMENT)."""
    check(use.row, nonce, aad)
    ciphertext, _ = cfb(use, nonce, plaintext, decrypt=False)
    return Encrypted(nonce, ciphertext)


def decrypt_cfb(use: KeyUse, nonce: bytes, ciphertext: bytes, aad: bytes, tag: bytes) -> bytes:
    """Raises DecryptionFailed for a tag, of which CFB has none, RequestError (INVALID_ARGUMENT)."""
    check(use.row, nonce, aad)
    if tag:
        raise DecryptionFailed(Status.DECRYPTION_FAILED)
    plaintext, _ = cfb(use, nonce, ciphertext, decrypt=True)
    return plaintext


def cfb(use: KeyUse, iv: bytes, data: bytes, *, decrypt: bool) -> tuple[bytes, bytes]:
    """The result, and the initialisation vector for what follows whole blocks."""
    # A command at a time, so that other keys have their turn in between; an empty message is a command too.
    done = bytearray()
    while True:
        start, before = len(done), iv

        def command(opened: Opened, start: int = start, before: bytes = before) -> tuple[bytes, bytes]:
            piece = bytes(data[start : start + opened.limits.input_buffer])
            return sequences.cfb(opened, use.object(opened), before, piece, decrypt=decrypt)

        piece, iv = use.tpm.run(command)
        done += piece
        if len(done) >= len(data):
            return bytes(done), iv


def check(row: Algorithm, nonce: bytes, aad: bytes) -> None:
    """Raises RequestError (INVALID_ARGUMENT) for a nonce of another length, and for associated data."""
    if len(nonce) != row.nonce_size:
        raise RequestError(
            Status.INVALID_ARGUMENT, f"{row.name} takes a nonce of {row.nonce_size} bytes; this one has {len(nonce)}."
        )
    if aad:
        raise RequestError(Status.INVALID_ARGUMENT, f"{row.name} authenticates no associated data.")


def _verdict(failure: TSS2_Exception) -> HsmBridgeError | None:
    return DecryptionFailed(Status.DECRYPTION_FAILED) if base_code(failure) in _NOT_DECRYPTED else None

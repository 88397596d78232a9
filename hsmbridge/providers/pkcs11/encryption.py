"""Encryption on a token: AEAD, ciphers, RSA-OAEP. Parameters: PKCS#11 v3.2, section 6."""

import struct
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from pkcs11 import MGF, DecryptMixin, EncryptMixin, GCMParams, Mechanism
from pkcs11.exceptions import PKCS11Error

from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, Kind, Scheme
from hsmbridge.core.calls import Encrypted
from hsmbridge.core.errors import DecryptionFailed, LimitError, RequestError, Status
from hsmbridge.core.key_types import KeyType
from hsmbridge.providers.pkcs11.errors import Cure, cure_for, is_refused_data
from hsmbridge.providers.pkcs11.mechanisms import MGFS, hash_mechanism, mechanism_of, not_permitted
from hsmbridge.providers.pkcs11.objects import KeyObjects

_ROOM = 64  # bytes by which a ciphertext may be longer than what was encrypted
_AES_CTR_PARAMETERS = struct.Struct("@L16s")  # CK_AES_CTR_PARAMS
_COUNTER_BITS = 128

_CipherParameter = GCMParams | bytes | tuple[Mechanism, MGF, None]


def _gcm(row: Algorithm, nonce: bytes, aad: bytes) -> _CipherParameter:
    return GCMParams(nonce, aad or None, row.tag_size * 8)


def _initial_block(_row: Algorithm, nonce: bytes, _aad: bytes) -> _CipherParameter:
    return nonce


def _counter(_row: Algorithm, nonce: bytes, _aad: bytes) -> _CipherParameter:
    return _AES_CTR_PARAMETERS.pack(_COUNTER_BITS, nonce)


def _oaep(row: Algorithm, _nonce: bytes, _aad: bytes) -> _CipherParameter:
    return hash_mechanism(row), MGFS[row.hash], None


_PARAMETERS: Mapping[Scheme, Callable[[Algorithm, bytes, bytes], _CipherParameter]] = MappingProxyType(
    {
        Scheme.GCM: _gcm,
        Scheme.CBC: _initial_block,
        Scheme.CFB: _initial_block,
        Scheme.CTR: _counter,
        Scheme.RSAES_OAEP: _oaep,
    }
)


def encrypt(
    keys: KeyObjects, row: Algorithm, key_row: KeyType, nonce: bytes, plaintext: bytes, aad: bytes
) -> Encrypted:
    """Encrypt with the nonce given; the ciphertext without its tag."""
    mechanism = _cipher_mechanism(row)
    _check_nonce(row, nonce, aad)
    if row.scheme is Scheme.RSAES_OAEP:
        _check_fits(row, key_row, plaintext)
    key = keys.secret or keys.public
    if not isinstance(key, EncryptMixin):
        raise not_permitted("encrypt")
    output = _whole(
        key.encrypt(
            plaintext,
            mechanism=mechanism,
            mechanism_param=_PARAMETERS[row.scheme](row, nonce, aad),
            buffer_size=max(len(plaintext) + _ROOM, key_row.bits // 8),
        )
    )
    cut = len(output) - row.tag_size
    return Encrypted(nonce, output[:cut], output[cut:])


def decrypt(
    keys: KeyObjects, row: Algorithm, key_row: KeyType, nonce: bytes, ciphertext: bytes, aad: bytes, tag: bytes
) -> bytes:
    """Raises DecryptionFailed whatever is wrong with the data."""
    mechanism = _cipher_mechanism(row)
    key = keys.secret or keys.private
    if not isinstance(key, DecryptMixin):
        raise not_permitted("decrypt")
    if len(nonce) != row.nonce_size or len(tag) != row.tag_size or (aad and row.kind is not Kind.AEAD):
        raise DecryptionFailed(Status.DECRYPTION_FAILED)
    try:
        return _whole(
            key.decrypt(
                ciphertext + tag,
                mechanism=mechanism,
                mechanism_param=_PARAMETERS[row.scheme](row, nonce, aad),
                buffer_size=max(len(ciphertext) + _ROOM, key_row.bits // 8),
            )
        )
    except PKCS11Error as failure:
        if cure_for(failure) is Cure.NONE and is_refused_data(failure):
            raise DecryptionFailed(Status.DECRYPTION_FAILED) from None
        raise


def _whole(output: bytes | Iterator[bytes]) -> bytes:
    # python-pkcs11 answers bytes to bytes, and pieces to pieces.
    return output if isinstance(output, bytes) else b"".join(output)


def _cipher_mechanism(row: Algorithm) -> Mechanism:
    mechanism = mechanism_of(row)
    if mechanism is None or row.scheme not in _PARAMETERS:
        raise RequestError(Status.NOT_SUPPORTED, f"This provider cannot encrypt with {row.name}.")
    return mechanism


def _check_nonce(row: Algorithm, nonce: bytes, aad: bytes) -> None:
    if len(nonce) != row.nonce_size:
        raise RequestError(
            Status.INVALID_ARGUMENT, f"{row.name} takes a nonce of {row.nonce_size} bytes, not {len(nonce)}."
        )
    if aad and row.kind is not Kind.AEAD:
        raise RequestError(Status.INVALID_ARGUMENT, f"{row.name} takes no associated data.")


def _check_fits(row: Algorithm, key_row: KeyType, plaintext: bytes) -> None:
    most = key_row.bits // 8 - 2 * ALGORITHMS[row.hash].output_size - 2
    if len(plaintext) > most:
        raise LimitError(
            Status.DATA_TOO_LARGE,
            f"{row.name} under a key of type {key_row.name} takes at most {most} bytes, not {len(plaintext)}.",
        )

"""Encryption on a token: AEAD, ciphers, RSA-OAEP. Parameters: PKCS#11 v3.2, section 6."""

import struct
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from pkcs11 import DecryptMixin, EncryptMixin, Mechanism
from pkcs11.exceptions import PKCS11Error

from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, Kind, Scheme
from hsmbridge.core.calls import Encrypted
from hsmbridge.core.errors import DecryptionFailed, LimitError, RequestError, Status
from hsmbridge.core.key_types import KeyType
from hsmbridge.providers.pkcs11.errors import NO_DEVICE_ERRORS, Refusals
from hsmbridge.providers.pkcs11.mechanisms import MGFS, hash_mechanism, mechanism_of, not_permitted
from hsmbridge.providers.pkcs11.objects import KeyObjects
from hsmbridge.providers.pkcs11.parameters import Parameter, ccm, chacha20_poly1305, gcm, oaep

_ROOM = 64  # bytes by which a ciphertext may be longer than what was encrypted
_AES_CTR_PARAMETERS = struct.Struct("@L16s")  # CK_AES_CTR_PARAMS
_COUNTER_BITS = 128


def _gcm(row: Algorithm, nonce: bytes, aad: bytes, _size: int) -> Parameter:
    return gcm(nonce, aad, row.tag_size)


def _ccm(row: Algorithm, nonce: bytes, aad: bytes, size: int) -> Parameter:
    return ccm(nonce, aad, size, row.tag_size)


def _chacha20_poly1305(_row: Algorithm, nonce: bytes, aad: bytes, _size: int) -> Parameter:
    return chacha20_poly1305(nonce, aad)


def _initial_block(_row: Algorithm, nonce: bytes, _aad: bytes, _size: int) -> Parameter:
    return Parameter(nonce)


def _counter(_row: Algorithm, nonce: bytes, _aad: bytes, _size: int) -> Parameter:
    return Parameter(_AES_CTR_PARAMETERS.pack(_COUNTER_BITS, nonce))


def _oaep(row: Algorithm, _nonce: bytes, _aad: bytes, _size: int) -> Parameter:
    return oaep(hash_mechanism(row), MGFS[row.hash])


_PARAMETERS: Mapping[Scheme, Callable[[Algorithm, bytes, bytes, int], Parameter]] = MappingProxyType(
    {
        Scheme.GCM: _gcm,
        Scheme.CCM: _ccm,
        Scheme.CHACHA20_POLY1305: _chacha20_poly1305,
        Scheme.CBC: _initial_block,
        Scheme.CFB: _initial_block,
        Scheme.CTR: _counter,
        Scheme.RSAES_OAEP: _oaep,
    }
)


def cipher_parameter(row: Algorithm, nonce: bytes, aad: bytes, size: int) -> Parameter:
    """The parameter of a row's mechanism for a plaintext of `size` bytes; to be kept until the call has returned."""
    return _PARAMETERS[row.scheme](row, nonce, aad, size)


def encrypt(
    keys: KeyObjects, row: Algorithm, key_row: KeyType, nonce: bytes, plaintext: bytes, aad: bytes
) -> Encrypted:
    """Encrypt with the nonce given; the ciphertext without its tag."""
    mechanism = _cipher_mechanism(row)
    check_nonce(row, nonce, aad)
    if row.scheme is Scheme.RSAES_OAEP:
        check_fits(row, key_row, len(plaintext))
    key = keys.secret or keys.public
    if not isinstance(key, EncryptMixin):
        raise not_permitted("encrypt")
    parameter = cipher_parameter(row, nonce, aad, len(plaintext))
    output = _whole(
        key.encrypt(
            plaintext,
            mechanism=mechanism,
            mechanism_param=parameter.given,
            buffer_size=max(len(plaintext) + _ROOM, key_row.bits // 8),
        )
    )
    cut = len(output) - row.tag_size
    return Encrypted(nonce, output[:cut], output[cut:])


def decrypt(
    keys: KeyObjects,
    row: Algorithm,
    key_row: KeyType,
    sealed: Encrypted,
    aad: bytes,
    refusals: Refusals = NO_DEVICE_ERRORS,
) -> bytes:
    """Raises DecryptionFailed whatever is wrong with the data."""
    nonce, ciphertext, tag = sealed.nonce, sealed.ciphertext, sealed.tag
    mechanism = _cipher_mechanism(row)
    key = keys.secret or keys.private
    if not isinstance(key, DecryptMixin):
        raise not_permitted("decrypt")
    if len(nonce) != row.nonce_size or len(tag) != row.tag_size or (aad and row.kind is not Kind.AEAD):
        raise DecryptionFailed(Status.DECRYPTION_FAILED)
    parameter = cipher_parameter(row, nonce, aad, len(ciphertext))
    try:
        return _whole(
            key.decrypt(
                ciphertext + tag,
                mechanism=mechanism,
                mechanism_param=parameter.given,
                buffer_size=max(len(ciphertext) + _ROOM, key_row.bits // 8),
            )
        )
    except PKCS11Error as failure:
        if refusals.data(failure):
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


def check_nonce(row: Algorithm, nonce: bytes, aad: bytes) -> None:
    """Raises RequestError (INVALID_ARGUMENT) for a nonce of another length, or associated data that mean nothing."""
    if len(nonce) != row.nonce_size:
        raise RequestError(
            Status.INVALID_ARGUMENT, f"{row.name} takes a nonce of {row.nonce_size} bytes, not {len(nonce)}."
        )
    if aad and row.kind is not Kind.AEAD:
        raise RequestError(Status.INVALID_ARGUMENT, f"{row.name} takes no associated data.")


def check_fits(row: Algorithm, key_row: KeyType, size: int) -> None:
    """Raises LimitError (DATA_TOO_LARGE) for more than RSAES-OAEP has room for (RFC 8017, section 7.1.1)."""
    most = key_row.bits // 8 - 2 * ALGORITHMS[row.hash].output_size - 2
    if size > most:
        raise LimitError(
            Status.DATA_TOO_LARGE,
            f"{row.name} under a key of type {key_row.name} takes at most {most} bytes, not {size}.",
        )

"""Operations on data that comes in pieces, by the library's own streaming objects.

Signatures are made of the digest of the data, by the schemes that hash it first; what signs the message itself (EdDSA,
ML-DSA) or has no streaming object (CCM, ChaCha20-Poly1305) is left to the caller, who collects the data. AEADs only
encrypt here.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.ciphers import AEADEncryptionContext, Cipher, CipherContext, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hashes import Hash
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.padding import PKCS7

from hsmbridge.core.algorithms import Algorithm, KeyOperation, Scheme
from hsmbridge.core.calls import StreamEnd
from hsmbridge.core.errors import DecryptionFailed, RequestError, SignatureInvalid, Status
from hsmbridge.core.params import DEFAULT_SIGNATURE, SignatureParameters
from hsmbridge.providers.software.bound_key import BoundKey
from hsmbridge.providers.software.ciphers import check_nonce, refuse_aad
from hsmbridge.providers.software.digests import HASHES
from hsmbridge.providers.software.material import KeyMaterial, SecretKey
from hsmbridge.providers.software.signature_parameters import check_parameters
from hsmbridge.providers.streams import HashedFirst, ProviderStream

HASHED_FIRST: Final = frozenset({Scheme.RSASSA_PKCS1, Scheme.RSASSA_PSS, Scheme.ECDSA})
"""The signature schemes that are made of a digest alone."""

_BLOCK_BITS: Final = 128
_Mode = modes.CBC | modes.CTR | CFB
_MODES: Final[Mapping[Scheme, Callable[[bytes], _Mode]]] = MappingProxyType(
    {Scheme.CBC: modes.CBC, Scheme.CTR: modes.CTR, Scheme.CFB: CFB}
)


def open_digest(row: Algorithm) -> ProviderStream:
    """A digest."""
    return _Digest(row)


def open_with_key(
    row: Algorithm,
    operation: KeyOperation,
    material: KeyMaterial,
    bound: BoundKey,
    nonce: bytes,
    aad: bytes,
    parameters: SignatureParameters,
) -> ProviderStream:
    """An operation with a key. Raises RequestError (NOT_SUPPORTED) where the data must come at once."""
    if row.scheme in HASHED_FIRST:
        return _signature(row, operation, bound, parameters)
    if not isinstance(material, SecretKey):
        raise _at_once(row)
    if row.scheme in (Scheme.HMAC, Scheme.CMAC):
        if parameters != DEFAULT_SIGNATURE:
            check_parameters(row, parameters, b"")
        return _Mac(row, operation, material)
    if row.scheme is Scheme.GCM and operation is KeyOperation.ENCRYPT:
        return _Gcm(row, material, nonce, aad)
    if row.scheme in _MODES:
        return _AesMode(row, operation, material, nonce, aad)
    raise _at_once(row)


class _Digest(ProviderStream):
    def __init__(self, row: Algorithm) -> None:
        self._hash = Hash(HASHES[row.hash])

    def update(self, data: bytes) -> bytes:
        self._hash.update(data)
        return b""

    def finish(self, proof: bytes) -> StreamEnd:
        return StreamEnd(self._hash.finalize())


def _signature(
    row: Algorithm, operation: KeyOperation, bound: BoundKey, parameters: SignatureParameters
) -> ProviderStream:
    if parameters.digest_signing or parameters.external_mu or parameters.context:
        raise _at_once(row)
    of_digest = msgspec.structs.replace(parameters, digest_signing=True)

    def finish(digest: bytes, proof: bytes) -> StreamEnd:
        if operation is KeyOperation.SIGN:
            return StreamEnd(bound.sign(digest, of_digest))
        bound.verify(digest, proof, of_digest)
        return StreamEnd(b"")

    return HashedFirst(row.hash, finish)


class _Mac(ProviderStream):
    def __init__(self, row: Algorithm, operation: KeyOperation, secret: SecretKey) -> None:
        self._mac: HMAC | CMAC
        if row.scheme is Scheme.HMAC:
            self._mac = HMAC(secret.value, HASHES[row.hash])
        else:
            self._mac = CMAC(AES(secret.value))
        self._signs = operation is KeyOperation.SIGN

    def update(self, data: bytes) -> bytes:
        self._mac.update(data)
        return b""

    def finish(self, proof: bytes) -> StreamEnd:
        if self._signs:
            return StreamEnd(self._mac.finalize())
        try:
            self._mac.verify(proof)
        except InvalidSignature:
            raise SignatureInvalid(Status.SIGNATURE_INVALID) from None
        return StreamEnd(b"")


class _Gcm(ProviderStream):
    def __init__(self, row: Algorithm, secret: SecretKey, nonce: bytes, aad: bytes) -> None:
        check_nonce(row, nonce)
        self._context: AEADEncryptionContext = Cipher(AES(secret.value), modes.GCM(nonce)).encryptor()
        self._context.authenticate_additional_data(aad)

    def update(self, data: bytes) -> bytes:
        try:
            return self._context.update(data)
        except ValueError as problem:
            raise _too_long(problem) from None

    def finish(self, proof: bytes) -> StreamEnd:
        return StreamEnd(self._context.finalize(), self._context.tag)


class _AesMode(ProviderStream):
    def __init__(self, row: Algorithm, operation: KeyOperation, secret: SecretKey, nonce: bytes, aad: bytes) -> None:
        check_nonce(row, nonce)
        refuse_aad(row, aad)
        cipher = Cipher(AES(secret.value), _MODES[row.scheme](nonce))
        self._encrypts = operation is KeyOperation.ENCRYPT
        self._context: CipherContext = cipher.encryptor() if self._encrypts else cipher.decryptor()
        padding = PKCS7(_BLOCK_BITS)
        pads = row.scheme is Scheme.CBC
        self._padder = padding.padder() if pads and self._encrypts else None
        self._unpadder = padding.unpadder() if pads and not self._encrypts else None

    def update(self, data: bytes) -> bytes:
        if self._padder is not None:
            data = self._padder.update(data)
        output = self._context.update(data)
        return output if self._unpadder is None else self._unpadder.update(output)

    def finish(self, proof: bytes) -> StreamEnd:
        rest = b""
        if self._padder is not None:
            rest = self._context.update(self._padder.finalize())
        try:
            rest += self._context.finalize()
            if self._unpadder is not None:
                rest = self._unpadder.update(rest) + self._unpadder.finalize()
        except ValueError:
            raise DecryptionFailed(Status.DECRYPTION_FAILED) from None
        return StreamEnd(rest)


def _at_once(row: Algorithm) -> RequestError:
    return RequestError(Status.NOT_SUPPORTED, f"{row.name} takes its data at once.")


def _too_long(problem: ValueError) -> RequestError:
    return RequestError(Status.INVALID_ARGUMENT, "AES-GCM encrypts at most 64 GiB at once.", origin=repr(problem))

"""What liboqs does with a key: signatures by ML-DSA and encapsulation by ML-KEM.

Every call has a liboqs object of its own, for one object serves one thread; it takes four microseconds to make. The
object is given a copy of the private key, which it cleanses when it is freed.
"""

import ctypes
from collections.abc import Callable, Mapping
from types import MappingProxyType

from hsmbridge.core.algorithms import Algorithm, Scheme
from hsmbridge.core.calls import Encapsulated
from hsmbridge.core.errors import (
    DecryptionFailed,
    HsmBridgeError,
    ProviderError,
    RequestError,
    SignatureInvalid,
    Status,
)
from hsmbridge.core.key_types import Family, KeyType
from hsmbridge.core.params import SignatureParameters
from hsmbridge.providers.oqs.library import Kem, Library, Signer
from hsmbridge.providers.oqs.material import OqsKey
from hsmbridge.providers.oqs.parameter_sets import PARAMETER_SETS
from hsmbridge.providers.software.bound_key import BoundKey, public_half_only
from hsmbridge.providers.software.signature_parameters import check_parameters


class MlDsa(BoundKey):
    """ML-DSA, hedged, with the context of the parameters where the library takes one."""

    __slots__ = ("_key", "_library", "_takes_context")

    def __init__(self, library: Library, key: OqsKey, row: Algorithm) -> None:
        self._row = row
        self._library = library
        self._key = key
        with library.signer(row.name) as signer:
            self._takes_context = signer.details["supports_context_signing"] is True

    def sign(self, message: bytes, parameters: SignatureParameters) -> bytes:
        if self._key.private is None:
            raise public_half_only(self._row)
        self._check(message, parameters)
        try:
            with self._library.signer(self._row.name) as signer:
                lend(signer, self._key.private)
                if parameters.context:
                    return signer.sign_with_ctx_str(message, parameters.context)
                return signer.sign(message)
        except RuntimeError as problem:
            raise _failed("sign", problem) from problem

    def verify(self, message: bytes, signature: bytes, parameters: SignatureParameters) -> None:
        self._check(message, parameters)
        if len(signature) != self._row.output_size or not self._accepts(message, signature, parameters.context):
            raise SignatureInvalid(Status.SIGNATURE_INVALID)

    def _accepts(self, message: bytes, signature: bytes, context: bytes) -> bool:
        with self._library.signer(self._row.name) as signer:
            if context:
                return signer.verify_with_ctx_str(message, signature, context, self._key.public)
            return signer.verify(message, signature, self._key.public)

    def _check(self, message: bytes, parameters: SignatureParameters) -> None:
        if parameters.external_mu:
            raise RequestError(
                Status.NOT_SUPPORTED, "The oqs provider takes the message itself; for external_mu use a software one."
            )
        check_parameters(self._row, parameters, message, context=True)
        if parameters.context and not self._takes_context:
            raise RequestError(Status.NOT_SUPPORTED, f"This liboqs takes no context string for {self._row.name}.")


class MlKem(BoundKey):
    """ML-KEM. A ciphertext of the right length always yields a secret, the peer's or another (implicit rejection)."""

    __slots__ = ("_key", "_library", "_size")

    def __init__(self, library: Library, key: OqsKey, row: Algorithm) -> None:
        self._row = row
        self._library = library
        self._key = key
        self._size = PARAMETER_SETS[row.name].output

    def encapsulate(self) -> Encapsulated:
        try:
            with self._library.kem(self._row.name) as kem:
                ciphertext, secret = kem.encap_secret(self._key.public)
        except RuntimeError as problem:
            raise _failed("encapsulate", problem) from problem
        return Encapsulated(ciphertext, secret)

    def decapsulate(self, ciphertext: bytes) -> bytes:
        if self._key.private is None:
            raise public_half_only(self._row)
        if len(ciphertext) != self._size:
            raise DecryptionFailed(Status.DECRYPTION_FAILED)
        try:
            with self._library.kem(self._row.name) as kem:
                lend(kem, self._key.private)
                return kem.decap_secret(ciphertext)
        except RuntimeError as problem:
            raise _failed("decapsulate", problem) from problem


SCHEMES: Mapping[Scheme, Callable[[Library, OqsKey, Algorithm], BoundKey]] = MappingProxyType(
    {Scheme.ML_DSA: MlDsa, Scheme.ML_KEM: MlKem}
)


def generate(library: Library, row: KeyType) -> OqsKey:
    """A random key of a type that the library has."""
    try:
        with _maker(library, row) as maker:
            return OqsKey(row, maker.generate_keypair(), _taken(maker))
    except RuntimeError as problem:
        raise _failed("make a key", problem) from problem


def expand(library: Library, row: KeyType, seed: bytes) -> OqsKey:
    """The key of a seed (FIPS 203 section 6.1). Raises ValueError where the library cannot make one of this seed."""
    try:
        with library.kem(row.name) as kem:
            return OqsKey(row, kem.generate_keypair_seed(seed), _taken(kem))
    except RuntimeError as problem:
        raise ValueError(f"a seed that makes no key: {problem}") from problem


def lend(mechanism: Kem | Signer, private: bytearray) -> None:
    """Give a mechanism a copy of a private key, to be cleansed by it."""
    mechanism.secret_key = (ctypes.c_char * len(private)).from_buffer_copy(private)


def _maker(library: Library, row: KeyType) -> Kem | Signer:
    return library.kem(row.name) if row.family is Family.ML_KEM else library.signer(row.name)


def _taken(mechanism: Kem | Signer) -> bytearray:
    # Not export_secret_key: that makes a bytes object, which nobody can overwrite.
    return bytearray(memoryview(mechanism.secret_key).cast("B"))


def _failed(what: str, problem: RuntimeError) -> HsmBridgeError:
    return ProviderError(Status.PROVIDER_FAILED, f"liboqs could not {what}.", origin=repr(problem))

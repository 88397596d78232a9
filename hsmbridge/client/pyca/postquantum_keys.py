"""Module lattice keys of the service: ML-DSA (FIPS 204) and ML-KEM (FIPS 203)."""

from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric import mldsa, mlkem

from hsmbridge.client.calls import Buffer, octets
from hsmbridge.client.key_use import KeyUse
from hsmbridge.client.keys import Key
from hsmbridge.client.pyca.calls import ServiceCalls, stays_in_the_service
from hsmbridge.core.errors import DecryptionFailed
from hsmbridge.core.key_types import KeyType
from hsmbridge.core.params import SignatureParameters

_MU = SignatureParameters(external_mu=True)


class _SeedStays(ServiceCalls):
    def private_bytes_raw(self) -> NoReturn:
        raise stays_in_the_service()


class _MlDsa(_SeedStays):
    def sign(self, data: Buffer, context: Buffer | None = None) -> bytes:
        parameters = SignatureParameters(context=octets(context or b""))
        return self._sign(self._row.name, data, parameters)

    def sign_mu(self, mu: Buffer) -> bytes:
        return self._sign(self._row.name, mu, _MU)


class _MlKem(_SeedStays):
    def decapsulate(self, ciphertext: Buffer) -> bytes:
        """The shared secret, which leaves the service here: that is what the caller asks for.

        Raises ValueError for a ciphertext of a wrong length, as cryptography's own keys do.
        """
        try:
            return self._decapsulate(self._row.name, ciphertext)
        except DecryptionFailed:
            raise ValueError("The ciphertext does not have the length that this key takes.") from None


class ServiceMlDsa44PrivateKey(_MlDsa, mldsa.MLDSA44PrivateKey):
    """An ML-DSA-44 key that stays in the service."""

    def __init__(self, stack: KeyUse, key: Key, version: int, row: KeyType, public_key: mldsa.MLDSA44PublicKey) -> None:
        super().__init__(stack, key, version, row)
        self._public_key = public_key

    def public_key(self) -> mldsa.MLDSA44PublicKey:
        return self._public_key


class ServiceMlDsa65PrivateKey(_MlDsa, mldsa.MLDSA65PrivateKey):
    """An ML-DSA-65 key that stays in the service."""

    def __init__(self, stack: KeyUse, key: Key, version: int, row: KeyType, public_key: mldsa.MLDSA65PublicKey) -> None:
        super().__init__(stack, key, version, row)
        self._public_key = public_key

    def public_key(self) -> mldsa.MLDSA65PublicKey:
        return self._public_key


class ServiceMlDsa87PrivateKey(_MlDsa, mldsa.MLDSA87PrivateKey):
    """An ML-DSA-87 key that stays in the service."""

    def __init__(self, stack: KeyUse, key: Key, version: int, row: KeyType, public_key: mldsa.MLDSA87PublicKey) -> None:
        super().__init__(stack, key, version, row)
        self._public_key = public_key

    def public_key(self) -> mldsa.MLDSA87PublicKey:
        return self._public_key


class ServiceMlKem768PrivateKey(_MlKem, mlkem.MLKEM768PrivateKey):
    """An ML-KEM-768 key that stays in the service."""

    def __init__(
        self, stack: KeyUse, key: Key, version: int, row: KeyType, public_key: mlkem.MLKEM768PublicKey
    ) -> None:
        super().__init__(stack, key, version, row)
        self._public_key = public_key

    def public_key(self) -> mlkem.MLKEM768PublicKey:
        return self._public_key


class ServiceMlKem1024PrivateKey(_MlKem, mlkem.MLKEM1024PrivateKey):
    """An ML-KEM-1024 key that stays in the service."""

    def __init__(
        self, stack: KeyUse, key: Key, version: int, row: KeyType, public_key: mlkem.MLKEM1024PublicKey
    ) -> None:
        super().__init__(stack, key, version, row)
        self._public_key = public_key

    def public_key(self) -> mlkem.MLKEM1024PublicKey:
        return self._public_key

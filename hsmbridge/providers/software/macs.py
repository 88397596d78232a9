"""Message authentication codes: HMAC (FIPS 198-1) and CMAC (SP 800-38B), never truncated.

The keyed state is computed once; each call works on a copy of it.
"""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hmac import HMAC

from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.errors import SignatureInvalid, Status
from hsmbridge.core.params import DEFAULT_SIGNATURE, SignatureParameters
from hsmbridge.providers.software.bound_key import BoundKey, mismatch
from hsmbridge.providers.software.digests import HASHES
from hsmbridge.providers.software.material import KeyMaterial, SecretKey
from hsmbridge.providers.software.signature_parameters import check_parameters


class _Mac(BoundKey):
    __slots__ = ("_keyed", "_secret")

    def __init__(self, material: KeyMaterial, row: Algorithm) -> None:
        super().__init__(material, row)
        if not isinstance(material, SecretKey):
            raise mismatch(row)
        self._secret = material
        self._keyed = self._start(material)

    def _start(self, secret: SecretKey) -> HMAC | CMAC:
        raise NotImplementedError

    def sign(self, message: bytes, parameters: SignatureParameters) -> bytes:
        return self._over(message, parameters).finalize()

    def verify(self, message: bytes, signature: bytes, parameters: SignatureParameters) -> None:
        try:
            self._over(message, parameters).verify(signature)
        except InvalidSignature:
            raise SignatureInvalid(Status.SIGNATURE_INVALID) from None

    def _over(self, message: bytes, parameters: SignatureParameters) -> HMAC | CMAC:
        if parameters != DEFAULT_SIGNATURE:
            check_parameters(self._row, parameters, message)
        mac = self._keyed.copy()
        mac.update(message)
        return mac


class Hmac(_Mac):
    """HMAC with the hash of the row."""

    __slots__ = ()

    def _start(self, secret: SecretKey) -> HMAC | CMAC:
        return HMAC(secret.value, HASHES[self._row.hash])


class Cmac(_Mac):
    """CMAC over AES."""

    __slots__ = ()

    def _start(self, secret: SecretKey) -> HMAC | CMAC:
        return CMAC(AES(secret.value))

"""RSA keys of the service: RSASSA-PKCS1-v1_5, RSASSA-PSS and RSAES-OAEP (RFC 8017).

Decryption with PKCS1v15 padding is for keys of slots that allow RSA-PKCS1 by name; others refuse it, for its errors
tell too much (RFC 8017 7.2).
"""

from typing import NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding as paddings
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from hsmbridge.client.key_use import KeyUse
from hsmbridge.client.keys import Key
from hsmbridge.client.pyca.calls import ServiceCalls, stays_in_the_service
from hsmbridge.client.pyca.digests import LARGEST_WHOLE_MESSAGE, Hash, digest_name, digest_of, hash_of
from hsmbridge.core.algorithms import Algorithm, Scheme
from hsmbridge.core.errors import DecryptionFailed
from hsmbridge.core.key_types import KeyType
from hsmbridge.core.params import SignatureParameters


class ServiceRsaPrivateKey(ServiceCalls, rsa.RSAPrivateKey):
    """An RSA key that stays in the service."""

    def __init__(self, stack: KeyUse, key: Key, version: int, row: KeyType, public_key: rsa.RSAPublicKey) -> None:
        super().__init__(stack, key, version, row)
        self._public_key = public_key

    @property
    def key_size(self) -> int:
        return self._public_key.key_size

    def public_key(self) -> rsa.RSAPublicKey:
        return self._public_key

    def sign(self, data: bytes, padding: paddings.AsymmetricPadding, algorithm: Hash) -> bytes:
        hash_ = hash_of(algorithm)
        salt_length: int | None = None
        match padding:
            case paddings.PKCS1v15():
                row = self._algorithm(Scheme.RSASSA_PKCS1, digest_name(hash_))
            case paddings.PSS():
                row = self._algorithm(Scheme.RSASSA_PSS, digest_name(hash_))
                salt_length = self._salt_length(padding, algorithm)
            case _:
                raise UnsupportedAlgorithm("The service signs with PKCS1v15 and PSS padding.")
        if row is None:
            raise UnsupportedAlgorithm(f"The service does not sign with RSA over {hash_.name}.")
        as_digest = isinstance(algorithm, Prehashed) or len(data) > LARGEST_WHOLE_MESSAGE
        parameters = SignatureParameters(salt_length=salt_length, digest_signing=as_digest)
        return self._sign(row.name, digest_of(data, algorithm) if as_digest else data, parameters)

    def decrypt(self, ciphertext: bytes, padding: paddings.AsymmetricPadding) -> bytes:
        """Raises ValueError where the ciphertext does not fit, as cryptography's own keys do."""
        if len(ciphertext) != (self.key_size + 7) // 8:
            raise ValueError("Ciphertext length must be equal to key size.")
        row = self._encryption_row(padding)
        try:
            return self._decrypt(row.name, ciphertext)
        except DecryptionFailed:
            raise ValueError("Decryption failed") from None

    def private_numbers(self) -> NoReturn:
        raise stays_in_the_service()

    # PSS, OAEP and MGF1 show their parameters by no other name than these; cryptography itself reads them so.

    def _salt_length(self, padding: paddings.PSS, algorithm: Hash) -> int | None:
        hash_ = hash_of(algorithm)
        if padding.mgf._algorithm.name != hash_.name:  # noqa: SLF001 - see above
            raise UnsupportedAlgorithm("The service takes PSS with one hash for the message and for MGF1.")
        match padding._salt_length:  # noqa: SLF001 - see above
            case int(length):
                return length
            case paddings.PSS.MAX_LENGTH:
                return paddings.calculate_max_pss_salt_length(self._public_key, hash_)
            case paddings.PSS.DIGEST_LENGTH:
                return None
            case _:
                raise ValueError("PSS salt length can only be set to Auto when verifying")

    def _encryption_row(self, padding: paddings.AsymmetricPadding) -> Algorithm:
        match padding:
            case paddings.OAEP():
                if padding._label:  # noqa: SLF001 - see above
                    raise UnsupportedAlgorithm("The service takes OAEP without a label.")
                if padding.algorithm.name != padding.mgf._algorithm.name:  # noqa: SLF001 - see above
                    raise UnsupportedAlgorithm("The service takes OAEP with one hash for the label and for MGF1.")
                row = self._algorithm(Scheme.RSAES_OAEP, digest_name(padding.algorithm))
            case paddings.PKCS1v15():
                row = self._algorithm(Scheme.RSAES_PKCS1)
            case _:
                row = None
        if row is None:
            raise UnsupportedAlgorithm(
                "The service decrypts with OAEP over SHA-1 and SHA-2, and with PKCS1v15 padding."
            )
        return row

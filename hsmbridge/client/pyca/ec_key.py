"""Elliptic curve keys of the service: ECDSA (FIPS 186-5) with any digest; ECDH stays in the service."""

from typing import NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hsmbridge.client.calls import Buffer
from hsmbridge.client.key_use import KeyUse
from hsmbridge.client.keys import Key
from hsmbridge.client.pyca.calls import ServiceCalls, secret_stays_in_the_service, stays_in_the_service
from hsmbridge.client.pyca.digests import LARGEST_WHOLE_MESSAGE, digest_name, digest_of, hash_of
from hsmbridge.core.algorithms import ALGORITHMS, Scheme
from hsmbridge.core.key_types import KeyType
from hsmbridge.core.params import SignatureParameters

_DIGEST = SignatureParameters(digest_signing=True)


class ServiceEcPrivateKey(ServiceCalls, ec.EllipticCurvePrivateKey):
    """An elliptic curve key that stays in the service."""

    def __init__(
        self, stack: KeyUse, key: Key, version: int, row: KeyType, public_key: ec.EllipticCurvePublicKey
    ) -> None:
        super().__init__(stack, key, version, row)
        self._public_key = public_key
        # Each curve has one ECDSA row, with the digest of its strength.
        self._ecdsa = next(one for one in ALGORITHMS.values() if one.scheme is Scheme.ECDSA and one.takes(row))

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public_key.curve

    @property
    def key_size(self) -> int:
        return self._public_key.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public_key

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        if not isinstance(signature_algorithm, ec.ECDSA):
            raise UnsupportedAlgorithm("The service signs with ECDSA.")
        if signature_algorithm.deterministic_signing:
            raise UnsupportedAlgorithm("Whether an ECDSA signature is deterministic is the provider's own choice.")
        algorithm = signature_algorithm.algorithm
        hash_of(algorithm)
        whole = isinstance(algorithm, hashes.HashAlgorithm) and digest_name(algorithm) == self._ecdsa.hash
        if whole and len(data) <= LARGEST_WHOLE_MESSAGE:
            return self._sign(self._ecdsa.name, data)
        return self._sign(self._ecdsa.name, self._fitted(digest_of(data, algorithm)), _DIGEST)

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        raise secret_stays_in_the_service()

    def private_numbers(self) -> NoReturn:
        raise stays_in_the_service()

    def _fitted(self, digest: bytes) -> bytes:
        """The digest in the length of the row's own one, for the same signature.

        ECDSA signs an integer: the leftmost bits of the digest, as many as the order has (FIPS 186-5 section 6.4.1).
        So a longer digest may be cut to them, and zeros may stand before a shorter one.
        """
        size = ALGORITHMS[self._ecdsa.hash].output_size
        return digest[:size].rjust(size, b"\0")

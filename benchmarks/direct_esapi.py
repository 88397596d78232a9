"""What a program does that uses a TPM by itself, through tpm2-pytss: one ESAPI connection, the key loaded once.

Templates and structures are those of our provider, made beforehand; what is timed is the command, and around it what
any program has to do: hash what it signs, and read the answer.
"""

import hashlib

from cryptography.hazmat.primitives.asymmetric import ec
from tpm2_pytss import ESAPI
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG
from tpm2_pytss.types import TPM2B_DIGEST, TPM2B_SENSITIVE_CREATE

from benchmarks.workload import NoDirectCall, Operation, payload
from hsmbridge.core.algorithms import PERMISSION_FOR, Algorithm, KeyOperation, Kind, Scheme
from hsmbridge.core.key_types import KeyType
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.tpm.schemes import DECRYPTION_SCHEMES, NO_TICKET, SIGNATURE_SCHEMES, hash_id, point_to_tpm
from hsmbridge.providers.tpm.templates import public_template

_CURVES = {"EC-P256": ec.SECP256R1(), "EC-P384": ec.SECP384R1(), "EC-P521": ec.SECP521R1()}
_HASHES = {"SHA-1": "sha1", "SHA-256": "sha256", "SHA-384": "sha384", "SHA-512": "sha512"}
_USES = {
    Kind.SIGNATURE: P.SIGN | P.VERIFY,
    Kind.MAC: P.SIGN | P.VERIFY,
    Kind.CIPHER: P.ENCRYPT | P.DECRYPT,
    Kind.PUBLIC_KEY_ENCRYPTION: P.ENCRYPT | P.DECRYPT,
    Kind.KEY_AGREEMENT: PERMISSION_FOR[KeyOperation.AGREE],
}


class Tpm:
    """A TPM that nobody else uses. It holds three objects, so one key is loaded at a time."""

    def __init__(self, tcti: str) -> None:
        self._esapi = ESAPI(tcti)
        self._parent, *_ = self._esapi.create_primary(None, "ecc")
        self._loaded: tuple[tuple[str, P], ESYS_TR] | None = None

    def close(self) -> None:
        """End the connection."""
        self._esapi.close()

    def random(self) -> bytes:
        """One random byte."""
        return bytes(self._esapi.get_random(1))

    def operation(self, row: Algorithm, key_type: KeyType | None, operation: KeyOperation) -> Operation:
        if row.kind is Kind.DIGEST:
            data, hash_ = payload(row), row.tpm_alg
            return lambda: bytes(self._esapi.hash(data, hash_, ESYS_TR.RH_NULL)[0])
        if key_type is None or row.kind not in _USES:
            raise NoDirectCall(f"a TPM has no {row.scheme}")
        key = self._key(key_type, _USES[row.kind])
        if row.kind is Kind.SIGNATURE:
            return self._signature(row, key, operation)
        if row.kind is Kind.MAC:
            return self._mac(row, key)
        if row.kind is Kind.KEY_AGREEMENT:
            return self._agreement(key_type, key)
        return self._cfb(row, key, operation) if row.scheme is Scheme.CFB else self._oaep(row, key, operation)

    def _key(self, key_type: KeyType, uses: P) -> ESYS_TR:
        if self._loaded is not None:
            wanted, loaded = self._loaded
            if wanted == (key_type.name, uses):
                return loaded
            self._esapi.flush_context(loaded)
        template = public_template(key_type, uses, b"")
        private, public, *_ = self._esapi.create(self._parent, TPM2B_SENSITIVE_CREATE(), template)
        loaded = self._esapi.load(self._parent, private, public)
        self._loaded = ((key_type.name, uses), loaded)
        return loaded

    def _signature(self, row: Algorithm, key: ESYS_TR, operation: KeyOperation) -> Operation:
        esapi, message, scheme, hash_ = self._esapi, payload(row), SIGNATURE_SCHEMES[row.name], _HASHES[row.hash]

        def digest() -> TPM2B_DIGEST:
            return TPM2B_DIGEST(hashlib.new(hash_, message).digest())

        if operation is KeyOperation.SIGN:
            return lambda: bytes(esapi.sign(key, digest(), scheme, NO_TICKET))
        signature = esapi.sign(key, digest(), scheme, NO_TICKET)
        return lambda: esapi.verify_signature(key, digest(), signature)

    def _mac(self, row: Algorithm, key: ESYS_TR) -> Operation:
        esapi, data, hash_ = self._esapi, payload(row), hash_id(row)
        return lambda: bytes(esapi.hmac(key, data, hash_))

    def _agreement(self, key_type: KeyType, key: ESYS_TR) -> Operation:
        esapi, curve = self._esapi, _CURVES[key_type.name]
        numbers = ec.generate_private_key(curve).public_key().public_numbers()
        point = point_to_tpm(numbers.x, numbers.y, (curve.key_size + 7) // 8)
        return lambda: esapi.ecdh_zgen(key, point)

    def _cfb(self, row: Algorithm, key: ESYS_TR, operation: KeyOperation) -> Operation:
        esapi, data, iv, back = self._esapi, payload(row), bytes(row.nonce_size), operation is KeyOperation.DECRYPT
        return lambda: bytes(esapi.encrypt_decrypt_2(key, back, TPM2_ALG.CFB, iv, data)[0])

    def _oaep(self, row: Algorithm, key: ESYS_TR, operation: KeyOperation) -> Operation:
        esapi, data, scheme = self._esapi, payload(row), DECRYPTION_SCHEMES[row.name]
        if operation is KeyOperation.ENCRYPT:
            return lambda: bytes(esapi.rsa_encrypt(key, data, scheme))
        sealed = bytes(esapi.rsa_encrypt(key, data, scheme))
        return lambda: bytes(esapi.rsa_decrypt(key, sealed, scheme))
